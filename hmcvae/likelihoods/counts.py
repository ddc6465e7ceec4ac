"""Counts 0, 1, 2, …"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln, zeta
from jaxtyping import Array, Float

from hmcvae._checks import check_positive
from hmcvae.likelihoods.base import Likelihood, Pixels, check_whole, independent
from hmcvae.types import ArrayLike, PyTree

# Above, Stirling's series to three terms has more digits than a difference of two log Γ, even in double precision.
LARGE = 20.0


def poisson() -> Likelihood:
    """Independent Poisson counts with log rates f: log p = Σ x f - exp f - log x!. Fisher weights: w = exp f, exact."""

    def terms(log_rate: Pixels, x: Any) -> Pixels:
        x = jnp.asarray(x).astype(log_rate.dtype)
        return x * log_rate - jnp.exp(log_rate) - gammaln(x + 1)

    def sample(rng_key: Any, log_rate: Pixels) -> Pixels:
        return jax.random.poisson(rng_key, jnp.exp(log_rate)).astype(log_rate.dtype)

    return independent(terms, jnp.exp, sample, jnp.exp, 1, "poisson", check=check_whole)


def negative_binomial(dispersion: ArrayLike | None = None) -> Likelihood:
    """Independent counts of mean μ = exp f and variance μ + μ²/r: Poisson counts whose rates are drawn from a Gamma.

        log p = Σ log Γ(x + r) - log Γ(r) - log x! + r log(r / (r + μ)) + x log(μ / (r + μ))

    With a fixed dispersion r, outputs are f, and r broadcasts against them. Learned (None): outputs are the pair
    (f, log r), each shaped like x. As r grows this is the Poisson distribution.
    Fisher weights: of f, μ r / (r + μ), exact. f and log r are orthogonal (Lawless 1987). That of log r is

        r² [ψ'(r) - E ψ'(r + x) - 1/r + 1/(r + μ)],     E ψ'(r + x) ≥ p ψ'(r) + (1 - p) ψ'(r + μ / (1 - p)),

    with p = P(x = 0) (Jensen, given x > 0). The right-hand side takes the place of the left, so the weight is an upper
    bound; it is near where counts are mostly large or mostly 0.

    Raises:
        ValueError: if dispersion is not finite and positive.
    """
    dispersion = check_positive("dispersion", dispersion, optional=True, is_array=True)

    def split(outputs: PyTree) -> tuple[Pixels, Pixels]:
        if dispersion is None:
            if not isinstance(outputs, (tuple, list)) or len(outputs) != 2:
                raise ValueError(
                    "with a learned dispersion the decoder's outputs are the pair (log mean, log dispersion), got "
                    f"{type(outputs).__name__}; for one array give negative_binomial(dispersion)"
                )
            return outputs[0], outputs[1]
        return outputs, jnp.broadcast_to(jnp.log(jnp.asarray(dispersion, outputs.dtype)), outputs.shape)

    def terms(outputs: PyTree, x: Any) -> Pixels:
        log_mean, log_r = split(outputs)
        x = jnp.asarray(x).astype(log_mean.dtype)
        return _log_ratio(x, log_mean, log_r) - gammaln(x + 1)

    def mean(outputs: PyTree) -> Pixels:
        return jnp.exp(split(outputs)[0])

    def sample(rng_key: Any, outputs: PyTree) -> Pixels:
        log_mean, log_r = split(outputs)
        rate_key, count_key = jax.random.split(rng_key)
        # log Gamma(r): for small r most rates are below the smallest number.
        log_rate = jax.random.loggamma(rate_key, jnp.exp(log_r)) + log_mean - log_r
        return jax.random.poisson(count_key, jnp.exp(log_rate)).astype(log_mean.dtype)

    def fisher_weights(outputs: PyTree) -> PyTree:
        log_mean, log_r = split(outputs)
        of_mean = jnp.exp(log_mean + log_r - jnp.logaddexp(log_mean, log_r))
        if dispersion is not None:
            return of_mean
        return of_mean, _weight_of_dispersion(log_mean, log_r)

    num_outputs = 1 if dispersion is not None else 2
    return independent(
        terms, mean, sample, fisher_weights, num_outputs, "negative_binomial", check=check_whole
    )


def _log_ratio(x: Pixels, log_mean: Pixels, log_r: Pixels) -> Float[Array, "..."]:
    """log [Γ(x + r) / Γ(r)] + r log(r / (r + μ)) + x log(μ / (r + μ)).

    For large r both halves are large and nearly cancel. With Stirling's series they are

        (r + x - ½) log(1 + x/r) - x + c(r + x) - c(r) + x log μ - (r + x) log(1 + μ/r).
    """
    log_r = _limited(log_r)
    is_large = log_r > jnp.log(jnp.asarray(LARGE, log_r.dtype))
    # Each branch is given arguments that it can take: the other's derivative would come through `where` as NaN.
    small_log_r = jnp.where(is_large, 0.0, log_r)
    r = jnp.exp(small_log_r)
    near = gammaln(x + r) - gammaln(r)
    near = near - r * jax.nn.softplus(log_mean - small_log_r) - x * jax.nn.softplus(small_log_r - log_mean)
    large_log_r = jnp.where(is_large, log_r, jnp.log(jnp.asarray(LARGE, log_r.dtype)))
    r = jnp.exp(large_log_r)
    far = (r + x - 0.5) * jnp.log1p(x * jnp.exp(-large_log_r)) - x + _stirling(r + x) - _stirling(r)
    far = far + x * log_mean - (r + x) * jax.nn.softplus(log_mean - large_log_r)
    return jnp.where(is_large, far, near)


def _weight_of_dispersion(log_mean: Pixels, log_r: Pixels) -> Float[Array, "..."]:
    """With h(t) = t² [ψ'(t) - 1/t] and t = r + μ / (1 - p):

    (1 - p) [h(r) - (r/t)² h(t)] - r μ² p / ((1 - p) t (r + μ))
    """
    tiny = jnp.finfo(log_r.dtype).tiny
    log_r, log_mean = _limited(log_r), _limited(log_mean)
    r, mean = jnp.exp(log_r), jnp.exp(log_mean)
    log_p = -r * jax.nn.softplus(log_mean - log_r)
    positive = jnp.maximum(-jnp.expm1(log_p), tiny)
    mean_of_positive = mean / positive
    t = r + mean_of_positive
    first = positive * (_scaled_trigamma(r) - (r / t) ** 2 * _scaled_trigamma(t))
    second = (r / t) * (mean / (r + mean)) * mean_of_positive * jnp.exp(log_p)
    return jnp.maximum(first - second, 0)


def _limited(log_value: Pixels) -> Pixels:
    """Within what exp and its square hold in single precision; the distribution's limits are long reached there."""
    return jnp.clip(log_value, -40.0, 40.0)


def _stirling(t: Pixels) -> Pixels:
    """log Γ(t) - (t - ½) log t + t - ½ log 2π, for large t."""
    inverse = 1 / t
    return inverse * (1 / 12 - inverse**2 * (1 / 360 - inverse**2 / 1260))


def _scaled_trigamma(t: Pixels) -> Pixels:
    """t² [ψ'(t) - 1/t], from 1 at 0 to ½ at infinity."""
    is_large = t > LARGE
    small, inverse = jnp.where(is_large, 1.0, t), 1 / jnp.where(is_large, t, LARGE)
    # ψ'(t) = ζ(2, t) = 1/t² + ζ(2, 1 + t), which has no pole.
    near = 1 - small + small**2 * zeta(jnp.full_like(small, 2.0), 1 + small)
    far = 0.5 + inverse * (1 / 6 - inverse**2 / 30)
    return jnp.where(is_large, far, near)
