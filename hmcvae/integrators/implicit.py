"""Implicit integrators, for metrics that depend on the position.

H(z, v) = U(z) + ½ log |G(z)| + ½ vᵀ G(z)⁻¹ v
-∂_z H = ∇log p - ½ ∂_z log |G| + ½ ∂_z Q(z, u),   u = G(z)⁻¹ v,   Q(z, u) = uᵀ G(z) u with u held constant
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from hmcvae import solvers
from hmcvae.integrators.base import IntegratorState, Step
from hmcvae.integrators.explicit import leapfrog
from hmcvae.metrics import check_is_metric
from hmcvae.solvers import SolverInfo, combine_info
from hmcvae.types import Factor, LogDensityFn, StepSize, Vector


class _Half(NamedTuple):
    """Between the two halves of a step.

    position: z.  momentum: v½.  velocity: u = G(z)⁻¹ v½.  factor: of G(z).
    turn: how much the velocity of the last step changed along it, at constant momentum: a guess for this one.
    info: of the solve for v½.
    """

    position: Vector
    momentum: Vector
    velocity: Vector
    factor: Factor
    turn: Vector
    info: SolverInfo


def generalized_leapfrog(
    logdensity_fn: LogDensityFn, metric: Any, solver: Any = solvers.TO_TOLERANCE
) -> Step:
    """The generalized leapfrog (Leimkuhler & Reich 2004, section 4.1; Girolami & Calderhead 2011, eq. 16-18).

        v½ = v - ε/2 ∂_z H(z, v½)
        z₁ = z + ε/2 [G(z)⁻¹ v½ + G(z₁)⁻¹ v½]
        v₁ = v½ - ε/2 ∂_z H(z₁, v½)

    Order 2, volume preserving, time reversible, symplectic, to the tolerance of its two solves. A step builds and
    factorises G once and takes the gradient of its log-determinant once; both are carried to the next step. A momentum
    iteration is one product with G⁻¹ and one ∂_z Q. A position iteration,

        w ← w + G(z)⁻¹ [v½ - G(z₁) w],   z₁ = z + ε/2 (u + w),

    is one matrix-free product with G(z₁), and the factor at hand. With a Euclidean metric this is `leapfrog`.

    Where a solve fails, `info.converged` is False and the state is not to be trusted: the map is then neither
    reversible nor volume preserving. Nothing else is done about it here; `rmhmc` rejects it.

    Args:
        logdensity_fn: z -> log p(z).
        metric: `metrics.fisher`, `softabs`, `monge`, `from_tensor`, or one with their methods.
        solver: see `hmcvae.solvers`.
    """
    check_is_metric(metric)
    _check_solver(solver)
    if not metric.is_position_dependent:
        return leapfrog(logdensity_fn, metric)

    def kick(
        position: Vector, momentum: Vector, static: Vector, guess: Vector, local: tuple, epsilon: Array
    ) -> tuple[Vector, Vector, SolverInfo]:
        """(v½, G⁻¹ v½, info) at the beginning of a step."""
        factor, force = local
        base = momentum + 0.5 * epsilon * static

        def equation(v: Vector) -> Vector:
            return base + 0.25 * epsilon * force(factor.solve(v))

        v, info = solver(equation, guess, jnp.max(jnp.abs(momentum)) + jnp.max(jnp.abs(base)))
        return v, factor.solve(v), info

    def drift(half: _Half, epsilon: Array) -> tuple[Vector, SolverInfo]:
        """z₁ and the report of its solve."""
        z, v, u = half.position, half.momentum, half.velocity

        def equation(w: Vector) -> Vector:
            return w + half.factor.solve(v - metric.matvec(z + 0.5 * epsilon * (u + w), w))

        # A correction of w moves z₁ by ε/2 times it, and matters against the size of z₁.
        size = jnp.max(jnp.abs(u)) + jnp.max(jnp.abs(z)) / jnp.max(0.5 * jnp.abs(epsilon))
        w, info = solver(equation, u + half.turn, size)
        return z + 0.5 * epsilon * (u + w), info

    def arrive(half: _Half, epsilon: Array):
        """(z₁, v₁, what is known there) at the end of a step."""
        position, info = drift(half, epsilon)
        geometry, force = metric.geometry(position)
        logdensity, gradient = jax.value_and_grad(logdensity_fn)(position)
        velocity = geometry.factor.solve(half.momentum)
        static = gradient - 0.5 * geometry.log_det_grad
        push = 0.5 * epsilon * (static + 0.5 * force(velocity))
        end = IntegratorState(position, half.momentum + push, logdensity, gradient, geometry)
        return end, (static, push, velocity - half.velocity, force), combine_info(half.info, info)

    def begin(state: IntegratorState, step_size: StepSize) -> _Half:
        epsilon = jnp.asarray(step_size, state.position.dtype)
        position, momentum = state.position, state.momentum
        geometry, force = metric.geometry(position)
        if state.geometry != ():
            geometry = state.geometry
        static = state.logdensity_grad - 0.5 * geometry.log_det_grad
        guess = momentum + 0.5 * epsilon * (static + 0.5 * force(geometry.factor.solve(momentum)))
        v, u, info = kick(position, momentum, static, guess, (geometry.factor, force), epsilon)
        return _Half(position, v, u, geometry.factor, jnp.zeros_like(u), info)

    def advance(half: _Half, step_size: StepSize) -> tuple[_Half, SolverInfo]:
        epsilon = jnp.asarray(step_size, half.position.dtype)
        end, (static, push, turn, force), info = arrive(half, epsilon)
        factor = end.geometry.factor
        # The half kick that has just been given, given again, is right to second order.
        v, u, started = kick(
            end.position, end.momentum, static, end.momentum + push, (factor, force), epsilon
        )
        return _Half(end.position, v, u, factor, turn, started), info

    def finish(half: _Half, step_size: StepSize) -> tuple[IntegratorState, SolverInfo]:
        end, _, info = arrive(half, jnp.asarray(step_size, half.position.dtype))
        return end, info

    return Step(begin, advance, finish)


def implicit_midpoint(logdensity_fn: LogDensityFn, metric: Any, solver: Any = solvers.TO_TOLERANCE) -> Step:
    """The implicit midpoint rule (Leimkuhler & Reich 2004, section 4.1; Brofos & Lederman 2021).

        (z₁, v₁) = (z, v) + ε J ∇H((z + z₁)/2, (v + v₁)/2)

    Order 2, time reversible, symplectic; steadier than the generalized leapfrog in strong curvature, and dearer: every
    iteration builds and factorises G and differentiates its log-determinant.

    Args: as for `generalized_leapfrog`; a Euclidean metric will do as well.
    """

    check_is_metric(metric)
    _check_solver(solver)

    def velocity_and_force(position: Vector, momentum: Vector) -> tuple[Vector, Vector]:
        gradient = jax.grad(logdensity_fn)(position)
        if not metric.is_position_dependent:
            return metric.factor(position).solve(momentum), gradient
        geometry, force = metric.geometry(position)
        velocity = geometry.factor.solve(momentum)
        return velocity, gradient - 0.5 * geometry.log_det_grad + 0.5 * force(velocity)

    def step(state: IntegratorState, step_size: StepSize) -> tuple[IntegratorState, SolverInfo]:
        z, v = state.position, state.momentum
        d, epsilon = z.shape[0], jnp.asarray(step_size, z.dtype)
        velocity, force = velocity_and_force(z, v)
        # Positions and momenta in units of their own, so that one tolerance serves both.
        size_z = _size(jnp.max(jnp.abs(z)) + jnp.max(jnp.abs(epsilon * velocity)))
        size_v = _size(jnp.max(jnp.abs(v)) + jnp.max(jnp.abs(epsilon * force)))

        def equation(x: Vector) -> Vector:
            velocity, force = velocity_and_force(x[:d] * size_z, x[d:] * size_v)
            ahead = z + 0.5 * epsilon * velocity, v + 0.5 * epsilon * force
            return jnp.concatenate([ahead[0] / size_z, ahead[1] / size_v])

        guess = (z + 0.5 * epsilon * velocity) / size_z, (v + 0.5 * epsilon * force) / size_v
        x, info = solver(equation, jnp.concatenate(guess), 1.0)
        z, v = 2 * x[:d] * size_z - z, 2 * x[d:] * size_v - v
        return IntegratorState(z, v, *jax.value_and_grad(logdensity_fn)(z), metric.carry(z)), info

    return Step(lambda state, _: state, step, step)


def _check_solver(solver: Any) -> None:
    if not callable(solver) or solver in (solvers.fixed_point, solvers.newton):
        name = getattr(solver, "__name__", repr(solver))
        raise ValueError(f"solver must be one that is made, as solvers.fixed_point() makes it, got {name}")


def _size(value: Array) -> Array:
    """A unit: `value`, constant for derivatives; 1 for nothing."""
    value = jax.lax.stop_gradient(value)
    return jnp.where(value > 0, value, jnp.ones_like(value))
