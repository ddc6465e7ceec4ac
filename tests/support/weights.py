"""A model whose p(x) is known, and the weights of bounds on it."""

import jax
import jax.numpy as jnp
import numpy as np

import hmcvae
from hmcvae import bounds
from hmcvae.priors import gaussian_log_prob
from tests.support import models

VAE, PARAMS = models.linear_gaussian()
X = jnp.array([0.4, -0.7, 1.1])
NUM_DRAWS = 40_000


def _encode(p: dict, x: jax.Array):
    """As the plain model's, with a scale fit for whitened coordinates: of the order of one."""
    mean, log_scale, features = VAE.encode(p, x)
    return mean, 0.1 + 0.1 * log_scale, features


WHITE = hmcvae.VAE(_encode, VAE.decode, VAE.likelihood, models.LATENT)


def perturbed(bound: bounds.Bound, seed: int = 5) -> dict:
    """Parameters away from the symmetric start: unequal masses, steps, reverse models."""
    own = bound.init(jax.random.key(seed))
    leaves, tree = jax.tree.flatten(own)
    keys = jax.random.split(jax.random.key(seed + 1), max(1, len(leaves)))
    scale = 0.02 if bound.name == "markov_chain" else 0.1
    moved = [leaf + scale * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=False)]
    return {"vae": PARAMS, "bound": jax.tree.unflatten(tree, moved)}


def draws(bound: bounds.Bound, params: dict, seed: int = 11, count: int = NUM_DRAWS) -> np.ndarray:
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: bound(params, key, X)[0]))(keys))


def log_q(z: jax.Array) -> jax.Array:
    """log q(z | x) of the encoder's Gaussian."""
    example = VAE.encoded(PARAMS, X)
    return gaussian_log_prob(z, example.mean, example.log_scale)


def assert_unbiased(log_weights: np.ndarray) -> None:
    """E[exp L] = p(x) within 4 standard errors, and those are small enough to see 5 %."""
    ratio = np.exp(log_weights - float(models.log_evidence(PARAMS, X)))
    error = ratio.std() / np.sqrt(len(ratio))
    assert error < 0.03, error
    assert abs(ratio.mean() - 1) < 4 * error, (ratio.mean(), error)
    assert log_weights.mean() < float(models.log_evidence(PARAMS, X))
