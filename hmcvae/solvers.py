"""Solvers of the implicit equations x = g(x) inside an integrator step, what they report, and their derivatives.

A solver is called as `solver(map_fn, start, scale, floor) -> (x, SolverInfo)`. It stops when the last correction of
every coordinate is small,

    |g(x) - x|_i ≤ tolerance · scale_i + floor_i + 4 eps |g(x)_i|,

with `scale` the size of what is solved for and `floor` what rounding inside g leaves, both given by the caller, as
numbers or per coordinate, so that neither a shift of the problem nor other units of a coordinate change the outcome.
The last term is the rounding of x itself: a tolerance below it could never be met, and under `vmap` every lane would
wait.

Derivatives of a solve to tolerance are implicit: at the solution dx = (I - ∂g)⁻¹ dg, from one more linear solve, so the
memory does not depend on how many iterations there were. Those of a fixed count of iterations
are of the iterations themselves, unless asked otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, Bool, Float, Int

from hmcvae._checks import check_count, check_flag, check_positive
from hmcvae._numerics import all_finite, max_abs
from hmcvae._sharding import vary_as
from hmcvae.types import ArrayLike, Scalar, Vector

MapFn = Callable[[Vector], Vector]
# Iterations of a fixed count that stand side by side in the program: what they have in common is then done once, and
# what the backward pass needs of them is not copied into a loop's stack.
UNROLL = 4
# Roundings of x itself, in units of eps |x|, that no correction is asked to be below.
NUM_ROUNDINGS = 4
# Iterations after which their rate is judged.
TRIAL = 3


class SolverInfo(NamedTuple):
    """Outcome of the implicit solves of one step, or of a whole trajectory.

    converged: whether every solve reached its tolerance (all over the steps); False wherever a number is not finite.
    num_iterations: evaluations of the equations' right-hand sides (sum over the steps); a Newton iteration is one.
    residual: largest last correction, relative to the scale of what was solved for (max over the steps).

    Explicit integrators solve nothing: they report converged, 0 iterations, residual 0.
    """

    converged: Bool[Array, ""]
    num_iterations: Int[Array, ""]
    residual: Float[Array, ""]


@runtime_checkable
class Solver(Protocol):
    """Solves x = map_fn(x) from `start`, to a tolerance relative to `scale` and not below `floor`; both are numbers or
    one per coordinate."""

    def __call__(
        self, map_fn: MapFn, start: Vector, scale: ArrayLike = 1.0, floor: ArrayLike = 0.0
    ) -> tuple[Vector, SolverInfo]: ...


def exact_info(dtype: jnp.dtype) -> SolverInfo:
    """The report of a step that has no implicit solve."""
    return SolverInfo(jnp.asarray(True), jnp.asarray(0, jnp.int32), jnp.zeros((), dtype))


def combine_info(a: SolverInfo, b: SolverInfo) -> SolverInfo:
    """The report of two steps taken one after the other."""
    return SolverInfo(
        a.converged & b.converged,
        a.num_iterations + b.num_iterations,
        jnp.maximum(a.residual, b.residual),  # entry by entry: keeps NaN, unlike the reduction
    )


def collect_info(infos: SolverInfo) -> SolverInfo:
    """The report of steps that are stacked along a leading axis."""
    return SolverInfo(
        infos.converged.all(),
        infos.num_iterations.sum(dtype=infos.num_iterations.dtype),  # not widened to int64
        max_abs(infos.residual),
    )


def fixed_point(
    tolerance: float | None = None,
    max_iterations: int = 100,
    *,
    num_iterations: int | None = None,
    accelerate: bool = True,
    differentiate: str | None = None,
) -> "FixedPoint":
    """Iterate x ← g(x).

    Args:
        tolerance: of the last correction, relative to the scale; None: eps^{3/4} of the dtype (6e-6 in float32,
            2e-12 in float64). What is left after that correction is smaller by the rate of contraction.
        max_iterations: after so many the solve has failed.
        num_iterations: make exactly so many instead (no loop to wait for); the report still says whether the tolerance
            was met.
        accelerate: Anderson mixing of depth one (Anderson 1965; Walker & Ni 2011), which costs two inner products; off
            for a fixed count.
        differentiate: "implicit", the derivative of the solution, which is right as far as the solve is converged; or
            "unrolled", that of the iterations, which needs num_iterations. None: unrolled where there is a
            num_iterations, implicit elsewhere.

    Raises:
        ValueError: for a tolerance that is not positive, a count below 1, or "unrolled" without a count.
    """
    check_positive("tolerance", tolerance, optional=True)
    max_iterations = check_count("max_iterations", max_iterations, 1)
    if num_iterations is not None:
        num_iterations = check_count("num_iterations", num_iterations, 1)
    if differentiate not in (None, "implicit", "unrolled"):
        raise ValueError(f'differentiate must be None, "implicit" or "unrolled", got {differentiate!r}')
    if differentiate == "unrolled" and num_iterations is None:
        raise ValueError(
            "unrolled derivatives need num_iterations: a loop of unknown length has no reverse mode"
        )
    is_implicit = num_iterations is None if differentiate is None else differentiate == "implicit"
    accelerate = check_flag("accelerate", accelerate)
    return FixedPoint(tolerance, max_iterations, num_iterations, accelerate, is_implicit)


def newton(tolerance: float | None = None, max_iterations: int = 20) -> "Newton":
    """Newton's method on x - g(x) = 0, with the dense Jacobian by d forward derivatives; implicit derivatives.

    For equations whose iteration contracts slowly or not at all, in few dimensions.

    Raises:
        ValueError: for a tolerance that is not positive, or a count below 1.
    """
    check_positive("tolerance", tolerance, optional=True)
    max_iterations = check_count("max_iterations", max_iterations, 1)
    return Newton(tolerance, max_iterations)


def switching(
    tolerance: float | None = None, max_iterations: int = 100, *, max_newton_iterations: int = 20
) -> "Switching":
    """`fixed_point`, which goes over to Newton's method where it does not contract.

    After three iterations the mean rate at which the corrections have shrunk tells how many more are to be expected.
    Where these would cost more than a few Newton iterations, of d derivatives each, or the corrections grow, the solve
    begins again as `newton`. Where the iteration contracts, the outcome and the cost are those of `fixed_point`: the
    Newton loop is not entered. Under `vmap` all lanes wait while any one is in it.

    Raises:
        ValueError: for a tolerance that is not positive, or a count below 1.
    """
    check_positive("tolerance", tolerance, optional=True)
    max_iterations = check_count("max_iterations", max_iterations, 1)
    return Switching(
        tolerance, max_iterations, check_count("max_newton_iterations", max_newton_iterations, 1)
    )


@dataclass(frozen=True)
class FixedPoint:
    """See `fixed_point`."""

    tolerance: float | None = None
    max_iterations: int = 100
    num_iterations: int | None = None
    accelerate: bool = True
    is_implicit: bool = True

    def __call__(
        self, map_fn: MapFn, start: Vector, scale: ArrayLike = 1.0, floor: ArrayLike = 0.0
    ) -> tuple[Vector, SolverInfo]:
        limit = _limit(self.tolerance, start, scale, floor)
        if self.num_iterations is not None and not self.is_implicit:
            end, outcome = _count(map_fn, start, limit, self.num_iterations)
            return end, _report(lax.stop_gradient(outcome), limit)

        def solve(map_fn: MapFn, start: Vector, limit: _Limit) -> tuple[Vector, _Outcome]:
            if self.num_iterations is not None:
                return _count(map_fn, start, limit, self.num_iterations)
            return _outcome(_iterate(map_fn, _begin(start), limit, self.max_iterations, self.accelerate))

        return _implicit(map_fn, start, limit, solve, _iterate_tangent)


@dataclass(frozen=True)
class Newton:
    """See `newton`."""

    tolerance: float | None = None
    max_iterations: int = 20

    def __call__(
        self, map_fn: MapFn, start: Vector, scale: ArrayLike = 1.0, floor: ArrayLike = 0.0
    ) -> tuple[Vector, SolverInfo]:
        limit = _limit(self.tolerance, start, scale, floor)

        def solve(map_fn: MapFn, start: Vector, limit: _Limit) -> tuple[Vector, _Outcome]:
            loop = _iterate(_newton_map(map_fn), _begin(start), limit, self.max_iterations, False)
            return _outcome(loop)

        return _implicit(map_fn, start, limit, solve, _dense_tangent)


@dataclass(frozen=True)
class Switching:
    """See `switching`."""

    tolerance: float | None = None
    max_iterations: int = 100
    max_newton_iterations: int = 20

    def __call__(
        self, map_fn: MapFn, start: Vector, scale: ArrayLike = 1.0, floor: ArrayLike = 0.0
    ) -> tuple[Vector, SolverInfo]:
        limit = _limit(self.tolerance, start, scale, floor)

        def solve(map_fn: MapFn, start: Vector, limit: _Limit) -> tuple[Vector, _Outcome]:
            return _switch(map_fn, start, limit, self.max_iterations, self.max_newton_iterations)

        return _implicit(map_fn, start, limit, solve, _switch_tangent)


def _newton_map(map_fn: MapFn) -> MapFn:
    """x ↦ x + (I - ∂g)⁻¹ (g(x) - x)."""

    def correct(x: Vector) -> Vector:
        eye = _directions(x)
        value, jacobian = jax.vmap(lambda t: jax.jvp(map_fn, (x,), (t,)), out_axes=(None, 1))(eye)
        return x + jnp.linalg.solve(eye - jacobian, value - x)

    return correct


def _directions(x: Vector) -> Float[Array, "d d"]:
    """The unit vectors, which XLA does not know before it knows x.

    What does not change in a loop XLA moves in front of it, where it is computed even if the loop is not entered: of
    the loops here derivatives in d directions, 15 % of a transition of Riemannian HMC that needs none of them.
    """
    return lax.optimization_barrier((vary_as(jnp.eye(x.shape[0], dtype=x.dtype), x), x))[0]


class _Limit(NamedTuple):
    """Of a correction, [d].  absolute: tolerance · scale + floor.  relative: of the value's own size.  unit: the scale,
    1 where that is 0."""

    absolute: Vector
    relative: float
    unit: Vector


def _limit(tolerance: float | None, like: Vector, scale: ArrayLike, floor: ArrayLike = 0.0) -> _Limit:
    eps = float(jnp.finfo(like.dtype).eps)
    scale, floor = (
        jnp.broadcast_to(lax.stop_gradient(jnp.asarray(value, like.dtype)), like.shape)
        for value in (scale, floor)
    )
    # A tolerance that is traced must not widen the solve's dtype, nor have a derivative.
    relative = lax.stop_gradient(jnp.asarray(eps**0.75 if tolerance is None else tolerance, like.dtype))
    return _Limit(relative * scale + floor, NUM_ROUNDINGS * eps, jnp.where(scale > 0, scale, 1))


def _within(residual: Vector, value: Vector, limit: _Limit) -> Bool[Array, ""]:
    """Whether every correction is small: False for NaN, and where the limit is not finite (nothing is then known of the
    scale, or the value has overflowed). Asked of each entry: see `_numerics`."""
    most = limit.absolute + limit.relative * jnp.abs(value)
    return ((jnp.abs(residual) <= most) & jnp.isfinite(most)).all()


class _Outcome(NamedTuple):
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


def _begin(start: Vector) -> _Loop:
    zero, no = jnp.zeros_like(start), jnp.zeros((), bool)
    loop = _Loop(start, zero, zero, no, no, jnp.zeros((), jnp.int32), jnp.zeros((), start.dtype))
    return vary_as(loop, start)


def _iterate(
    map_fn: MapFn,
    first: _Loop,
    limit: _Limit,
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
        is_met = _within(residual, value, limit)
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


def _outcome(end: _Loop) -> tuple[Vector, _Outcome]:
    return end.x, _Outcome(end.residual, end.is_met, end.count)


def _switch(
    map_fn: MapFn, start: Vector, limit: _Limit, max_iterations: int, max_newton_iterations: int
) -> tuple[Vector, _Outcome]:
    """See `switching`."""
    patience = max(40, 4 * (start.shape[0] + 4))  # what Newton's method is likely to cost, in evaluations
    plain = _iterate(map_fn, _begin(start), limit, max_iterations, True, patience)
    # Newton's method starts where the iteration did: what it has come to since may be far off. Where nothing is known
    # at the start itself it would fare no better.
    needs = ~plain.is_met & (plain.count > 1)
    again = plain._replace(
        x=jnp.where(needs, start, plain.x), is_over=~needs, count=jnp.zeros_like(plain.count)
    )
    end = _iterate(_newton_map(map_fn), again, limit, max_newton_iterations, False)
    return _outcome(end._replace(count=plain.count + end.count))


def _count(map_fn: MapFn, start: Vector, limit: _Limit, count: int) -> tuple[Vector, _Outcome]:
    """`count` times x ← g(x)."""
    x = start
    if count > 1:
        x, _ = lax.scan(lambda x, _: (map_fn(x), None), start, None, count - 1, unroll=UNROLL)
    end = map_fn(x)
    return end, _Outcome(end - x, _within(end - x, end, limit), jnp.asarray(count, jnp.int32))


def _implicit(
    map_fn: MapFn,
    start: Vector,
    limit: _Limit,
    solve: Callable[[MapFn, Vector, _Limit], tuple[Vector, _Outcome]],
    solve_tangent: Callable[[MapFn, Vector, Vector], Vector],
) -> tuple[Vector, SolverInfo]:
    """The solve, with the derivative of the equation in place of that of its iterations."""

    # Once, and not for every use of it below: the equation of an integrator holds derivatives of derivatives.
    closed = jax.make_jaxpr(map_fn)(start)

    def of(consts: tuple) -> MapFn:
        """x ↦ g(x), given what g closes over."""
        run = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, list(consts)))
        return lambda x: run(x)[0]

    @jax.custom_jvp
    def root(start: Vector, limit: _Limit, consts: tuple) -> tuple[Vector, _Outcome]:
        return solve(of(consts), start, limit)

    @root.defjvp
    def root_jvp(primals: tuple, tangents: tuple) -> tuple:
        _, limit, consts = primals
        x, outcome = root(*primals)
        moved = jax.jvp(lambda *consts: of(consts)(x), consts, tangents[2])[1]
        matvec = jax.linearize(lambda x: x - of(consts)(x), x)[1]
        by_x = lax.custom_linear_solve(
            matvec,
            moved,
            lambda matvec, b: solve_tangent(matvec, b, limit.unit),
            # Cotangents have the inverse units.
            transpose_solve=lambda matvec, b: solve_tangent(matvec, b, 1 / limit.unit),
        )
        still = jax.tree.map(lambda leaf: np.zeros(leaf.shape, jax.dtypes.float0), outcome)
        return (x, outcome), (by_x, still._replace(residual=jnp.zeros_like(outcome.residual)))

    x, outcome = root(lax.stop_gradient(start), limit, tuple(closed.consts))
    return x, _report(lax.stop_gradient(outcome), limit)


def _iterate_tangent(matvec: MapFn, b: Vector, unit: Vector) -> Vector:
    """Solve A t = b by t ← t + (b - A t): A = I - ∂g and the iteration contracts where that of g does.

    NaN where it does not, so that a derivative that could not be had is seen and not taken for one.
    """
    t, is_right = _iterated_tangent(matvec, b, unit, 200)
    return jnp.where(is_right, t, jnp.nan)


def _iterated_tangent(
    matvec: MapFn, b: Vector, unit: Vector, max_iterations: int
) -> tuple[Vector, Bool[Array, ""]]:
    """(t, whether it is right to half of the digits), to a tolerance in the units of the coordinates."""
    size = unit * max_abs(b / unit)
    loop = _begin(b)
    end = _iterate(lambda t: t + (b - matvec(t)), loop, _limit(None, b, size), max_iterations, True)
    enough = _limit(float(jnp.finfo(b.dtype).eps) ** 0.5, b, size)
    return end.x, _within(end.residual, jnp.zeros_like(b), enough)


def _switch_tangent(matvec: MapFn, b: Vector, unit: Vector) -> Vector:
    """By iteration, and with the matrix where that does not contract: a loop of one pass, or none."""
    t, is_right = _iterated_tangent(matvec, b, unit, 50)

    def by_matrix(carry: tuple) -> tuple:
        return _by_matrix(matvec, b, _directions(carry[0])), vary_as(jnp.ones((), bool), b)

    return lax.while_loop(lambda carry: ~carry[1], by_matrix, (t, is_right))[0]


def _dense_tangent(matvec: MapFn, b: Vector, unit: Vector) -> Vector:
    """Solve A t = b with the matrix, by d products; LU with its pivots needs no units."""
    del unit
    return _by_matrix(matvec, b, _directions(b))


def _by_matrix(matvec: MapFn, b: Vector, directions: Float[Array, "d d"]) -> Vector:
    return jnp.linalg.solve(jax.vmap(matvec, in_axes=1, out_axes=1)(directions), b)


def _report(outcome: _Outcome, limit: _Limit) -> SolverInfo:
    return SolverInfo(outcome.is_met, outcome.count, max_abs(outcome.residual / limit.unit))


# What implicit integrators use unless told otherwise.
DEFAULT = switching()
