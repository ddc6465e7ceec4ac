"""Hamiltonian Monte Carlo: a kernel from a log density, a metric and an integrator.

One transition from z (Duane et al. 1987; Neal 2011, figure 2; Girolami & Calderhead 2011, section 5):

    v ~ N(0, G(z))
    (z', v') = L integrator steps of size ε from (z, v)
    accept z' with probability min(1, exp(-ΔH)),   ΔH = H(z', v') - H(z, v)

    H(z, v) = -log p(z) + ½ log |G(z)| + ½ vᵀ G(z)⁻¹ v

The integrator must preserve volume and be reversible under v → -v; the kernel asks nothing else of it, nor of
the metric, so that the Riemannian kernel is this one with another metric and another integrator.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from hmcvae import integrators, metrics
from hmcvae._random import happens
from hmcvae._sharding import vary_as
from hmcvae.integrators import IntegratorState
from hmcvae.samplers.base import (
    HMCState,
    IntegratorFn,
    SamplingAlgorithm,
    as_algorithm,
    check_dimension,
    check_settings,
    flatten,
    init_state,
    is_sound,
    leave_out_momentum,
    ravel,
    set_out,
)
from hmcvae.samplers.keeping import identity_of
from hmcvae.samplers.lengths import check_num_steps, draw_num_steps
from hmcvae.solvers import SolverInfo
from hmcvae.types import LogDensityFn, Metric, PRNGKey, PyTree, Scalar, StepSize

_IDENTITY = metrics.identity()


class HMCInfo(NamedTuple):
    """What happened in one transition. The three kinds of failure exclude each other, in this order:
    an implicit solve failed; the energy diverged; the trajectory could not be retraced.

    acceptance_rate: probability of acceptance min(1, exp(-ΔH)); 0 after a failed solve, a trajectory that left
        the finite numbers, or a reversibility failure.
    is_accepted: whether the chain moved to the proposal.
    is_divergent: every solve converged, but |ΔH| > divergence_threshold, or ΔH or the gradient at the
        proposal is not finite. Where ΔH is finite it is diagnostic only: acceptance is unaffected.
    energy: H of the phase-space point that the chain moves to (Stan's `energy__`), so that its spread from
        draw to draw against its variance gives the energy Bayesian fraction of missing information.
    energy_error: ΔH of the proposal, accepted or not; may be infinite or NaN.
    num_integration_steps: L of this transition.
    solver: report of the implicit solves of the whole trajectory; `solver.converged` False rejects.
    reversibility_error: largest distance from where the way back should have come to, over positions and momenta, in
        units of their standard deviations under the metric; 0 when it was not checked.
    is_reversible: False where the check found an error above its tolerance, or a solve on the way back failed; True
        when it was not checked.
    """

    acceptance_rate: Scalar
    is_accepted: Bool[Array, ""]
    is_divergent: Bool[Array, ""]
    energy: Scalar
    energy_error: Scalar
    num_integration_steps: Int[Array, ""]
    solver: SolverInfo
    reversibility_error: Scalar
    is_reversible: Bool[Array, ""]


def hmc(
    logdensity_fn: LogDensityFn,
    step_size: Any,
    num_integration_steps: Any,
    metric: Any = _IDENTITY,
    *,
    integrator: Any = integrators.leapfrog,
    divergence_threshold: Any = 1000.0,
    check_reversibility: bool | None = None,
    reversibility_tolerance: Any = None,
) -> SamplingAlgorithm:
    """Hamiltonian Monte Carlo.

    A fixed number of steps can resonate with a mode of the target (ε L near a multiple of its period brings the
    chain back to where it was); `uniform_steps(low, high)` is the safe choice for production.

    Args:
        logdensity_fn: position -> log p(position) up to a constant, a scalar; with
            `jax.tree_util.Partial(function, data)` programs are compiled for the data's shapes alone, see `sample`.
        step_size: ε > 0, a scalar, or one per coordinate of the ravelled position for an integrator that
            takes that.
        num_integration_steps: L ≥ 1; or `uniform_steps(low, high)`; or any `rng_key -> integer`, drawn
            anew for each transition.
        metric: of the ravelled position (`jax.flatten_util.ravel_pytree`).
        integrator: an `IntegratorFn`, `(logdensity_fn, metric) -> step`, on flat vectors; it is called when the kernel
            is traced.
        divergence_threshold: |ΔH| above which a transition is flagged divergent.
        check_reversibility: take every trajectory back, and reject where that misses the start or a solve on the way
            fails: see `integrators.integrate_retraced`. None: where the integrator is implicit. Without it what can be
            solved forwards and not backwards is accepted one way only, and the draws are biased.
        reversibility_tolerance: largest error that passes, in units of the standard deviations of momenta, √G_ii, and
            of velocities, √(G⁻¹)_ii, rounding aside; √eps of the position's dtype if None.

    Returns:
        A `SamplingAlgorithm`. Its functions raise ValueError at trace time for a position that is not
        floating-point, a log density that is not a scalar and a metric of another dimension; `init` also
        for a position, log density or gradient that is not finite, unless it is being traced.

    Raises:
        ValueError: if step_size, divergence_threshold or reversibility_tolerance is not positive,
            or num_integration_steps is neither a whole number ≥ 1 nor a function of a key that returns such.
    """
    settings = check_settings(
        logdensity_fn,
        metric,
        integrator,
        step_size,
        divergence_threshold,
        check_reversibility,
        reversibility_tolerance,
    )
    build: IntegratorFn = integrator
    num_integration_steps = check_num_steps(num_integration_steps)

    def make_init(logdensity_fn: LogDensityFn) -> Callable:
        def init(position: PyTree, rng_key: PRNGKey | None = None) -> HMCState:
            del rng_key  # BlackJAX's drivers pass one
            return init_state(logdensity_fn, settings.step_size, metric, position)

        return init

    def make_kernel(logdensity_fn: LogDensityFn) -> Callable:
        def kernel(
            rng_key: PRNGKey, state: HMCState, step_size: StepSize, metric: Metric, num_steps: Any = None
        ) -> tuple[HMCState, HMCInfo]:
            # Inside `shard_map` all that meets in the loops below must vary over the same axes.
            state, step_size, metric = vary_as((state, step_size, metric), rng_key, state, step_size, metric)
            z, unravel = ravel(state.position)
            check_dimension(metric, step_size, z)
            take_step = build(flatten(logdensity_fn, unravel), metric)
            key_momentum, key_length, key_accept = jax.random.split(rng_key, 3)
            if num_steps is None:
                num_steps = draw_num_steps(num_integration_steps, key_length)
            start = set_out(key_momentum, state, metric)
            if settings.checks(take_step, metric):
                most = settings.tolerance(z.dtype)
                end, solver, retrace = _there_and_back(take_step, metric, start, step_size, num_steps, most)
            else:
                end, solver = integrators.integrate(take_step, start, step_size, num_steps)
                retrace = jnp.zeros((), z.dtype), jnp.asarray(True)
            energies = integrators.energy(metric, start), integrators.energy(metric, end)
            threshold = settings.divergence_threshold
            info = _judge(key_accept, end, energies, solver, retrace, num_steps, threshold)
            proposal = leave_out_momentum(end, unravel)
            return jax.tree.map(lambda new, old: jnp.where(info.is_accepted, new, old), proposal, state), info

        return kernel

    parts = identity_of(integrator), identity_of(num_integration_steps)
    key = ("hmc", *parts, *settings[1:])
    common = num_integration_steps if getattr(num_integration_steps, "is_shared", False) else None
    return as_algorithm(logdensity_fn, make_init, make_kernel, key, settings.step_size, metric, common)


def _there_and_back(
    take_step: Any, metric: Metric, start: IntegratorState, step_size: StepSize, num_steps: Any, most: Any
) -> tuple[IntegratorState, SolverInfo, tuple[Scalar, Bool[Array, ""]]]:
    """A trajectory taken back: its end, the solves, and (by how much the way back missed, whether it is reversible)."""
    end, solver, back = integrators.integrate_retraced(take_step, metric, start, step_size, num_steps)
    return end, solver, (back.error, back.converged & (back.excess <= most))


def _judge(
    rng_key: PRNGKey,
    end: IntegratorState,
    energies: tuple[Scalar, Scalar],
    solver: SolverInfo,
    retrace: tuple[Scalar, Bool[Array, ""]],
    num_steps: int | Int[Array, ""],
    threshold: Any,
) -> HMCInfo:
    """Accept or reject the end of a trajectory, and say which of the three failures came first."""
    before, after = energies
    delta = after - before
    is_finite = is_sound(end, delta)
    is_divergent = solver.converged & ~(is_finite & (jnp.abs(delta) <= threshold))
    reversibility_error, is_reversible = retrace
    is_valid = solver.converged & is_finite & is_reversible
    acceptance_rate = jnp.where(is_valid, jnp.exp(jnp.minimum(-delta, 0.0)), 0.0)
    is_accepted = happens(rng_key, acceptance_rate)
    return HMCInfo(
        acceptance_rate=acceptance_rate,
        is_accepted=is_accepted,
        is_divergent=is_divergent,
        energy=jnp.where(is_accepted, after, before),
        energy_error=delta,
        num_integration_steps=jnp.asarray(num_steps, jnp.int32),
        solver=solver,
        reversibility_error=reversibility_error,
        is_reversible=is_reversible | ~solver.converged | is_divergent,
    )
