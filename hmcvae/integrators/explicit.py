"""Explicit integrators, for metrics that do not depend on the position: kicks and drifts in turns."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from hmcvae.integrators.base import IntegratorState, Step
from hmcvae.metrics import check_is_metric
from hmcvae.solvers import SolverInfo, exact_info
from hmcvae.types import LogDensityFn, StepSize, Vector


def check_euclidean(name: str, metric: Any) -> None:
    """Raise ValueError for a metric that depends on the position."""
    check_is_metric(metric)
    if metric.is_position_dependent:
        raise ValueError(
            f"{name} needs a Euclidean metric, got {type(metric).__name__}, which depends on the position: take "
            "integrators.generalized_leapfrog or implicit_midpoint, or hierarchical_leapfrog for metrics.hierarchical"
        )


def leapfrog(logdensity_fn: LogDensityFn, metric: Any) -> Step:
    """The leapfrog (velocity Verlet) step for a Euclidean metric (Neal 2011, eq. 5.18-5.20).

        v½ = v + ε/2 ∇log p(z)
        z₁ = z + ε G⁻¹ v½
        v₁ = v½ + ε/2 ∇log p(z₁)

    Order 2, volume preserving, time reversible, symplectic. One gradient a step: the one at z is carried in the
    state. The step size may be a vector [d], ε = diag(step_size): still of order 2 (in a common factor of its
    entries), volume preserving and reversible; what it then preserves is the symplectic form scaled by ε⁻¹, so the
    energy stays bounded as before, while time runs at a rate of its own in each coordinate.

    Steps outside the stable range (ε beyond 2 / the highest frequency) give huge, infinite or NaN states. Nothing
    flags them here; they stay in the state, for the caller to judge by its energy.

    Raises:
        ValueError: if the metric depends on the position (the map would not preserve volume).
    """
    check_euclidean("leapfrog", metric)

    def kick(momentum: Vector, gradient: Vector, time: Array) -> Vector:
        return momentum + time * gradient

    def drift(position: Vector, momentum: Vector, time: Array) -> Vector:
        return position + time * metric.factor(position).solve(momentum)

    def begin(state: IntegratorState, step_size: StepSize) -> tuple[Vector, Vector]:
        epsilon = jnp.asarray(step_size, state.position.dtype)
        return state.position, kick(state.momentum, state.logdensity_grad, 0.5 * epsilon)

    def advance(carry: tuple[Vector, Vector], step_size: StepSize) -> tuple[tuple[Vector, Vector], None]:
        position, momentum = carry
        epsilon = jnp.asarray(step_size, position.dtype)
        position = drift(position, momentum, epsilon)
        # The half kicks that end one step and begin the next have the same gradient: one whole kick.
        return (position, kick(momentum, jax.grad(logdensity_fn)(position), epsilon)), None

    def finish(carry: tuple[Vector, Vector], step_size: StepSize) -> tuple[IntegratorState, SolverInfo]:
        position, momentum = carry
        epsilon = jnp.asarray(step_size, position.dtype)
        position = drift(position, momentum, epsilon)
        logdensity, gradient = jax.value_and_grad(logdensity_fn)(position)
        momentum = kick(momentum, gradient, 0.5 * epsilon)
        return IntegratorState(position, momentum, logdensity, gradient), exact_info(position.dtype)

    return Step(begin, advance, finish)


def _splitting(
    name: str,
    logdensity_fn: LogDensityFn,
    metric: Any,
    kicks: tuple[float, ...],
    drifts: tuple[float, ...],
) -> Step:
    """Kick, drift, …, drift, kick by the given shares of the step size; the kicks that meet between two steps are one.
    A drift a gradient."""
    check_euclidean(name, metric)

    def stages(position: Vector, momentum: Vector, epsilon: Array, last_gradient: Callable):
        for index, share in enumerate(drifts):
            position = position + share * epsilon * metric.factor(position).solve(momentum)
            if index < len(drifts) - 1:
                momentum = momentum + kicks[index + 1] * epsilon * jax.grad(logdensity_fn)(position)
        return position, momentum, last_gradient(position)

    def begin(state: IntegratorState, step_size: StepSize) -> tuple[Vector, Vector]:
        epsilon = jnp.asarray(step_size, state.position.dtype)
        return state.position, state.momentum + kicks[0] * epsilon * state.logdensity_grad

    def advance(carry: tuple[Vector, Vector], step_size: StepSize) -> tuple[tuple[Vector, Vector], None]:
        epsilon = jnp.asarray(step_size, carry[0].dtype)
        position, momentum, gradient = stages(*carry, epsilon, jax.grad(logdensity_fn))
        return (position, momentum + 2 * kicks[0] * epsilon * gradient), None

    def finish(carry: tuple[Vector, Vector], step_size: StepSize) -> tuple[IntegratorState, SolverInfo]:
        epsilon = jnp.asarray(step_size, carry[0].dtype)
        position, momentum, (logdensity, gradient) = stages(
            *carry, epsilon, jax.value_and_grad(logdensity_fn)
        )
        momentum = momentum + kicks[0] * epsilon * gradient
        return IntegratorState(position, momentum, logdensity, gradient), exact_info(position.dtype)

    return Step(begin, advance, finish)


def mclachlan(logdensity_fn: LogDensityFn, metric: Any) -> Step:
    """The two-stage splitting of order 2 with the smallest error constant (McLachlan 1995, section 4; Blanes, Casas &
    Sanz-Serna 2014): two gradients a step, and at the same cost in gradients a smaller energy error than leapfrog.

        kick b ε, drift ε/2, kick (1 - 2b) ε, drift ε/2, kick b ε;   b = 0.1931833275037836

    Raises:
        ValueError: if the metric depends on the position.
    """
    b = 0.1931833275037836
    return _splitting("mclachlan", logdensity_fn, metric, (b, 1 - 2 * b, b), (0.5, 0.5))


def yoshida(logdensity_fn: LogDensityFn, metric: Any) -> Step:
    """Order 4: leapfrog steps of w₁ε, w₀ε, w₁ε with w₁ = 1/(2 - 2^{1/3}), w₀ = 1 - 2w₁ (Yoshida 1990, eq. 2.12).

    Three gradients a step. For long, accurate trajectories; at the step sizes usual in sampling the lower orders are
    stable for longer.

    Raises:
        ValueError: if the metric depends on the position.
    """
    w1 = 1 / (2 - 2 ** (1 / 3))
    w0 = 1 - 2 * w1
    kicks = (w1 / 2, (w1 + w0) / 2, (w1 + w0) / 2, w1 / 2)
    return _splitting("yoshida", logdensity_fn, metric, kicks, (w1, w0, w1))
