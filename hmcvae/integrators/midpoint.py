"""The implicit midpoint rule."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from hmcvae import solvers
from hmcvae.integrators.base import IntegratorState, Retrace, Step, nothing_retraced
from hmcvae.integrators.implicit import check_solver, combine_retraces, compare
from hmcvae.integrators.scales import Scales, rounding, scales, squared_norm
from hmcvae.metrics import check_is_metric
from hmcvae.solvers import Solver, SolverInfo
from hmcvae.types import Factor, LogDensityFn, Scalar, StepSize, Vector


def implicit_midpoint(logdensity_fn: LogDensityFn, metric: Any, solver: Any = solvers.DEFAULT) -> Step:
    """The implicit midpoint rule (Leimkuhler & Reich 2004, section 4.1; Brofos & Lederman 2021).

        (z₁, v₁) = (z, v) + ε J ∇H((z + z₁)/2, (v + v₁)/2)

    Order 2, time reversible, symplectic; steadier than the generalized leapfrog in strong curvature, and dearer: every
    iteration builds and factorises G and differentiates its log-determinant.

    Args: as for `generalized_leapfrog`; a Euclidean metric will do as well.
    """
    check_is_metric(metric)
    check_solver(solver)
    scheme = _Midpoint(logdensity_fn, metric, solver)
    retraced = Step(scheme.begin, scheme.step_and_back, scheme.step_and_back, is_implicit=True)
    return Step(lambda state, _: state, scheme.step, scheme.step, is_implicit=True, retraced=retraced)


@dataclass(frozen=True)
class _Midpoint:
    """The pieces of `implicit_midpoint`."""

    logdensity_fn: LogDensityFn
    metric: Any
    solver: Solver

    def step(self, state: IntegratorState, step_size: StepSize) -> tuple[IntegratorState, SolverInfo]:
        """One step."""
        epsilon = jnp.asarray(step_size, state.position.dtype)
        by_z, by_v, info, _ = self._half_move(state.position, state.momentum, epsilon)
        z, v = state.position + 2 * by_z, state.momentum + 2 * by_v
        logdensity, gradient = jax.value_and_grad(self.logdensity_fn)(z)
        return IntegratorState(z, v, logdensity, gradient, self.metric.carry(z)), info

    def begin(self, state: IntegratorState, _: StepSize) -> tuple[IntegratorState, Retrace]:
        """Before the first of the steps that are taken back."""
        return state, nothing_retraced(state.position.dtype)

    def step_and_back(
        self, start: tuple[IntegratorState, Retrace], step_size: StepSize
    ) -> tuple[tuple[IntegratorState, Retrace], SolverInfo]:
        """One step, and the way back from its end."""
        state, retrace = start
        end, info = self.step(state, step_size)
        epsilon = jnp.asarray(step_size, state.position.dtype)
        by_z, by_v, back_info, scale = self._half_move(end.position, end.momentum, -epsilon)
        came = end.position + 2 * by_z, end.momentum + 2 * by_v
        back = compare(back_info, came, (state.position, state.momentum), *scale)
        return (end, combine_retraces(retrace, back)), info

    def _velocity_and_force(self, position: Vector, momentum: Vector) -> tuple[Vector, Vector, Factor]:
        gradient = jax.grad(self.logdensity_fn)(position)
        if not self.metric.is_position_dependent:
            factor = self.metric.factor(position)
            return factor.solve(momentum), gradient, factor
        geometry, force = self.metric.geometry(position)
        velocity = geometry.factor.solve(momentum)
        return velocity, gradient - 0.5 * geometry.log_det_grad + 0.5 * force(velocity), geometry.factor

    def _half_move(
        self, z: Vector, v: Vector, epsilon: Array
    ) -> tuple[Vector, Vector, SolverInfo, tuple[Scales, Scalar]]:
        """Half of the move, (δz, δv) = ε/2 J ∇H(z + δz, v + δv), its report, and (units, vᵀ G⁻¹ v): a check is not
        to be told by the explicit guess, which may be anywhere, what is small."""
        d = z.shape[0]
        velocity, force, factor = self._velocity_and_force(z, v)
        units, ahead = scales(factor, z), v + 0.5 * epsilon * force
        # Positions and momenta in units of their own, so that one scale serves both; of the energy before and after,
        # since one of them may be 0.
        before = squared_norm(v, velocity)
        energy = before + squared_norm(ahead, factor.solve(ahead))

        def scaled(velocity: Vector, force: Vector) -> Array:
            return jnp.concatenate(
                [0.5 * epsilon * velocity / units.position, 0.5 * epsilon * force / units.momentum]
            )

        def equation(x: Vector) -> Vector:
            moved = z + x[:d] * units.position, v + x[d:] * units.momentum
            return scaled(*self._velocity_and_force(*moved)[:2])

        x, info = self.solver(
            equation, scaled(velocity, force), jnp.sqrt(energy), rounding(z, units.position)
        )
        return x[:d] * units.position, x[d:] * units.momentum, info, (units, before)
