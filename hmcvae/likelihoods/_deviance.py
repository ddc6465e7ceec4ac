"""The parts of a count's probability that do not cancel (Loader 2000, Fast and accurate computation of binomial
probabilities).

    log Γ(t) = (t - ½) log t - t + ½ log 2π + S(t)         S: the error of Stirling's formula, `stirling_error`
    L(u)     = u - log(1 + u) ≥ 0                          `log1p_gap`, a half of a unit deviance

log x! and x log λ are 10⁸ at a count of 10⁷, and in single precision their difference is off by several nats; S and L
are small, and all terms of log p that are made of them have one sign.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Values = Float[Array, "..."]

# Both are multiples of 2⁻¹⁶ below 2⁷, so their sum with a whole multiple of the other is exact in single precision.
_NUM_CELLS = 128
_CENTRES = 0.5 + (np.arange(_NUM_CELLS) + 0.5) / (2 * _NUM_CELLS)
_LOG_HIGH = np.round(np.log(_CENTRES) * 2**16) / 2**16
_LOG_LOW = np.log(_CENTRES) - _LOG_HIGH
_LOG2_HIGH = round(math.log(2) * 2**16) / 2**16
_LOG2_LOW = math.log(2) - _LOG2_HIGH
# Bernoulli numbers' part of Stirling's series: S(t) = 1/(12 t) - 1/(360 t³) + …
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


@jax.custom_jvp
def log_ratio(log_value: Values, x: Values) -> Values:
    """f - log x for x > 0, with an error of some 10⁻³ roundings even where f and log x are large and nearly alike.

    With x = 2ᵏ c (1 + u), c in the middle of one of 128 cells: the leading digits of k log 2 + log c are taken from f
    exactly, then the rest of them and log(1 + u), which are small.
    """
    wide = jnp.promote_types(log_value.dtype, jnp.float32)
    mantissa, exponent = jnp.frexp(x.astype(wide))
    cell = jnp.clip(((mantissa - 0.5) * (2 * _NUM_CELLS)).astype(jnp.int32), 0, _NUM_CELLS - 1)
    centre, high, low = (jnp.asarray(table, wide)[cell] for table in (_CENTRES, _LOG_HIGH, _LOG_LOW))
    k = exponent.astype(wide)
    leading = log_value.astype(wide) - (k * _LOG2_HIGH + high)
    rest = k * _LOG2_LOW + low + jnp.log1p((mantissa - centre) / centre)
    return (leading - rest).astype(log_value.dtype)


@log_ratio.defjvp
def _log_ratio_jvp(primals: tuple, tangents: tuple) -> tuple[Values, Values]:
    (log_value, x), (log_value_dot, x_dot) = primals, tangents
    return log_ratio(log_value, x), log_value_dot - x_dot / x


def log1p_gap(u: Values, log1p_u: Values) -> Values:
    """L(u) = u - log(1 + u), given log(1 + u) for where u is not small.

    With s = u / (2 + u): L = s u - 2 s³ (1/3 + s²/5 + s⁴/7 + …).
    """
    is_small = (u > -0.5) & (u < 1)
    small = jnp.where(is_small, u, 0)
    s = small / (2 + small)
    series = s * (small - 2 * s**2 * _atanh_series(s**2))
    return jnp.where(is_small, series, u - jnp.where(is_small, 0, log1p_u))


def stirling_error(t: Values) -> Values:
    """S(t) for t > 0: from S(t) = S(t + 1) + h(t), h(t) = (t + ½) log(1 + 1/t) - 1, to where the series holds.

    h = atanh(s)/s - 1 = s²/3 + s⁴/5 + … with s = 1 / (2t + 1), so nothing cancels.
    """
    num_shifts, num_terms = (8, 7) if jnp.finfo(t.dtype).bits == 64 else (4, 3)
    is_low = t < num_shifts
    low = jnp.where(is_low, t, num_shifts)
    is_below_one = low < 1
    below, above = jnp.where(is_below_one, low, 1.0), jnp.where(is_below_one, 1.0, low)
    others = low[..., None] + jnp.arange(1, num_shifts, dtype=t.dtype).reshape(*(1,) * t.ndim, -1)
    shifted = _shift(jnp.concatenate([above[..., None], others], -1))
    first = (below + 0.5) * (jnp.log1p(below) - jnp.log(below)) - 1
    shifted = jnp.sum(shifted[..., 1:], -1) + jnp.where(is_below_one, first, shifted[..., 0])
    inverse = 1 / jnp.where(is_low, low + num_shifts, t)
    series = jnp.zeros_like(t)
    for coefficient in reversed(_STIRLING[:num_terms]):
        series = series * inverse**2 + coefficient
    return series * inverse + jnp.where(is_low, shifted, 0)


def _shift(t: Values) -> Values:
    """h(t), for t ≥ 1."""
    square = 1 / (2 * t + 1) ** 2
    return square * _atanh_series(square)


def _atanh_series(square: Values) -> Values:
    """1/3 + s²/5 + s⁴/7 + …, for s² ≤ 1/9."""
    num_terms = math.ceil(math.log(float(jnp.finfo(square.dtype).eps)) / math.log(1 / 9))
    total = jnp.zeros_like(square)
    for index in reversed(range(num_terms)):
        total = total * square + 1 / (2 * index + 3)
    return total
