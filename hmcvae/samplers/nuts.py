"""The no-U-turn sampler: Hamiltonian trajectories as long as they lead away.

One transition from z (Hoffman & Gelman 2014; Betancourt 2017, appendix A):

    v ~ N(0, G(z))
    double the trajectory, ahead or back in time with probability ½ each, until it turns back (`turning`)
    move to a point of it, drawn with weights exp(-ΔH), the newer halves preferred

    H(z, v) = -log p(z) + ½ log |G(z)| + ½ vᵀ G(z)⁻¹ v,   ΔH = H - H at the start

As for `hmc`, the integrator must preserve volume and be reversible, and nothing else is asked of it or of the metric.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from hmcvae import integrators, metrics
from hmcvae._checks import check_count, is_concrete
from hmcvae._lockstep import in_step, lift
from hmcvae._numerics import all_finite
from hmcvae._sharding import vary_as
from hmcvae.integrators import IntegratorState
from hmcvae.samplers.base import (
    HMCState,
    IntegratorFn,
    SamplingAlgorithm,
    Settings,
    as_algorithm,
    check_dimension,
    check_settings,
    flatten,
    init_state,
    ravel,
    set_out,
)
from hmcvae.samplers.draws import SamplingWarning
from hmcvae.samplers.keeping import identity_of
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
from hmcvae.solvers import SolverInfo, exact_info
from hmcvae.types import LogDensityFn, Metric, PRNGKey, PyTree, Scalar, StepSize, Vector

_IDENTITY = metrics.identity()
# exp(-10) is 4.5e-5, less than the error of a hundred million draws.
FEWEST_NATS = 10.0


class NUTSInfo(NamedTuple):
    """What happened in one transition. What ends a tree is one of: it turned; an implicit solve failed; the energy
    diverged; a step could not be retraced; or it was as deep as it may be.

    acceptance_rate: mean of min(1, exp(-ΔH)) over all the points that were made, those thrown away too (Stan's
        `accept_stat__`); 0 for a point where the tree failed.
    is_accepted: whether the chain moved.
    is_divergent: the solves of the last step converged, but ΔH > divergence_threshold, or ΔH, position or gradient is
        not finite there.
    energy: H of the point that the chain moves to (Stan's `energy__`).
    energy_error: ΔH of it.
    max_energy_error: the largest ΔH of all the points; may be infinite or NaN.
    num_integration_steps: points made, at most 2^max_depth - 1.
    tree_depth: doublings that were completed.
    is_turning: whether the trajectory turned back, the usual end.
    reached_max_depth: whether it was still to be doubled when it had max_depth doublings.
    solver: report of the implicit solves of all the steps; `solver.converged` is False where one ended the tree.
    reversibility_error: largest error of a step taken back, as for `hmc`; 0 when it was not checked.
    is_reversible: False where a step that could not be retraced ended the tree.
    """

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
    """The no-U-turn sampler, with Stan's rules (Betancourt 2017, appendix A; Stan reference manual, "MCMC sampling").

    The number of steps adapts itself to each start; there is only the step size to tune, as `sample` does by
    info.acceptance_rate. Each half of the tree is drawn from by multinomial weights, and halves are chosen between with
    probability min(1, weight of the newer / weight of the older), where the weight is Σ exp(-ΔH).

    A step that fails (its solves, its energy, its way back) ends the tree: the half that was being built is thrown away
    with it, and the last whole tree is drawn from. The target stays invariant. Whether a step between two neighbouring
    points fails must not depend on where the tree was begun, or in which direction the step is taken. Then all points
    of a whole tree, taken as starts, come to that tree and end there with one and the same probability. Checking the
    way back (check_reversibility) makes failures of solves and of retracing alike from both sides; without it, what can
    be solved one way only is a source of bias. A divergence is measured from the start, as in Stan, so it is not the
    same from every point: those that are left out are likelier from some starts than from others. Their weight is
    about exp(-divergence_threshold) of the others', which is nothing at 1000 and much at 1. Below 10 there is a
    warning.

    Under `jax.vmap` the chains grow their trees in step, and all wait for the longest.

    Args:
        logdensity_fn, step_size, metric, integrator, reversibility_tolerance: see `hmc`. With
            `integrators.generalized_leapfrog` and a position-dependent metric this is Riemannian NUTS (Betancourt
            2013).
        max_depth: doublings at most, from 1 to 30: trajectories have up to 2^max_depth - 1 steps. Trees that are cut
            off are counted; the draws are right, and more alike.
        divergence_threshold: ΔH above which a point ends the tree; see above for small ones.
        check_reversibility: take each step back as well, and end the tree where that fails. None: where the integrator
            is implicit.

    Returns:
        A `SamplingAlgorithm` with the state of `hmc` and `NUTSInfo`. Its functions raise ValueError as those of `hmc`
        do.

    Raises:
        ValueError: if step_size, divergence_threshold or reversibility_tolerance is not positive, max_depth is not a
            whole number from 1 to 30, or integrator builds no step.
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
    max_depth = check_count("max_depth", max_depth, 1, 30)
    _warn_of_bias(settings.divergence_threshold)

    def make_init(logdensity_fn: LogDensityFn) -> Callable:
        def init(position: PyTree, rng_key: PRNGKey | None = None) -> HMCState:
            del rng_key
            return init_state(logdensity_fn, settings.step_size, metric, position)

        return init

    rules = _Rules(integrator, settings, max_depth)

    def make_kernel(logdensity_fn: LogDensityFn) -> Callable:
        def kernel(
            rng_key: PRNGKey, state: HMCState, step_size: StepSize, metric: Metric
        ) -> tuple[HMCState, NUTSInfo]:
            return _transition(logdensity_fn, rules, rng_key, state, step_size, metric)

        return kernel

    key = ("nuts", identity_of(integrator), max_depth, *settings[1:])
    return as_algorithm(logdensity_fn, make_init, make_kernel, key, settings.step_size, metric)


def _warn_of_bias(threshold: Any) -> None:
    if is_concrete(threshold) and threshold < FEWEST_NATS:
        warnings.warn(
            f"nuts with a divergence_threshold of {float(threshold):.3g}, below {FEWEST_NATS:g}, does not leave the "
            "target invariant: which points end a tree depends on where it began. The default is 1000",
            SamplingWarning,
            stacklevel=3,
        )


class _Rules(NamedTuple):
    """build: makes a step.  settings: checked.  max_depth: of trees."""

    build: IntegratorFn
    settings: Settings
    max_depth: int


def _transition(
    logdensity_fn: LogDensityFn,
    rules: _Rules,
    rng_key: PRNGKey,
    state: HMCState,
    step_size: StepSize,
    metric: Metric,
) -> tuple[HMCState, NUTSInfo]:
    state, step_size, metric = vary_as((state, step_size, metric), rng_key, state, step_size, metric)
    z, unravel = ravel(state.position)
    if jnp.finfo(z.dtype).bits < 32:
        raise ValueError(f"nuts needs positions of float32 at least, to weigh points by, got {z.dtype}")
    check_dimension(metric, step_size, z)
    take_step = rules.build(flatten(logdensity_fn, unravel), metric)
    key_momentum, key_tree = jax.random.split(rng_key)
    start = set_out(key_momentum, state, metric)

    def leap(state: IntegratorState, sign: Scalar) -> Leaf:
        return _leap(take_step, metric, rules.settings, state, sign * jnp.asarray(step_size, z.dtype))

    velocity, energy = _velocity_and_energy(metric, start)
    lifted, constants = lift(leap, start, energy)
    words = jax.random.bits(key_tree, (3,), jnp.uint32)
    lane = Lane(End(start, velocity), energy, words[0], words[1:])
    growth = Growth(
        lifted,
        _solves(take_step),
        rules.settings.checks(take_step, metric),
        rules.max_depth,
        rules.settings.divergence_threshold,
    )
    tree = in_step(lambda *arguments: grow(growth, *arguments), constants, lane)
    c = tree.candidate
    new = HMCState(unravel(c.position), c.logdensity, unravel(c.logdensity_grad), c.geometry)
    return new, _report(tree, energy)


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
        way_back = back.error, back.converged & (back.excess <= settings.tolerance(dtype))
    else:
        new, solver = take_step(state, epsilon)
        way_back = None
    velocity, energy = _velocity_and_energy(metric, new)
    is_sound = all_finite(new.position, new.logdensity_grad)
    return Leaf(new, velocity, energy, is_sound, solver if _solves(take_step) else None, way_back)


def _solves(take_step: Any) -> bool:
    """Whether a step has solves to report. What there is none of is not carried through the loop: its kernels count."""
    return not isinstance(take_step, integrators.Step) or take_step.is_implicit


def _report(tree: Tree, start_energy: Scalar) -> NUTSInfo:
    tally, candidate, error = tree.tally, tree.candidate, tree.tally.reversibility_error
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
        solver=exact_info(start_energy.dtype) if tally.solver is None else tally.solver,
        reversibility_error=jnp.zeros_like(start_energy) if error is None else error,
        is_reversible=tree.status != IRREVERSIBLE,
    )
