"""The mass matrix of a warm-up: running moments of the draws, in units of their own size."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, Int

from hmcvae import metrics
from hmcvae._checks import check_count
from hmcvae.types import Metric, Vector


class WelfordState(NamedTuple):
    """Running moments of draws, in units of their own size.

    count: n.  unit: u [d], powers of two above every |x| so far; 0 before the first.
    mean: [d].  scatter: Σ (x - mean)² / u² as [d], or Σ (x - mean)(x - mean)ᵀ / u uᵀ as [d, d].
    """

    count: Int[Array, ""]
    unit: Vector
    mean: Vector
    scatter: Float[Array, "d *d"]


def welford_init(dimension: Any, mass: Any = "diagonal", dtype: Any = None) -> WelfordState:
    """No draws yet, towards variances (`"diagonal"`) or the covariance matrix (`"dense"`).

    Raises:
        ValueError: for a dimension below 1, or another form of mass.
    """
    dimension = check_count("dimension", dimension, 1)
    if mass not in ("diagonal", "dense"):
        raise ValueError(f'the moments must be "diagonal" or "dense", got {mass!r}')
    shape = (dimension, dimension) if mass == "dense" else (dimension,)
    zero = jnp.zeros(dimension, dtype)
    return WelfordState(jnp.zeros((), jnp.int32), zero, zero, jnp.zeros(shape, dtype))


def welford_update(state: WelfordState, draws: Float[Array, "n d"]) -> WelfordState:
    """Take in n draws at once, one of each chain (Chan, Golub & LeVeque 1983, eq. 1.5; Welford 1962 at n = 1)."""
    dtype = state.mean.dtype
    draws = draws.astype(dtype)
    # A change of the unit is a product with a power of two: no digit is lost.
    unit = jnp.maximum(state.unit, power_of_two(draws))
    divisor = jnp.where(unit > 0, unit, 1)
    shrink = state.unit / divisor
    num_new = draws.shape[0]
    count = state.count + num_new
    draws = draws / divisor[None, :]
    mean, old_mean = jnp.mean(draws, axis=0), state.mean / divisor
    deviations = draws - mean[None, :]
    shift = mean - old_mean
    weight = (state.count * (num_new / count)).astype(dtype)
    if state.scatter.ndim == 2:
        old_scatter = state.scatter * jnp.outer(shrink, shrink)
        scatter = deviations.T @ deviations + weight * jnp.outer(shift, shift)
    else:
        old_scatter = state.scatter * shrink**2
        scatter = jnp.sum(deviations**2, axis=0) + weight * shift**2
    step = (num_new / count).astype(dtype)
    return WelfordState(count, unit, (old_mean + step * shift) * divisor, old_scatter + scatter)


def power_of_two(draws: Float[Array, "n d"]) -> Vector:
    """The smallest powers of two above every |x| of a coordinate; 0 where all are 0, NaN where one is not finite."""
    size = jnp.max(jnp.abs(draws), axis=0)
    unit = jnp.where(size > 0, jnp.ldexp(jnp.ones_like(size), jnp.frexp(size)[1]), 0)
    return jnp.where(jnp.isfinite(draws).all(axis=0), unit, jnp.nan)


def welford_covariance(state: WelfordState, *, regularise: bool = True) -> Float[Array, "d *d"]:
    """The sample (co)variance, shrunk towards a small diagonal by five draws' worth:

        n/(n + 5) Σ̂ + 10⁻³ · 5/(n + 5) diag(min(1, Σ̂_ii)), 1 in place of Σ̂_ii = 0

    Stan shrinks towards 10⁻³ I, which is the same for variances of 1 or more; of a coordinate whose standard deviation
    is 10⁻⁴ it makes sixteen times as much.
    """
    dtype = state.mean.dtype
    n = state.count.astype(dtype)
    covariance = state.scatter / jnp.maximum(n - 1, 1)
    is_dense = covariance.ndim == 2
    # One unit after the other: their product may be beyond the dtype where the covariance is not.
    left, right = (state.unit[:, None], state.unit[None, :]) if is_dense else (state.unit, state.unit)
    covariance = covariance * left * right
    if not regularise:
        return covariance
    variances = jnp.diagonal(covariance) if is_dense else covariance
    target = jnp.where(variances > 0, jnp.minimum(variances, 1), 1)
    target = jnp.diag(target) if is_dense else target
    return n / (n + 5) * covariance + 1e-3 * 5 / (n + 5) * target


def metric_from_covariance(covariance: Float[Array, "d *d"]) -> Metric:
    """The metric whose mass is the inverse of the posterior's variances [d] or covariance matrix [d, d]."""
    if covariance.ndim == 1:
        return metrics.diagonal(1 / covariance)
    mass = cho_solve(cho_factor(covariance, lower=True), jnp.eye(covariance.shape[0], dtype=covariance.dtype))
    return metrics.dense(0.5 * (mass + mass.T))
