"""Solvers of the implicit equations x = g(x) inside an integrator step, what they report, and their derivatives.

A solver is called as `solver(map_fn, start, scale) -> (x, SolverInfo)`. It stops when the last correction is small,

    max |g(x) - x| ≤ tolerance · scale,

with `scale` the magnitude of the quantity that is solved for, given by the caller: a tolerance below the dtype's
rounding of x can never be met, and under `vmap` every lane would wait for it.

Derivatives of a solve to tolerance are implicit: at the solution dx = (I - ∂g)⁻¹ dg, from one more linear solve, so the
memory does not depend on how many iterations there were (`jax.lax.custom_root`). Those of a fixed count of iterations
are of the iterations themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from hmcvae._checks import check_count, check_positive
from hmcvae.types import ArrayLike, Scalar, Vector

MapFn = Callable[[Vector], Vector]
# Iterations of a fixed count that stand side by side in the program: what they have in common is then done once, and
# what the backward pass needs of them is not copied into a loop's stack.
UNROLL = 4


class SolverInfo(NamedTuple):
    """Outcome of the implicit solves of one step, or of a whole trajectory.

    converged: whether every solve reached its tolerance (all over the steps).
    num_iterations: evaluations of the equations' right-hand sides (sum over the steps).
    residual: largest last correction, relative to the scale of what was solved for (max over the steps).

    Explicit integrators solve nothing: they report converged, 0 iterations, residual 0.
    """

    converged: Bool[Array, ""]
    num_iterations: Int[Array, ""]
    residual: Float[Array, ""]


@runtime_checkable
class Solver(Protocol):
    """Solves x = map_fn(x) from `start`, to a tolerance relative to `scale`."""

    def __call__(self, map_fn: MapFn, start: Vector, scale: ArrayLike = 1.0) -> tuple[Vector, SolverInfo]: ...


def exact_info(dtype: jnp.dtype) -> SolverInfo:
    """The report of a step that has no implicit solve."""
    return SolverInfo(jnp.asarray(True), jnp.asarray(0, jnp.int32), jnp.zeros((), dtype))


def combine_info(a: SolverInfo, b: SolverInfo) -> SolverInfo:
    """The report of two steps taken one after the other."""
    return SolverInfo(
        a.converged & b.converged,
        a.num_iterations + b.num_iterations,
        jnp.maximum(a.residual, b.residual),
    )


def fixed_point(
    tolerance: float | None = None,
    max_iterations: int = 100,
    *,
    num_iterations: int | None = None,
    accelerate: bool = True,
    differentiate: str = "implicit",
) -> "FixedPoint":
    """Iterate x ← g(x).

    Args:
        tolerance: of the last correction, relative to the scale; None: eps^{3/4} of the dtype (6e-6 in float32,
            2e-12 in float64). What is left after that correction is smaller by the rate of contraction.
        max_iterations: after so many the solve has failed.
        num_iterations: make exactly so many instead (no loop to wait for, derivatives unrolled); the report still
            says whether the tolerance was met.
        accelerate: Anderson mixing of depth one (Anderson 1965; Walker & Ni 2011), which costs two inner products; off
            for a fixed count.
        differentiate: "implicit"; or "unrolled", which needs num_iterations.

    Raises:
        ValueError: for a tolerance that is not positive, a count below 1, or "unrolled" without a count.
    """
    check_positive("tolerance", tolerance, optional=True)
    check_count("max_iterations", max_iterations, 1)
    if num_iterations is not None:
        check_count("num_iterations", num_iterations, 1)
    if differentiate not in ("implicit", "unrolled"):
        raise ValueError(f'differentiate must be "implicit" or "unrolled", got {differentiate!r}')
    if differentiate == "unrolled" and num_iterations is None:
        raise ValueError(
            "unrolled derivatives need num_iterations: a loop of unknown length has no reverse mode"
        )
    return FixedPoint(tolerance, max_iterations, num_iterations, accelerate)


def newton(tolerance: float | None = None, max_iterations: int = 20) -> "Newton":
    """Newton's method on x - g(x) = 0, with the dense Jacobian by d forward derivatives; implicit derivatives.

    For equations whose iteration contracts slowly or not at all, in few dimensions.

    Raises:
        ValueError: for a tolerance that is not positive, or a count below 1.
    """
    check_positive("tolerance", tolerance, optional=True)
    check_count("max_iterations", max_iterations, 1)
    return Newton(tolerance, max_iterations)


@dataclass(frozen=True)
class FixedPoint:
    """See `fixed_point`."""

    tolerance: float | None = None
    max_iterations: int = 100
    num_iterations: int | None = None
    accelerate: bool = True

    def __call__(self, map_fn: MapFn, start: Vector, scale: ArrayLike = 1.0) -> tuple[Vector, SolverInfo]:
        if self.num_iterations is not None:
            return self._count(map_fn, start, scale)
        limit = _limit(self.tolerance, start, scale)

        def solve(map_fn: MapFn, start: Vector) -> tuple[Vector, tuple]:
            return _iterate(map_fn, start, limit, self.max_iterations, self.accelerate)

        return _implicit(map_fn, start, scale, limit, solve, _iterate_tangent)

    def _count(self, map_fn: MapFn, start: Vector, scale: ArrayLike) -> tuple[Vector, SolverInfo]:
        count: int = self.num_iterations or 1
        x = start
        if count > 1:
            x, _ = lax.scan(lambda x, _: (map_fn(x), None), start, None, count - 1, unroll=UNROLL)
        end = map_fn(x)
        size = lax.stop_gradient(jnp.max(jnp.abs(end - x)))
        limit = _limit(self.tolerance, start, scale)
        return end, _report(size, jnp.asarray(count, jnp.int32), limit, scale)


@dataclass(frozen=True)
class Newton:
    """See `newton`."""

    tolerance: float | None = None
    max_iterations: int = 20

    def __call__(self, map_fn: MapFn, start: Vector, scale: ArrayLike = 1.0) -> tuple[Vector, SolverInfo]:
        limit = _limit(self.tolerance, start, scale)

        def solve(map_fn: MapFn, start: Vector) -> tuple[Vector, tuple]:
            def correct(x: Vector) -> Vector:
                jacobian = jax.jacfwd(map_fn)(x)
                return x + jnp.linalg.solve(jnp.eye(x.shape[0], dtype=x.dtype) - jacobian, map_fn(x) - x)

            return _iterate(correct, start, limit, self.max_iterations, accelerate=False)

        return _implicit(map_fn, start, scale, limit, solve, _dense_tangent)


class _Loop(NamedTuple):
    """x: the next point.  value, residual: g and g - x at the last one.  size: max |residual|."""

    x: Vector
    value: Vector
    residual: Vector
    size: Scalar
    count: Int[Array, ""]


def _iterate(
    map_fn: MapFn, start: Vector, limit: Scalar, max_iterations: int, accelerate: bool
) -> tuple[Vector, tuple[Scalar, Int[Array, ""]]]:
    """(x, (size of the last correction, iterations)): x ← g(x) until the correction is at most `limit`, is not finite,
    or the iterations are spent."""
    dtype = start.dtype
    zero = jnp.zeros_like(start)
    first = _Loop(start, zero, zero, jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32))

    def goes_on(loop: _Loop) -> Bool[Array, ""]:
        is_first = loop.count == 0
        # An infinite or NaN correction never becomes finite again.
        unfinished = (loop.size > limit) & jnp.isfinite(loop.size)
        return is_first | (unfinished & (loop.count < max_iterations))

    def body(loop: _Loop) -> _Loop:
        value = map_fn(loop.x)
        residual = value - loop.x
        x = value
        if accelerate:
            # x = g_k - θ (g_k - g_{k-1}), θ = argmin ‖r_k - θ (r_k - r_{k-1})‖. |θ| < 1 holds where g contracts by less
            # than a half; a larger one is the noise of residuals at rounding.
            change = residual - loop.residual
            square = jnp.dot(change, change)
            theta = jnp.dot(residual, change) / jnp.where(square > 0, square, 1.0)
            theta = jnp.where((loop.count > 0) & (jnp.abs(theta) < 1), theta, 0.0)
            x = value - theta * (value - loop.value)
        return _Loop(x, value, residual, jnp.max(jnp.abs(residual)), loop.count + 1)

    end = lax.while_loop(goes_on, body, first)
    return end.x, (end.size, end.count)


def _implicit(
    map_fn: MapFn,
    start: Vector,
    scale: ArrayLike,
    limit: Scalar,
    solve: Callable[[MapFn, Vector], tuple[Vector, tuple]],
    solve_tangent: Callable[[MapFn, Vector], Vector],
) -> tuple[Vector, SolverInfo]:
    """The solve, with the derivative of the equation in place of that of its iterations."""

    x, (size, count) = lax.custom_root(
        lambda x: x - map_fn(x),
        lax.stop_gradient(start),
        lambda _, start: _as_floats(*solve(map_fn, start)),
        lambda matvec, b: lax.custom_linear_solve(matvec, b, solve_tangent, transpose_solve=solve_tangent),
        has_aux=True,
    )
    return x, _report(size, lax.stop_gradient(count).astype(jnp.int32), limit, scale)


def _as_floats(x: Vector, outcome: tuple) -> tuple[Vector, tuple[Scalar, Scalar]]:
    """With the count as a number that can have a (zero) tangent, as `custom_root` wants of all that it returns."""
    size, count = outcome
    return x, (size, count.astype(x.dtype))


def _iterate_tangent(matvec: MapFn, b: Vector) -> Vector:
    """Solve A t = b by t ← t + (b - A t): A = I - ∂g and the iteration contracts where that of g does.

    NaN where it does not, so that a derivative that could not be had is seen and not taken for one.
    """
    size = jnp.max(jnp.abs(b))
    t, (residual, _) = _iterate(lambda t: t + (b - matvec(t)), b, _limit(None, b, size), 200, accelerate=True)
    return jnp.where(residual <= jnp.sqrt(jnp.finfo(b.dtype).eps) * size, t, jnp.nan)


def _dense_tangent(matvec: MapFn, b: Vector) -> Vector:
    """Solve A t = b with the matrix, by d products."""
    matrix = jax.vmap(matvec, in_axes=1, out_axes=1)(jnp.eye(b.shape[0], dtype=b.dtype))
    return jnp.linalg.solve(matrix, b)


def _limit(tolerance: float | None, like: Vector, scale: ArrayLike) -> Scalar:
    eps = jnp.finfo(like.dtype).eps
    relative = float(eps) ** 0.75 if tolerance is None else tolerance
    return lax.stop_gradient(relative * jnp.asarray(scale, like.dtype))


def _report(size: Scalar, count: Int[Array, ""], limit: Scalar, scale: ArrayLike) -> SolverInfo:
    scale = lax.stop_gradient(jnp.asarray(scale, size.dtype))
    return SolverInfo(size <= limit, count, size / jnp.where(scale > 0, scale, 1))


# What implicit integrators use unless told otherwise.
TO_TOLERANCE = fixed_point()
