"""Levels 0, 1/(n - 1), …, 1: pixels of 8-bit colours."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hmcvae._checks import check_count
from hmcvae._softplus import softplus
from hmcvae.likelihoods.base import Likelihood, Pixels, check_shape_with_last, check_unit, independent, refuse
from hmcvae.likelihoods.real import unpack_location_and_scale
from hmcvae.types import PyTree

# Of the continuous logistic: the Fisher information about log s.
INFORMATION_OF_LOG_SCALE = (3 + np.pi**2) / 9


def discretised_logistic(num_levels: int = 256) -> Likelihood:
    """8-bit colours: the mass of a logistic density in each of `num_levels` bins (Kingma et al. 2016).

    Pixels are k / (num_levels - 1). With h = ½ / (num_levels - 1), location m and scale s,

        P(x) = σ((x + h - m)/s) - σ((x - h - m)/s),

    and the first and the last bin reach to -∞ and +∞, so the probabilities of all levels sum to one.
    Outputs are the pair (m, log s), each shaped like x. In nats; bits per dimension = -log P / (log 2 · pixels).
    `mean` gives m clipped to [0, 1], the mean itself where s is small against the distance to the ends.
    Fisher weights are those of the continuous logistic, (1/(3 s²), (3 + π²)/9), the limit of bins narrow against s
    and an upper bound on the information that the binned pixel keeps.

    Raises:
        ValueError: unless num_levels is a whole number of at least 2.
    """
    num_levels = check_count("num_levels", num_levels, 2)
    lowest = _lowest_log_scale(num_levels)

    def terms(outputs: PyTree, x: Pixels) -> Pixels:
        return _log_mass(outputs[0], outputs[1], x, num_levels)

    def mean(outputs: PyTree) -> Pixels:
        return jnp.clip(outputs[0], 0.0, 1.0)

    def sample(rng_key: Any, outputs: PyTree) -> Pixels:
        return _sample(rng_key, outputs[0], outputs[1], num_levels)

    def fisher_weights(outputs: PyTree) -> PyTree:
        return _weights(outputs[1], lowest)

    return independent(
        terms,
        mean,
        sample,
        fisher_weights,
        2,
        "discretised_logistic",
        check=partial(_check_levels, num_levels=num_levels),
        unpack=unpack_location_and_scale,
    )


def discretised_logistic_mixture(num_components: int, num_levels: int = 256) -> Likelihood:
    """A mixture of `discretised_logistic` with K components for each entry of x (Salimans, Karpathy, Chen & Kingma
    2017, equation 2; without their links between the colours of a pixel):

        P(x) = Σ_k π_k P_k(x)

    Outputs are the triple (logits of π, m, log s), each with x's shape and a last axis of K. `mean` gives Σ_k π_k m_k
    with m_k clipped to [0, 1]. The Fisher weights are those of x together with the component that it came from, in
    log π: (π, π/(3 s²), π (3 + π²)/9), an upper bound on the information of x alone, met where components lie apart.

    Raises:
        ValueError: unless num_components is a whole number of at least 1, and num_levels of at least 2.
    """
    num_components = check_count("num_components", num_components, 1)
    num_levels = check_count("num_levels", num_levels, 2)
    lowest = _lowest_log_scale(num_levels)

    def terms(outputs: PyTree, x: Pixels) -> Pixels:
        logits, location, log_scale = outputs
        levels = jnp.broadcast_to(x[..., None], location.shape)
        log_mass = _log_mass(location, log_scale, levels, num_levels)
        return jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_mass, axis=-1)

    def mean(outputs: PyTree) -> Pixels:
        logits, location, _ = outputs
        return jnp.sum(jax.nn.softmax(logits) * jnp.clip(location, 0.0, 1.0), axis=-1)

    def sample(rng_key: Any, outputs: PyTree) -> Pixels:
        component_key, level_key = jax.random.split(rng_key)
        logits, location, log_scale = outputs
        component = jax.random.categorical(component_key, logits)[..., None]
        location, log_scale = (
            jnp.take_along_axis(values, component, axis=-1)[..., 0] for values in (location, log_scale)
        )
        return _sample(level_key, location, log_scale, num_levels)

    def fisher_weights(outputs: PyTree) -> PyTree:
        logits, _, log_scale = outputs
        probs = jax.nn.softmax(logits)
        return probs, *(probs * weight for weight in _weights(log_scale, lowest))

    def unpack(raw: Float[Array, "... k"]) -> tuple[Array, Array, Array]:
        logits, location, log_scale = jnp.split(raw, 3, axis=-1)
        spread = (jnp.arange(num_components, dtype=raw.dtype) + 0.5) / num_components
        return logits, location + jnp.broadcast_to(spread, location.shape), log_scale - 2.0

    return independent(
        terms,
        mean,
        sample,
        fisher_weights,
        3 * num_components,
        "discretised_logistic_mixture",
        check=partial(_check_levels, num_levels=num_levels),
        check_outputs=check_shape_with_last(num_components),
        unpack=unpack,
        diagonalise=lambda outputs: (jax.nn.log_softmax(outputs[0]), *outputs[1:]),
    )


def _lowest_log_scale(num_levels: int) -> float:
    # At h/s = e⁴ a bin holds all of a density that is centred in it; the floor keeps 1/s finite.
    return float(np.log(0.5 / (num_levels - 1))) - 4.0


# At a scale of e⁴⁰ the ends have a half each. Of e⁸⁹ single precision has no inverse.
_HIGHEST_LOG_SCALE = 40.0


def _log_mass(location: Pixels, log_scale: Pixels, x: Pixels, num_levels: int) -> Pixels:
    half_bin = 0.5 / (num_levels - 1)
    log_scale = jnp.maximum(log_scale, _lowest_log_scale(num_levels))
    # Of wider ones, log P of the levels between the ends falls by what log s rises.
    is_wide = log_scale > _HIGHEST_LOG_SCALE
    excess = jnp.where(is_wide, log_scale - _HIGHEST_LOG_SCALE, 0)
    inverse_scale = jnp.exp(-jnp.where(is_wide, _HIGHEST_LOG_SCALE, log_scale))
    upper = (x + half_bin - location) * inverse_scale
    lower = (x - half_bin - location) * inverse_scale
    # log[σ(u) - σ(l)] = log σ(u) + log σ(-l) + log[1 - exp(-(u - l))]: no cancellation in either tail.
    inside = -softplus(-upper) - softplus(lower)
    inside = inside + jnp.log(-jnp.expm1(-2 * half_bin * inverse_scale)) - excess
    first, last = x <= half_bin, x >= 1 - half_bin
    return jnp.where(first, -softplus(-upper), jnp.where(last, -softplus(lower), inside))


def _sample(rng_key: Any, location: Pixels, log_scale: Pixels, num_levels: int) -> Pixels:
    noise = jax.random.logistic(rng_key, location.shape, location.dtype)
    scale = jnp.exp(jnp.clip(log_scale, _lowest_log_scale(num_levels), _HIGHEST_LOG_SCALE))
    x = location + scale * noise
    return jnp.clip(jnp.round(x * (num_levels - 1)), 0, num_levels - 1) / (num_levels - 1)


def _weights(log_scale: Pixels, lowest: float) -> tuple[Pixels, Pixels]:
    limited = jnp.clip(log_scale, lowest, _HIGHEST_LOG_SCALE)
    # Below the floor the likelihood does not depend on the scale.
    of_scale = jnp.where(log_scale > lowest, INFORMATION_OF_LOG_SCALE, 0.0).astype(limited.dtype)
    return jnp.exp(-2 * limited) / 3, of_scale


def _check_levels(x: np.ndarray, num_levels: int) -> None:
    check_unit(x)
    # Rounding of x itself, times the levels; in half precision levels this close cannot be told apart.
    precision = float(jnp.finfo(x.dtype).eps) if jnp.issubdtype(x.dtype, jnp.floating) else 0.0
    levels = x.astype(np.promote_types(x.dtype, np.float32)) * (num_levels - 1)
    bad = np.abs(levels - np.rint(levels)) > 1e-3 + 2 * (num_levels - 1) * precision
    refuse(x, bad, f"multiples of 1/{num_levels - 1} in [0, 1], the {num_levels} levels of a pixel")
