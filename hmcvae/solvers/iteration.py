"""The loops that solve x = g(x), and when they end."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from hmcvae._numerics import all_finite, max_abs
from hmcvae._sharding import vary_as
from hmcvae.solvers.base import MapFn, SolverInfo
from hmcvae.types import ArrayLike, Scalar, Vector

# Iterations of a fixed count that stand side by side in the program: what they have in common is then done once, and
# what the backward pass needs of them is not copied into a loop's stack.
UNROLL = 4
# Roundings of x itself, in units of eps |x|, that no correction is asked to be below.
NUM_ROUNDINGS = 4
# Iterations after which their rate is judged.
TRIAL = 3


class Limit(NamedTuple):
    """Of a correction, [d].  absolute: tolerance · scale + floor.  relative: of the value's own size.  unit: the scale,
    1 where that is 0."""

    absolute: Vector
    relative: float
    unit: Vector


def make_limit(tolerance: float | None, like: Vector, scale: ArrayLike, floor: ArrayLike = 0.0) -> Limit:
    eps = float(jnp.finfo(like.dtype).eps)
    scale, floor = (
        jnp.broadcast_to(lax.stop_gradient(jnp.asarray(value, like.dtype)), like.shape)
        for value in (scale, floor)
    )
    # A tolerance that is traced must not widen the solve's dtype, nor have a derivative.
    relative = lax.stop_gradient(jnp.asarray(eps**0.75 if tolerance is None else tolerance, like.dtype))
    return Limit(relative * scale + floor, NUM_ROUNDINGS * eps, jnp.where(scale > 0, scale, 1))


def within(residual: Vector, value: Vector, limit: Limit) -> Bool[Array, ""]:
    """Whether every correction is small: False for NaN, and where the limit is not finite (nothing is then known of the
    scale, or the value has overflowed). Asked of each entry: see `_numerics`."""
    most = limit.absolute + limit.relative * jnp.abs(value)
    return ((jnp.abs(residual) <= most) & jnp.isfinite(most)).all()


class Outcome(NamedTuple):
    """residual: the last correction, [d].  is_met: whether it was within its limit.  count: of iterations."""

    residual: Vector
    is_met: Bool[Array, ""]
    count: Int[Array, ""]


class _Loop(NamedTuple):
    """x: the next point.  value, residual: g and g - x at the last one.  is_over: met, or no longer finite."""

    x: Vector
    value: Vector
    residual: Vector
    is_met: Bool[Array, ""]
    is_over: Bool[Array, ""]
    count: Int[Array, ""]
    first_size: Scalar


def begin_loop(start: Vector) -> _Loop:
    zero, no = jnp.zeros_like(start), jnp.zeros((), bool)
    loop = _Loop(start, zero, zero, no, no, jnp.zeros((), jnp.int32), jnp.zeros((), start.dtype))
    return vary_as(loop, start)


def iterate(
    map_fn: MapFn,
    first: _Loop,
    limit: Limit,
    max_iterations: int,
    accelerate: bool,
    patience: int | None = None,
) -> _Loop:
    """x ← g(x) until the correction is within `limit`, is not finite, or the iterations are spent; with `patience`,
    also where more than so many iterations more are to be expected."""

    def goes_on(loop: _Loop) -> Bool[Array, ""]:
        return ~loop.is_over & (loop.count < max_iterations)

    def body(loop: _Loop) -> _Loop:
        value = map_fn(loop.x)
        residual = value - loop.x
        x = value
        if accelerate:
            # x = g_k - θ (g_k - g_{k-1}), θ = argmin ‖r_k - θ (r_k - r_{k-1})‖, in units of the scale. |θ| < 1 holds
            # where g contracts by less than a half; a larger one is the noise of residuals at rounding.
            change = (residual - loop.residual) / limit.unit
            square = jnp.dot(change, change)
            theta = jnp.dot(residual / limit.unit, change) / jnp.where(square > 0, square, 1.0)
            theta = jnp.where((loop.count > 0) & (jnp.abs(theta) < 1), theta, 0.0)
            x = value - theta * (value - loop.value)
        is_met = within(residual, value, limit)
        # An infinite or NaN correction never becomes finite again.
        is_over = is_met | ~all_finite(residual)
        count, first_size = loop.count + 1, loop.first_size
        if patience is not None:
            # log of the correction over its limit, now and at first; NaN only where is_over is decided already.
            most = limit.absolute + limit.relative * jnp.abs(value)
            size = jnp.log(jnp.max(jnp.abs(residual) / jnp.where(most > 0, most, limit.unit)))
            first_size = jnp.where(loop.count == 0, size, first_size)
            steps = (count - 1).astype(size.dtype)
            is_slow = size * steps > patience * (first_size - size)
            is_over = is_over | (is_slow & (count >= TRIAL))
        return _Loop(x, value, residual, is_met, is_over, count, first_size)

    return lax.while_loop(goes_on, body, first)


def outcome_of(end: _Loop) -> tuple[Vector, Outcome]:
    return end.x, Outcome(end.residual, end.is_met, end.count)


def repeat(map_fn: MapFn, start: Vector, limit: Limit, count: int) -> tuple[Vector, Outcome]:
    """`count` times x ← g(x)."""
    x = start
    if count > 1:
        x, _ = lax.scan(lambda x, _: (map_fn(x), None), start, None, count - 1, unroll=UNROLL)
    end = map_fn(x)
    return end, Outcome(end - x, within(end - x, end, limit), jnp.asarray(count, jnp.int32))


def newton_map(map_fn: MapFn) -> MapFn:
    """x ↦ x + (I - ∂g)⁻¹ (g(x) - x)."""

    def correct(x: Vector) -> Vector:
        eye = unit_directions(x)
        value, jacobian = jax.vmap(lambda t: jax.jvp(map_fn, (x,), (t,)), out_axes=(None, 1))(eye)
        return x + jnp.linalg.solve(eye - jacobian, value - x)

    return correct


def unit_directions(x: Vector) -> Float[Array, "d d"]:
    """The unit vectors, which XLA does not know before it knows x.

    What does not change in a loop XLA moves in front of it, where it is computed even if the loop is not entered: of
    the loops here derivatives in d directions, 15 % of a transition of Riemannian HMC that needs none of them.
    """
    return lax.optimization_barrier((vary_as(jnp.eye(x.shape[0], dtype=x.dtype), x), x))[0]


def iterate_or_newton(
    map_fn: MapFn, start: Vector, limit: Limit, max_iterations: int, max_newton_iterations: int
) -> tuple[Vector, Outcome]:
    """See `switching`."""
    patience = max(40, 4 * (start.shape[0] + 4))  # what Newton's method is likely to cost, in evaluations
    plain = iterate(map_fn, begin_loop(start), limit, max_iterations, True, patience)
    # Newton's method starts where the iteration did: what it has come to since may be far off. Where nothing is known
    # at the start itself it would fare no better.
    needs = ~plain.is_met & (plain.count > 1)
    again = plain._replace(
        x=jnp.where(needs, start, plain.x), is_over=~needs, count=jnp.zeros_like(plain.count)
    )
    end = iterate(newton_map(map_fn), again, limit, max_newton_iterations, False)
    return outcome_of(end._replace(count=plain.count + end.count))


def report(outcome: Outcome, limit: Limit) -> SolverInfo:
    return SolverInfo(outcome.is_met, outcome.count, max_abs(outcome.residual / limit.unit))
