"""Units of positions and momenta that come from the metric, so that what is small is small in any coordinates.

At a kinetic energy ½ vᵀ G⁻¹ v = ½ K no momentum and no velocity u = G⁻¹ v is larger than

    |v_i| ≤ √(K G_ii),   |u_i| ≤ √(K (G⁻¹)_ii),

and a standard momentum, v ~ N(0, G), has the standard deviations √G_ii and √(G⁻¹)_ii. Under z ↦ a + D z with a diagonal
D these go with the momenta and the positions, whatever entry happens to be near 0; a maximum over the coordinates, or
the size of a position, does not.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hmcvae._numerics import max_abs
from hmcvae.types import Scalar, Vector

# Roundings of a position, in units of an ulp of it, that a solve or a way back is allowed.
NUM_ROUNDINGS = 4


class Scales(NamedTuple):
    """momentum: √G_ii, [d].  position: √(G⁻¹)_ii, [d]: of velocities, and of positions for a unit of time."""

    momentum: Vector
    position: Vector


def scales(factor: Any, like: Vector) -> Scales:
    """Of the metric with this factor; constant for derivatives."""
    factor, like = lax.stop_gradient((factor, like))
    if hasattr(factor, "diagonals"):
        metric, inverse = factor.diagonals
    else:  # a metric of the user's own
        eye = jnp.eye(like.shape[0], dtype=like.dtype)
        metric, inverse = jnp.sum(factor.sqrt_matvec(eye) ** 2, axis=1), jnp.diagonal(factor.solve(eye))
    ones = jnp.ones_like(like)
    return Scales(jnp.sqrt(metric.astype(like.dtype) * ones), jnp.sqrt(inverse.astype(like.dtype) * ones))


def rounding(position: Vector, unit: Vector) -> Scalar:
    """What rounding moves a position by, in units of its own: max eps |z_i| / √(G⁻¹)_ii, a few times. What depends on
    the position is known no better, in any coordinate."""
    eps = float(jnp.finfo(position.dtype).eps)
    return lax.stop_gradient(NUM_ROUNDINGS * eps * max_abs(position / unit))


def distance(
    a: tuple[Vector, Vector], b: tuple[Vector, Vector], units: Scales, energy: Scalar
) -> Float[Array, ""]:
    """Largest difference of two points (z, v), in units of what a standard momentum, or one as fast as theirs, has.
    NaN where anything is."""
    d = a[0].shape[0]
    speed = jnp.sqrt(1 + energy / d)
    by_position, by_momentum = (a[0] - b[0]) / units.position, (a[1] - b[1]) / units.momentum
    return jnp.maximum(max_abs(by_position), max_abs(by_momentum)) / speed


def squared_norm(momentum: Vector, velocity: Vector) -> Scalar:
    """K = vᵀ G⁻¹ v, constant for derivatives; not below 0, where rounding may take it."""
    return jnp.maximum(jnp.dot(*jax.lax.stop_gradient((momentum, velocity))), 0)
