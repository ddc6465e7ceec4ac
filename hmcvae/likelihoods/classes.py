"""Classes 0 … K - 1."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hmcvae._checks import check_count
from hmcvae.likelihoods.base import Likelihood, check_shape_with_last, check_whole, independent


def categorical(num_classes: int) -> Likelihood:
    """Independent classes x in 0 … K - 1 with logits f [..., K]: log p = Σ f_x - log Σ_k exp f_k.

    Outputs have x's shape and a last axis of K. `mean` gives the probabilities, [..., K].
    In ℓ = log softmax(f), which stand for the same distribution, the Fisher information is diagonal:
    Σ_k π_k (∂ℓ_k)(∂ℓ_k)ᵀ, so G is built on ℓ with the weights w = π, exact.

    Raises:
        ValueError: unless num_classes is a whole number of at least 2.
    """
    num_classes = check_count("num_classes", num_classes, 2)

    def terms(logits: Float[Array, "... K"], x: Any) -> Float[Array, "..."]:
        log_probs = jax.nn.log_softmax(logits)
        index = jnp.asarray(x).astype(jnp.int32)[..., None]
        return jnp.take_along_axis(log_probs, index, axis=-1)[..., 0]

    def sample(rng_key: Any, logits: Float[Array, "... K"]) -> Array:
        return jax.random.categorical(rng_key, logits)

    return independent(
        terms,
        jax.nn.softmax,
        sample,
        jax.nn.softmax,
        num_classes,
        "categorical",
        check=partial(check_whole, num_classes=num_classes),
        check_outputs=check_shape_with_last(num_classes),
        unpack=lambda raw: raw,
        diagonalise=jax.nn.log_softmax,
    )
