"""Counts 0, 1, 2, …"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import zeta
from jaxtyping import Array, Float

from hmcvae._checks import check_positive, is_concrete, kind_of
from hmcvae._numerics import HALF_LOG_2PI
from hmcvae._random import normal
from hmcvae._softplus import softplus
from hmcvae.likelihoods._deviance import log1p_gap, log_ratio, stirling_error
from hmcvae.likelihoods.base import Likelihood, Pixels, check_whole, independent
from hmcvae.types import ArrayLike, PyTree

# Above, ψ' is taken from its series in 1/t, to three terms.
LARGE = 20.0
# Of |log r|.
LIMIT = 40.0
# Of log μ, above which a sum with μ is taken in logarithms: derivatives have the square of such a sum below them, which
# single precision holds up to e^44 from both sides.
HUGE = 40.0


def poisson() -> Likelihood:
    """Independent Poisson counts with log rates f: log p = Σ x f - exp f - log x!. Fisher weights: w = exp f, exact.

    With L(u) = u - log(1 + u), u = (λ - x)/x and S the error of Stirling's formula, it is computed for x > 0 as

        log p = -½ log(2π x) - S(x) - x L(u)

    whose terms have one sign (Loader 2000): in single precision too all digits but the last few are right.
    `sample` draws rates above 2³⁰ from the normal distribution with their mean and variance.
    """

    def terms(log_rate: Pixels, x: Any) -> Pixels:
        x = jnp.asarray(x).astype(log_rate.dtype)
        count = jnp.where(x > 0, x, 1)  # the branch of 0 must be given what it can take
        return jnp.where(x > 0, _log_poisson(log_rate, count), -jnp.exp(log_rate))

    def sample(rng_key: Any, log_rate: Pixels) -> Pixels:
        return _draw(rng_key, log_rate)

    return independent(terms, jnp.exp, sample, jnp.exp, 1, "poisson", check=check_whole)


@jax.jit
def _log_poisson(log_rate: Pixels, x: Pixels) -> Pixels:
    """Of counts x > 0."""
    log_u1 = log_ratio(log_rate, x)
    is_near = jnp.abs(log_u1) < 1
    u = jnp.where(is_near, jnp.expm1(jnp.where(is_near, log_u1, 0)), jnp.exp(log_rate) / x - 1)
    return -(HALF_LOG_2PI + 0.5 * jnp.log(x) + stirling_error(x) + x * log1p_gap(u, log_u1))


def _draw(rng_key: Any, log_rate: Pixels) -> Pixels:
    """Poisson counts. `jax.random.poisson` gives int32, and of larger rates its largest number; a Poisson distribution
    of such a rate differs from the normal one by 3e-5 of its standard deviation."""
    rate = jnp.exp(log_rate)
    is_large = rate > 2.0**30
    count = jax.random.poisson(rng_key, jnp.where(is_large, 1, rate)).astype(rate.dtype)
    noise = normal(rng_key, rate.shape, rate.dtype)
    large = jnp.where(is_large, rate, 1)
    return jnp.where(is_large, jnp.round(large + jnp.sqrt(large) * noise), count)


def negative_binomial(dispersion: ArrayLike | None = None) -> Likelihood:
    """Independent counts of mean μ = exp f and variance μ + μ²/r: Poisson counts whose rates are drawn from a Gamma.

        log p = Σ log Γ(x + r) - log Γ(r) - log x! + r log(r / (r + μ)) + x log(μ / (r + μ))

    With a fixed dispersion r, outputs are f, and r broadcasts against them. Learned (None): outputs are the pair
    (f, log r), each shaped like x. As r grows this is the Poisson distribution; r is held within e^±40. Computed as
    `poisson` is, by the saddle-point form of Loader (2000).
    Fisher weights: of f, μ r / (r + μ), exact. f and log r are orthogonal (Lawless 1987). That of log r is

        r² [ψ'(r) - E ψ'(r + x) - 1/r + 1/(r + μ)],     E ψ'(r + x) ≥ p ψ'(r) + (1 - p) ψ'(r + μ / (1 - p)),

    with p = P(x = 0) (Jensen, given x > 0). The right-hand side takes the place of the left, which makes an upper
    bound, where r is far above μ by orders of magnitude. There 1.4 r² [ψ'(r) - 1/r] (μ / (r + μ))² is less, and above
    the information by enumeration for -8 ≤ f ≤ 11, -7 ≤ log r ≤ 10. The weight is the smaller of the two, at most 2.2
    times the information there.

    Raises:
        ValueError: if dispersion is not finite and positive.
    """
    dispersion = check_positive("dispersion", dispersion, optional=True, is_array=True)

    def split(outputs: PyTree) -> tuple[Pixels, Pixels, Pixels]:
        """(f, log r, r)"""
        if dispersion is None:
            if not isinstance(outputs, (tuple, list)) or len(outputs) != 2:
                raise ValueError(
                    "with a learned dispersion the decoder's outputs are the pair (log mean, log dispersion), got "
                    f"{kind_of(outputs)}; for one array give negative_binomial(dispersion)"
                )
            log_r = _limited(outputs[1])
            return outputs[0], log_r, jnp.exp(log_r)
        r = _fixed(dispersion, outputs.dtype)
        return outputs, jnp.broadcast_to(jnp.log(r), outputs.shape), jnp.broadcast_to(r, outputs.shape)

    def terms(outputs: PyTree, x: Any) -> Pixels:
        log_mean, log_r, r = split(outputs)
        x = jnp.asarray(x).astype(log_mean.dtype)
        count = jnp.where(x > 0, x, 1)  # the branch of 0 must be given what it can take
        return jnp.where(x > 0, _log_negative_binomial(log_mean, r, count), _log_of_none(log_mean, log_r, r))

    def mean(outputs: PyTree) -> Pixels:
        return jnp.exp(split(outputs)[0])

    def sample(rng_key: Any, outputs: PyTree) -> Pixels:
        log_mean, log_r, r = split(outputs)
        rate_key, count_key = jax.random.split(rng_key)
        # log Gamma(r): for small r most rates are below the smallest number.
        log_rate = jax.random.loggamma(rate_key, r) + log_mean - log_r
        return _draw(count_key, log_rate)

    def fisher_weights(outputs: PyTree) -> PyTree:
        log_mean, log_r, _ = split(outputs)
        of_mean = jnp.exp(log_mean - softplus(log_mean - log_r))
        if dispersion is not None:
            return of_mean
        return of_mean, _weight_of_dispersion(log_mean, log_r)

    num_outputs = 1 if dispersion is not None else 2
    return independent(
        terms, mean, sample, fisher_weights, num_outputs, "negative_binomial", check=check_whole
    )


def _log_of_none(log_mean: Pixels, log_r: Pixels, r: Pixels) -> Pixels:
    """Of x = 0: -r log(1 + μ/r)."""
    is_plain = log_mean < log_r + LIMIT
    ratio = jnp.exp(jnp.where(is_plain, log_mean, log_r)) / r
    return -r * jnp.where(is_plain, jnp.log1p(ratio), log_mean - log_r)


@jax.jit
def _log_negative_binomial(log_mean: Pixels, r: Pixels, x: Pixels) -> Pixels:
    """Of counts x > 0: with ρ = (μ - x) / (r + μ),

    ½ log(r / (2π x (r + x))) + S(r + x) - S(r) - S(x) - r L(-ρ) - x L(ρ r/x)
    """
    gap = log_ratio(log_mean, x)
    # μ may overflow where it is above x, and exp(-f) where it is below. (`where`: at a tie the derivative of a maximum
    # is a half.)
    is_above = gap > 0
    is_huge = is_above & (log_mean > HUGE)
    over_mean = 1 + r * jnp.exp(-jnp.where(is_above, log_mean, 0))
    below = r + jnp.exp(jnp.where(is_above, 0, log_mean))
    rho = jnp.where(
        is_above,
        -jnp.expm1(-jnp.where(is_above, gap, 0)) / over_mean,
        x * jnp.expm1(jnp.where(is_above, 0, gap)) / below,
    )
    u = rho * (r / x)
    # log(1 - ρ) and log(1 + u), for where these are not near 1.
    total = jnp.where(is_above, over_mean * jnp.exp(jnp.where(is_above & ~is_huge, log_mean, 0)), below)
    log_rest = jnp.log((r + x) / total) - jnp.where(is_huge, log_mean, 0)
    is_low = u < -0.9
    log_u1 = jnp.where(is_low, gap + log_rest, jnp.log1p(jnp.where(is_low, 0, u)))
    of_r, of_x = log1p_gap(jnp.stack([-rho, u]), jnp.stack([log_rest, log_u1]))
    error, error_of_r, error_of_x = stirling_error(jnp.stack([r + x, r, x]))
    errors = error - error_of_r - error_of_x
    return errors - r * of_r - x * of_x - HALF_LOG_2PI - 0.5 * (jnp.log(x) + jnp.log1p(x / r))


def _fixed(dispersion: ArrayLike, dtype: Any) -> Array:
    """A fixed r in the outputs' precision, within `_limited`: of single precision 10³⁹ would be infinite."""
    if is_concrete(dispersion):
        return jnp.asarray(np.clip(np.asarray(dispersion, np.float64), np.exp(-LIMIT), np.exp(LIMIT)), dtype)
    return jnp.clip(jnp.asarray(dispersion, dtype), np.exp(-LIMIT), np.exp(LIMIT))


def _weight_of_dispersion(log_mean: Pixels, log_r: Pixels) -> Float[Array, "..."]:
    """With h(t) = t² [ψ'(t) - 1/t] and t = r + μ / (1 - p):

    (1 - p) [h(r) - (r/t)² h(t)] - r μ² p / ((1 - p) t (r + μ)), or 1.4 h(r) (μ / (r + μ))² where that is less
    """
    tiny = jnp.finfo(log_r.dtype).tiny
    log_r, log_mean = _limited(log_r), _limited(log_mean)
    r, mean = jnp.exp(log_r), jnp.exp(log_mean)
    log_p = -r * softplus(log_mean - log_r)
    positive = jnp.maximum(-jnp.expm1(log_p), tiny)
    mean_of_positive = mean / positive
    t = r + mean_of_positive
    of_r = _scaled_trigamma(r)
    first = positive * (of_r - (r / t) ** 2 * _scaled_trigamma(t))
    second = (r / t) * (mean / (r + mean)) * mean_of_positive * jnp.exp(log_p)
    return jnp.clip(first - second, 0, 1.4 * of_r * jnp.exp(-2 * softplus(log_r - log_mean)))


def _limited(log_value: Pixels) -> Pixels:
    """Within what exp and its square hold in single precision; the distribution's limits are long reached there."""
    return jnp.clip(log_value, -LIMIT, LIMIT)


def _scaled_trigamma(t: Pixels) -> Pixels:
    """t² [ψ'(t) - 1/t], from 1 at 0 to ½ at infinity."""
    is_large = t > LARGE
    small, inverse = jnp.where(is_large, 1.0, t), 1 / jnp.where(is_large, t, LARGE)
    # ψ'(t) = ζ(2, t) = 1/t² + ζ(2, 1 + t), which has no pole.
    near = 1 - small + small**2 * zeta(jnp.full_like(small, 2.0), 1 + small)
    far = 0.5 + inverse * (1 / 6 - inverse**2 / 30)
    return jnp.where(is_large, far, near)
