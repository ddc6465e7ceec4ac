"""Implicit integrators, for metrics that depend on the position.

H(z, v) = U(z) + ½ log |G(z)| + ½ vᵀ G(z)⁻¹ v
-∂_z H = ∇log p - ½ ∂_z log |G| + ½ ∂_z Q(z, u),   u = G(z)⁻¹ v,   Q(z, u) = uᵀ G(z) u with u held constant

What is solved for is a displacement or a velocity, never a position, and what is small is told by the metric
(`scales`): neither the place of the origin nor the units of a coordinate change what is computed, but for rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from hmcvae import solvers
from hmcvae.integrators.base import IntegratorState, Retrace, Step, nothing_retraced
from hmcvae.integrators.explicit import leapfrog
from hmcvae.integrators.scales import Scales, distance, rounding, scales, squared_norm
from hmcvae.metrics import check_is_metric
from hmcvae.solvers import Solver, SolverInfo, combine_info, exact_info
from hmcvae.types import Factor, LogDensityFn, Scalar, StepSize, Vector


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


class _Local(NamedTuple):
    """What a kick takes from the position.  factor: of G(z).  static: ∇log p - ½ ∂ log |G|.  force: u ↦ ∂_z Q(z, u).
    units: of G(z)."""

    factor: Factor
    static: Vector
    force: Callable[[Vector], Vector]
    units: Scales


class _Arrival(NamedTuple):
    """The end of a step.  push: the half kick that it ends with.  velocity: G(z₁)⁻¹ v½.  info: of both its solves."""

    state: IntegratorState
    local: _Local
    push: Vector
    velocity: Vector
    info: SolverInfo


def generalized_leapfrog(logdensity_fn: LogDensityFn, metric: Any, solver: Any = solvers.DEFAULT) -> Step:
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
    check_solver(solver)
    if not metric.is_position_dependent:
        return leapfrog(logdensity_fn, metric)
    scheme = _GeneralizedLeapfrog(logdensity_fn, metric, solver)
    back = _GeneralizedBack(scheme)
    retraced = Step(back.begin, back.advance, back.finish, is_implicit=True)
    return Step(scheme.begin, scheme.advance, scheme.finish, is_implicit=True, retraced=retraced)


@dataclass(frozen=True)
class _GeneralizedLeapfrog:
    """The pieces of `generalized_leapfrog`."""

    logdensity_fn: LogDensityFn
    metric: Any
    solver: Solver

    def kick(
        self, momentum: Vector, guess: Vector, local: _Local, epsilon: Array, energy: Scalar
    ) -> tuple[Vector, SolverInfo]:
        """v½ at the beginning of a step; energy: vᵀ G⁻¹ v of the momenta at both its ends."""
        base = momentum + 0.5 * epsilon * local.static

        def equation(v: Vector) -> Vector:
            return base + 0.25 * epsilon * local.force(local.factor.solve(v))

        scale = local.units.momentum * jnp.sqrt(energy) + jnp.abs(guess - momentum)
        return self.solver(equation, guess, scale)

    def drift(self, half: _Half, units: Scales, epsilon: Array) -> tuple[Vector, SolverInfo]:
        """z₁ and the report of its solve."""
        z, v, u = half.position, half.momentum, half.velocity

        def equation(w: Vector) -> Vector:
            return w + half.factor.solve(v - self.metric.matvec(z + 0.5 * epsilon * (u + w), w))

        # A correction of w moves z₁ by ε/2 times it, and matters against how far the velocity goes in a unit of time.
        # The rounding of z₁ is seen in all coordinates of w.
        length = jnp.clip(0.5 * jnp.abs(epsilon), jnp.finfo(z.dtype).eps, 1)
        scale = units.position / length
        floor = scale * rounding(z, units.position)
        w, info = self.solver(equation, u + half.turn, scale * jnp.sqrt(2 * squared_norm(v, u)), floor)
        return z + 0.5 * epsilon * (u + w), info

    def local(self, position: Vector, gradient: Vector, geometry: Any, force: Any) -> _Local:
        static = gradient - 0.5 * geometry.log_det_grad
        return _Local(geometry.factor, static, force, scales(geometry.factor, position))

    def arrive(self, half: _Half, epsilon: Array) -> _Arrival:
        position, info = self.drift(half, scales(half.factor, half.position), epsilon)
        geometry, force = self.metric.geometry(position)
        logdensity, gradient = jax.value_and_grad(self.logdensity_fn)(position)
        velocity = geometry.factor.solve(half.momentum)
        local = self.local(position, gradient, geometry, force)
        push = 0.5 * epsilon * (local.static + 0.5 * force(velocity))
        end = IntegratorState(position, half.momentum + push, logdensity, gradient, geometry)
        return _Arrival(end, local, push, velocity, combine_info(half.info, info))

    def first_kick(self, momentum: Vector, local: _Local, epsilon: Array) -> tuple[Vector, SolverInfo]:
        """v½ of a step that nothing went before."""
        velocity = local.factor.solve(momentum)
        guess = momentum + 0.5 * epsilon * (local.static + 0.5 * local.force(velocity))
        # Both, since one of them may be at rest.
        energy = squared_norm(momentum, velocity) + squared_norm(guess, local.factor.solve(guess))
        return self.kick(momentum, guess, local, epsilon, energy)

    def set_out(self, state: IntegratorState, step_size: StepSize) -> tuple[_Half, _Local]:
        """The beginning of a trajectory, and what its first kick took from the position."""
        epsilon = jnp.asarray(step_size, state.position.dtype)
        position = state.position
        geometry, force = self.metric.geometry(position)
        if state.geometry != ():
            geometry = state.geometry
        local = self.local(position, state.logdensity_grad, geometry, force)
        v, info = self.first_kick(state.momentum, local, epsilon)
        u = geometry.factor.solve(v)
        return _Half(position, v, u, geometry.factor, jnp.zeros_like(u), info), local

    def begin(self, state: IntegratorState, step_size: StepSize) -> _Half:
        return self.set_out(state, step_size)[0]

    def next_half(self, half: _Half, arrival: _Arrival, epsilon: Array) -> _Half:
        """The beginning of the step after one that has arrived."""
        end, local, push, velocity, _ = arrival
        # The half kick that has just been given, given again, is right to second order.
        energy = 2 * squared_norm(half.momentum, velocity)
        v, info = self.kick(end.momentum, end.momentum + push, local, epsilon, energy)
        turn = velocity - half.velocity
        return _Half(end.position, v, local.factor.solve(v), local.factor, turn, info)

    def advance(self, half: _Half, step_size: StepSize) -> tuple[_Half, SolverInfo]:
        epsilon = jnp.asarray(step_size, half.position.dtype)
        arrival = self.arrive(half, epsilon)
        return self.next_half(half, arrival, epsilon), arrival.info

    def finish(self, half: _Half, step_size: StepSize) -> tuple[IntegratorState, SolverInfo]:
        arrival = self.arrive(half, jnp.asarray(step_size, half.position.dtype))
        return arrival.state, arrival.info


class _Way(NamedTuple):
    """A step's drift, to be taken back.  start: z.  momentum: v½.  velocity: G(z₁)⁻¹ v½, with which the way back sets
    out from z₁.  weight: 1; 0 before the first step, when all else is 0 too and the equation solved at once."""

    start: Vector
    momentum: Vector
    velocity: Vector
    weight: Scalar


class _Carry(NamedTuple):
    """half: of the forward scheme.  way: the step before.  retrace: so far."""

    half: _Half
    way: _Way
    retrace: Retrace


@dataclass(frozen=True)
class _GeneralizedBack:
    """`generalized_leapfrog`, each step of which is also taken back: from (z₁, v₁) with -ε its kick must lead to v½,
    its drift to z, and its last half kick, which takes no solve, to v. (The forward solve for v½ has seen to the last
    only up to its own tolerance, which may be looser than that of the check.)

    The trajectory back starts its solves from what it has met on its own way: the last half kick, and the last turn of
    the velocity. Both are those of the trajectory there with the other sign, but of the step *after* the one to be
    taken back: so a kick is taken back after the next one has been given, and a drift a step later. The last step is
    the first on the way back, with the guesses of `begin`.
    """

    forward: _GeneralizedLeapfrog

    def begin(self, start: IntegratorState, step_size: StepSize) -> _Carry:
        half, local = self.forward.set_out(start, step_size)
        zero = jnp.zeros_like(half.position)
        way = _Way(half.position, zero, zero, jnp.zeros((), zero.dtype))
        epsilon = jnp.asarray(step_size, zero.dtype)
        retrace = combine_retraces(
            nothing_retraced(zero.dtype), _last_kick_back(half, start.momentum, local, epsilon)
        )
        return _Carry(half, way, retrace)

    def advance(self, carry: _Carry, step_size: StepSize) -> tuple[_Carry, SolverInfo]:
        half, way, retrace = carry
        epsilon = jnp.asarray(step_size, half.position.dtype)
        arrival = self.forward.arrive(half, epsilon)
        turn = half.velocity - arrival.velocity
        retrace = combine_retraces(retrace, self.drift_back(half.position, half.factor, way, turn, epsilon))
        new = self.forward.next_half(half, arrival, epsilon)
        v, local = arrival.state.momentum, arrival.local
        retrace = combine_retraces(retrace, _last_kick_back(new, v, local, epsilon))
        energy = 2 * squared_norm(new.momentum, new.velocity)
        back = self.forward.kick(v, 2 * v - new.momentum, local, -epsilon, energy)
        retrace = combine_retraces(retrace, _compare_momenta(back, half.momentum, arrival))
        one = jnp.ones((), v.dtype)
        return _Carry(new, _Way(half.position, half.momentum, arrival.velocity, one), retrace), arrival.info

    def finish(
        self, carry: _Carry, step_size: StepSize
    ) -> tuple[tuple[IntegratorState, Retrace], SolverInfo]:
        half, way, retrace = carry
        epsilon = jnp.asarray(step_size, half.position.dtype)
        arrival = self.forward.arrive(half, epsilon)
        turn = half.velocity - arrival.velocity
        retrace = combine_retraces(retrace, self.drift_back(half.position, half.factor, way, turn, epsilon))
        back = self.forward.first_kick(arrival.state.momentum, arrival.local, -epsilon)
        retrace = combine_retraces(retrace, _compare_momenta(back, half.momentum, arrival))
        last = _Way(half.position, half.momentum, arrival.velocity, jnp.ones((), epsilon.dtype))
        at = arrival.state.position, arrival.local.factor
        retrace = combine_retraces(retrace, self.drift_back(*at, last, jnp.zeros_like(turn), epsilon))
        return (arrival.state, retrace), arrival.info

    def drift_back(
        self, position: Vector, factor: Factor, way: _Way, turn: Vector, epsilon: Array
    ) -> Retrace:
        units, energy = scales(factor, position), squared_norm(way.momentum, way.velocity)
        half = _Half(
            position, way.momentum, way.velocity, factor, way.weight * turn, exact_info(position.dtype)
        )
        came, info = self.forward.drift(half, units, -epsilon)
        pair = (came, way.momentum), (way.weight * way.start + (1 - way.weight) * came, way.momentum)
        return compare(info, *pair, units, energy)


def _last_kick_back(half: _Half, momentum: Vector, local: _Local, epsilon: Array) -> Retrace:
    """From v½ to the momentum that the step set out with."""
    came = half.momentum - 0.5 * epsilon * (local.static + 0.5 * local.force(half.velocity))
    energy = squared_norm(momentum, local.factor.solve(momentum))
    pair = (half.position, came), (half.position, momentum)
    return compare(exact_info(momentum.dtype), *pair, local.units, energy)


def _compare_momenta(back: tuple[Vector, SolverInfo], expected: Vector, arrival: _Arrival) -> Retrace:
    momentum, info = back
    position, units = arrival.state.position, arrival.local.units
    energy = squared_norm(expected, arrival.velocity)
    return compare(info, (position, momentum), (position, expected), units, energy)


def compare(info: SolverInfo, came: tuple, expected: tuple, units: Scales, energy: Scalar) -> Retrace:
    error = distance(came, expected, units, energy)
    return Retrace(info.converged, error, error - 4 * rounding(came[0], units.position))


def combine_retraces(a: Retrace, b: Retrace) -> Retrace:
    # Entry by entry `maximum` keeps NaN.
    return Retrace(a.converged & b.converged, jnp.maximum(a.error, b.error), jnp.maximum(a.excess, b.excess))


def check_solver(solver: Any) -> None:
    if not callable(solver) or solver in (solvers.fixed_point, solvers.newton, solvers.switching):
        name = getattr(solver, "__name__", repr(solver))
        raise ValueError(f"solver must be one that is made, as solvers.fixed_point() makes it, got {name}")
