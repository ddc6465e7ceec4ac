"""Likelihoods p(x | z) as functions of the decoder's output.

A likelihood is four functions of `outputs`, the decoder's output at one z:

    log_prob(outputs, x)      log p(x | z) in nats, summed over all pixels: a scalar
    mean(outputs)             E[x | z], shaped like x
    sample(rng_key, outputs)  x ~ p(x | z)
    fisher_weights(outputs)   w(f): the diagonal of the Fisher information with respect to the outputs, one weight an
                              output, so that G(z) = Jᵀ diag(w) J + Λ with J = ∂f/∂z

Pixels x are real numbers in [0, 1].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hmcvae._checks import check_positive
from hmcvae.types import ArrayLike, PyTree

Pixels = Float[Array, "..."]


class Likelihood(NamedTuple):
    """See the module's docstring. `num_outputs` is how many numbers the decoder gives for each pixel."""

    log_prob: Callable[[PyTree, Pixels], Float[Array, ""]]
    mean: Callable[[PyTree], Pixels]
    sample: Callable[[Any, PyTree], Pixels]
    fisher_weights: Callable[[PyTree], PyTree]
    num_outputs: int
    name: str


def bernoulli() -> Likelihood:
    """Independent bits with logits f: log p = Σ x f - log(1 + exp f).

    The expression is also defined for grey values x in [0, 1], where it is the cross-entropy and no density.
    Fisher weights: w = σ(f) σ(-f), exact.
    """

    def log_prob(logits: Pixels, x: Pixels) -> Float[Array, ""]:
        return jnp.sum(x * logits - jax.nn.softplus(logits))

    def sample(rng_key: Any, logits: Pixels) -> Pixels:
        uniform = jax.random.uniform(rng_key, logits.shape, logits.dtype)
        return (uniform < jax.nn.sigmoid(logits)).astype(logits.dtype)

    def fisher_weights(logits: Pixels) -> Pixels:
        return jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)

    return Likelihood(log_prob, jax.nn.sigmoid, sample, fisher_weights, 1, "bernoulli")


def gaussian(scale: ArrayLike | None = None, *, min_scale: float = 0.0) -> Likelihood:
    """Independent normals, x ~ N(m, s²), with a fixed scale s or, by default, a learned one.

    Fixed: outputs are the means m, and `scale` broadcasts against them; w = 1/s².
    Learned: outputs are the pair (m, l), each shaped like x, and s² = e^{2l} + min_scale²; w = (1/s², 2 (e^l/s)⁴),
    exact. At min_scale = 0, l is log s, and a pixel that is the same in all images (a border) has a likelihood
    without an upper bound: give a min_scale where there are such.

    Raises:
        ValueError: if `scale` is not finite and positive, or min_scale is negative, or given beside a fixed scale.
    """
    scale = check_positive("scale", scale, optional=True)
    if not 0 <= min_scale < float("inf") or (min_scale and scale is not None):
        raise ValueError(f"min_scale must be 0, or positive for a learned scale, got {min_scale!r}")
    half_log_2pi = 0.5 * float(np.log(2 * np.pi))

    def split(outputs: PyTree) -> tuple[Pixels, Pixels]:
        if scale is None:
            mean, raw = outputs
            return mean, raw if min_scale == 0 else 0.5 * jnp.logaddexp(2 * raw, 2 * float(np.log(min_scale)))
        return outputs, jnp.broadcast_to(jnp.log(jnp.asarray(scale, outputs.dtype)), outputs.shape)

    def log_prob(outputs: PyTree, x: Pixels) -> Float[Array, ""]:
        mean, log_scale = split(outputs)
        residual = (x - mean) * jnp.exp(-log_scale)
        return -jnp.sum(0.5 * residual**2 + log_scale + half_log_2pi)

    def mean(outputs: PyTree) -> Pixels:
        return split(outputs)[0]

    def sample(rng_key: Any, outputs: PyTree) -> Pixels:
        mean, log_scale = split(outputs)
        return mean + jnp.exp(log_scale) * jax.random.normal(rng_key, mean.shape, mean.dtype)

    def fisher_weights(outputs: PyTree) -> PyTree:
        _, log_scale = split(outputs)
        precision = jnp.exp(-2 * log_scale)
        if scale is not None:
            return precision
        return precision, 2 * jnp.exp(4 * (outputs[1] - log_scale))

    return Likelihood(log_prob, mean, sample, fisher_weights, 2 if scale is None else 1, "gaussian")


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
    if not isinstance(num_levels, int) or num_levels < 2:
        raise ValueError(f"num_levels must be a whole number of at least 2, got {num_levels!r}")
    half_bin = 0.5 / (num_levels - 1)
    # At h/s = e⁴ a bin holds all of a density that is centred in it; the floor keeps 1/s finite.
    lowest = float(np.log(half_bin)) - 4.0

    def log_prob(outputs: PyTree, x: Pixels) -> Float[Array, ""]:
        mean, log_scale = outputs
        inverse_scale = jnp.exp(-jnp.maximum(log_scale, lowest))
        upper = (x + half_bin - mean) * inverse_scale
        lower = (x - half_bin - mean) * inverse_scale
        # log[σ(u) - σ(l)] = log σ(u) + log σ(-l) + log[1 - exp(-(u - l))]: no cancellation in either tail.
        inside = -jax.nn.softplus(-upper) - jax.nn.softplus(lower)
        inside = inside + jnp.log(-jnp.expm1(-2 * half_bin * inverse_scale))
        first, last = x <= half_bin, x >= 1 - half_bin
        log_mass = jnp.where(
            first, -jax.nn.softplus(-upper), jnp.where(last, -jax.nn.softplus(lower), inside)
        )
        return jnp.sum(log_mass)

    def mean(outputs: PyTree) -> Pixels:
        return jnp.clip(outputs[0], 0.0, 1.0)

    def sample(rng_key: Any, outputs: PyTree) -> Pixels:
        location, log_scale = outputs
        noise = jax.random.logistic(rng_key, location.shape, location.dtype)
        x = location + jnp.exp(jnp.maximum(log_scale, lowest)) * noise
        return jnp.clip(jnp.round(x * (num_levels - 1)), 0, num_levels - 1) / (num_levels - 1)

    def fisher_weights(outputs: PyTree) -> PyTree:
        log_scale = jnp.maximum(outputs[1], lowest)
        # Below the floor the likelihood does not depend on the scale.
        of_scale = jnp.where(outputs[1] > lowest, (3 + np.pi**2) / 9, 0.0).astype(log_scale.dtype)
        return jnp.exp(-2 * log_scale) / 3, of_scale

    return Likelihood(log_prob, mean, sample, fisher_weights, 2, "discretised_logistic")
