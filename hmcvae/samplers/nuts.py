"""The no-U-turn sampler."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from hmcvae import integrators, metrics
from hmcvae._checks import check_count
from hmcvae._lockstep import in_step, lift
from hmcvae._numerics import all_finite
from hmcvae._sharding import vary_as
from hmcvae.integrators import IntegratorState
from hmcvae.samplers.base import (
    HMCState,
    IntegratorFn,
    SamplingAlgorithm,
    Settings,
    check_dimension,
    check_settings,
    flatten,
    init_state,
    ravel,
    set_out,
)
from hmcvae.samplers.trees import (
    DIVERGED,
    GROWS,
    IRREVERSIBLE,
    TURNED,
    End,
    Growth,
    Lane,
    Leaf,
    Tree,
    grow,
)
from hmcvae.solvers import SolverInfo
from hmcvae.types import LogDensityFn, Metric, PRNGKey, PyTree, Scalar, StepSize, Vector

_IDENTITY = metrics.identity()


class NUTSInfo(NamedTuple):
    """What happened in one transition."""

    acceptance_rate: Scalar
    is_accepted: Bool[Array, ""]
    is_divergent: Bool[Array, ""]
    energy: Scalar
    energy_error: Scalar
    max_energy_error: Scalar
    num_integration_steps: Int[Array, ""]
    tree_depth: Int[Array, ""]
    is_turning: Bool[Array, ""]
    reached_max_depth: Bool[Array, ""]
    solver: SolverInfo
    reversibility_error: Scalar
    is_reversible: Bool[Array, ""]


def nuts(
    logdensity_fn: LogDensityFn,
    step_size: Any,
    metric: Any = _IDENTITY,
    *,
    integrator: Any = integrators.leapfrog,
    max_depth: Any = 10,
    divergence_threshold: Any = 1000.0,
    check_reversibility: bool | None = None,
    reversibility_tolerance: Any = None,
) -> SamplingAlgorithm:
    """The no-U-turn sampler."""
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
    max_depth = check_count("max_depth", max_depth, 1, 30)

    def init(position: PyTree, rng_key: PRNGKey | None = None) -> HMCState:
        del rng_key
        return init_state(logdensity_fn, settings.step_size, metric, position)

    def kernel(
        rng_key: PRNGKey, state: HMCState, step_size: StepSize, metric: Metric
    ) -> tuple[HMCState, NUTSInfo]:
        state, step_size, metric = vary_as((state, step_size, metric), rng_key, state, step_size, metric)
        z, unravel = ravel(state.position)
        check_dimension(metric, step_size, z)
        take_step = build(flatten(logdensity_fn, unravel), metric)
        key_momentum, key_tree = jax.random.split(rng_key)
        start = set_out(key_momentum, state, metric)

        def leap(state: IntegratorState, sign: Scalar) -> Leaf:
            return _leap(take_step, metric, settings, state, sign * jnp.asarray(step_size, z.dtype))

        velocity, energy = _velocity_and_energy(metric, start)
        lifted, constants = lift(leap, start, energy)
        words = jax.random.bits(key_tree, (3,), jnp.uint32)
        lane = Lane(End(start, velocity), energy, words[0], words[1:])
        growth = Growth(lifted, max_depth, settings.divergence_threshold)
        tree = in_step(lambda *arguments: grow(growth, *arguments), constants, lane)
        c = tree.candidate
        new = HMCState(unravel(c.position), c.logdensity, unravel(c.logdensity_grad), c.geometry)
        return new, _report(tree, energy)

    def step(rng_key: PRNGKey, state: HMCState) -> tuple[HMCState, NUTSInfo]:
        return kernel(rng_key, state, settings.step_size, metric)

    return SamplingAlgorithm(init, step, kernel, settings.step_size, metric)


def _velocity_and_energy(metric: Metric, state: IntegratorState) -> tuple[Vector, Scalar]:
    """v♯ = G(z)⁻¹ v, and H = ½ v · v♯ + ½ log |G| - log p."""
    factor = metric.carried_factor(state.position, state.geometry)
    velocity = factor.solve(state.momentum)
    return velocity, 0.5 * jnp.dot(state.momentum, velocity) + 0.5 * factor.log_det - state.logdensity


def _leap(take_step: Any, metric: Metric, settings: Settings, state: IntegratorState, epsilon: Any) -> Leaf:
    """One step, and what the tree asks of it."""
    dtype = state.position.dtype
    if settings.checks(take_step, metric):
        new, solver, back = integrators.integrate_retraced(take_step, metric, state, epsilon, 1)
        error, is_reversible = back.error, back.converged & (back.excess <= settings.tolerance(dtype))
    else:
        new, solver = take_step(state, epsilon)
        error, is_reversible = jnp.zeros((), dtype), jnp.asarray(True)
    velocity, energy = _velocity_and_energy(metric, new)
    is_sound = all_finite(new.position, new.logdensity_grad)
    return Leaf(new, velocity, energy, is_sound, solver, error, is_reversible)


def _report(tree: Tree, start_energy: Scalar) -> NUTSInfo:
    tally, candidate = tree.tally, tree.candidate
    return NUTSInfo(
        acceptance_rate=tally.acceptance / tally.num_steps.astype(start_energy.dtype),
        is_accepted=tree.has_moved,
        is_divergent=tree.status == DIVERGED,
        energy=start_energy + candidate.error,
        energy_error=candidate.error,
        max_energy_error=tally.max_error,
        num_integration_steps=tally.num_steps,
        tree_depth=tree.depth,
        is_turning=tree.status == TURNED,
        reached_max_depth=tree.status == GROWS,
        solver=tally.solver,
        reversibility_error=tally.reversibility_error,
        is_reversible=tree.status != IRREVERSIBLE,
    )
