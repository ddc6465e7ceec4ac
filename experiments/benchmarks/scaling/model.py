"""The trainings that are timed."""

from typing import Any

import jax
import numpy as np
import optax

from hmcvae import bounds, likelihoods, networks, training
from hmcvae.bounds import Bound

PIXELS = training.Pixels(255, binarize=True)
OPTIMIZER = optax.adam(1e-3)


def model(
    shape: tuple[int, int, int], hidden: int, latent_dim: int, num_steps: int | None
) -> tuple[Bound, Any]:
    """(bound, params): of a VAE, or with num_steps of HVI with so many leapfrog steps."""
    vae, init_params, num_features = networks.build_vae(
        shape, latent_dim, likelihoods.bernoulli(), hidden=(hidden, hidden)
    )
    bound = bounds.elbo(vae)
    if num_steps is not None:
        reverse = networks.reverse_model(num_features, latent_dim)
        bound = bounds.hvi(vae, num_steps=num_steps, reverse=reverse)
    keys = jax.random.split(jax.random.key(0))
    return bound, {"vae": init_params(keys[0]), "bound": bound.init(keys[1])}


def pixels(count: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Images of noise: what they show does not matter to the rate."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
