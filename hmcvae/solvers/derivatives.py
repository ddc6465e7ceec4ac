"""Derivatives of a solve: of its solution, by one more linear solve."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, Bool, Float

from hmcvae._numerics import max_abs
from hmcvae._sharding import vary_as
from hmcvae.solvers.base import MapFn, SolverInfo
from hmcvae.solvers.iteration import (
    Limit,
    Outcome,
    begin_loop,
    iterate,
    make_limit,
    report,
    unit_directions,
    within,
)
from hmcvae.types import Vector


def solve_implicitly(
    map_fn: MapFn,
    start: Vector,
    limit: Limit,
    solve: Callable[[MapFn, Vector, Limit], tuple[Vector, Outcome]],
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
    def root(start: Vector, limit: Limit, consts: tuple) -> tuple[Vector, Outcome]:
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
    return x, report(lax.stop_gradient(outcome), limit)


def iterate_tangent(matvec: MapFn, b: Vector, unit: Vector) -> Vector:
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
    loop = begin_loop(b)
    end = iterate(lambda t: t + (b - matvec(t)), loop, make_limit(None, b, size), max_iterations, True)
    enough = make_limit(float(jnp.finfo(b.dtype).eps) ** 0.5, b, size)
    return end.x, within(end.residual, jnp.zeros_like(b), enough)


def switch_tangent(matvec: MapFn, b: Vector, unit: Vector) -> Vector:
    """By iteration, and with the matrix where that does not contract: a loop of one pass, or none."""
    t, is_right = _iterated_tangent(matvec, b, unit, 50)

    def by_matrix(carry: tuple) -> tuple:
        return _by_matrix(matvec, b, unit_directions(carry[0])), vary_as(jnp.ones((), bool), b)

    return lax.while_loop(lambda carry: ~carry[1], by_matrix, (t, is_right))[0]


def dense_tangent(matvec: MapFn, b: Vector, unit: Vector) -> Vector:
    """Solve A t = b with the matrix, by d products; LU with its pivots needs no units."""
    del unit
    return _by_matrix(matvec, b, unit_directions(b))


def _by_matrix(matvec: MapFn, b: Vector, directions: Float[Array, "d d"]) -> Vector:
    return jnp.linalg.solve(jax.vmap(matvec, in_axes=1, out_axes=1)(directions), b)
