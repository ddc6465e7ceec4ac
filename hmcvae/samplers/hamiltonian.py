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
import numpy as np
from jaxtyping import Array, Bool, Int

from hmcvae import integrators, metrics
from hmcvae._checks import check_flag, check_function, check_positive, is_concrete
from hmcvae._ravel import ravel_pytree
from hmcvae._sharding import vary_as
from hmcvae.integrators import IntegratorState
from hmcvae.samplers.lengths import check_num_steps, draw_num_steps
from hmcvae.solvers import SolverInfo
from hmcvae.types import LogDensityFn, Metric, PRNGKey, PyTree, Scalar, StepSize, Vector

# (logdensity_fn, metric) -> step, and a step is (state, step_size) -> (state, SolverInfo).
IntegratorFn = Callable[[LogDensityFn, Metric], Callable]
_IDENTITY = metrics.identity()


class HMCState(NamedTuple):
    """Where a chain stands.

    position: z, a pytree of float arrays as the user gave it.
    logdensity: log p(z), in the position's dtype.
    logdensity_grad: ∇ log p(z), the position's pytree; carried, so that L leapfrog steps cost L gradients.
    geometry: what a metric that depends on the position keeps of z, so that it is built once; () for others.
    """

    position: PyTree
    logdensity: Scalar
    logdensity_grad: PyTree
    geometry: Any = ()


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


class SamplingAlgorithm(NamedTuple):
    """A Markov kernel by BlackJAX's conventions, and what warm-up needs to tune it.

    init: `(position, rng_key=None) -> HMCState`.
    step: `(rng_key, state) -> (HMCState, HMCInfo)`.
    kernel: `(rng_key, state, step_size, metric) -> (HMCState, HMCInfo)`, of which step is the case with
    step_size: ε as given, and
    metric: as given.
    """

    init: Callable
    step: Callable
    kernel: Callable
    step_size: Any
    metric: Metric


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
        logdensity_fn: position -> log p(position) up to a constant, a scalar.
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
    check_function("logdensity_fn", logdensity_fn, "position -> log p(position)")
    step_size = check_positive("step_size", step_size, is_array=True)
    divergence_threshold = check_positive("divergence_threshold", divergence_threshold)
    reversibility_tolerance = check_positive(
        "reversibility_tolerance", reversibility_tolerance, optional=True
    )
    metrics.check_is_metric(metric)
    build: IntegratorFn = _check_integrator(integrator)
    if check_reversibility is not None:
        check_reversibility = check_flag("check_reversibility", check_reversibility)
    num_integration_steps = check_num_steps(num_integration_steps)

    def init(position: PyTree, rng_key: PRNGKey | None = None) -> HMCState:
        del rng_key  # BlackJAX's drivers pass one
        return _init(logdensity_fn, step_size, metric, position)

    def kernel(
        rng_key: PRNGKey, state: HMCState, step_size: StepSize, metric: Metric
    ) -> tuple[HMCState, HMCInfo]:
        # Inside `shard_map` all that meets in the loops below must vary over the same axes.
        state, step_size, metric = vary_as((state, step_size, metric), rng_key, state, step_size, metric)
        z, unravel = ravel(state.position)
        check_dimension(metric, step_size, z)
        take_step = build(flatten(logdensity_fn, unravel), metric)
        key_momentum, key_length, key_accept = jax.random.split(rng_key, 3)
        num_steps = draw_num_steps(num_integration_steps, key_length)
        noise = jax.random.normal(key_momentum, z.shape, z.dtype)
        momentum = metric.carried_factor(z, state.geometry).sqrt_matvec(noise)
        gradient = ravel_pytree(state.logdensity_grad)[0]
        start = IntegratorState(z, momentum, state.logdensity, gradient, state.geometry)
        check = check_reversibility
        if check is None:
            check = getattr(take_step, "is_implicit", metric.is_position_dependent)
        if check:
            most = _tolerance(reversibility_tolerance, z.dtype)
            end, solver, retrace = _there_and_back(take_step, metric, start, step_size, num_steps, most)
        else:
            end, solver = integrators.integrate(take_step, start, step_size, num_steps)
            retrace = jnp.zeros((), z.dtype), jnp.asarray(True)
        energies = _energy(metric, start), _energy(metric, end)
        info = _judge(key_accept, end, energies, solver, retrace, num_steps, divergence_threshold)
        proposal = HMCState(unravel(end.position), end.logdensity, unravel(end.logdensity_grad), end.geometry)
        return jax.tree.map(lambda new, old: jnp.where(info.is_accepted, new, old), proposal, state), info

    def step(rng_key: PRNGKey, state: HMCState) -> tuple[HMCState, HMCInfo]:
        return kernel(rng_key, state, step_size, metric)

    return SamplingAlgorithm(init, step, kernel, step_size, metric)


def _init(logdensity_fn: LogDensityFn, step_size: Any, metric: Metric, position: PyTree) -> HMCState:
    """The state at a position, which is checked."""
    z, unravel = ravel(position)
    check_dimension(metric, step_size, z)
    check_finite("initial position", position)
    logdensity, gradient = jax.value_and_grad(flatten(logdensity_fn, unravel))(z)
    check_finite("logdensity at the initial position", logdensity)
    check_finite("gradient of the logdensity at the initial position", gradient)
    if metric.is_position_dependent:
        metrics.check_metric(metric, z)
    return HMCState(unravel(z), logdensity, unravel(gradient), metric.carry(z))


def _there_and_back(
    take_step: Any, metric: Metric, start: IntegratorState, step_size: StepSize, num_steps: Any, most: Any
) -> tuple[IntegratorState, SolverInfo, tuple[Scalar, Bool[Array, ""]]]:
    """A trajectory taken back: its end, the solves, and (by how much the way back missed, whether it is reversible)."""
    end, solver, back = integrators.integrate_retraced(take_step, metric, start, step_size, num_steps)
    return end, solver, (back.error, back.converged & (back.excess <= most))


def _check_integrator(integrator: Any) -> Any:
    is_step = isinstance(integrator, integrators.Step)
    if is_step or not callable(integrator):
        raise ValueError(
            "integrator must build a step, (logdensity_fn, metric) -> step, such as integrators.leapfrog; "
            f"got {'a step' if is_step else repr(integrator)}"
        )
    return integrator


def _energy(metric: Metric, state: IntegratorState) -> Scalar:
    """H(z, v), in the position's dtype."""
    factor = metric.carried_factor(state.position, state.geometry)
    whitened = factor.sqrt_solve(state.momentum)
    return 0.5 * jnp.dot(whitened, whitened) + 0.5 * factor.log_det - state.logdensity


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
    # A finite density with a gradient that is not would stick the chain for good.
    is_finite = (
        jnp.isfinite(delta) & jnp.isfinite(end.position).all() & jnp.isfinite(end.logdensity_grad).all()
    )
    is_divergent = solver.converged & ~(is_finite & (jnp.abs(delta) <= threshold))
    reversibility_error, is_reversible = retrace
    is_valid = solver.converged & is_finite & is_reversible
    acceptance_rate = jnp.where(is_valid, jnp.exp(jnp.minimum(-delta, 0.0)), 0.0)
    is_accepted = jax.random.uniform(rng_key, (), delta.dtype) < acceptance_rate
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


def _tolerance(tolerance: Any, dtype: Any) -> Any:
    return jnp.finfo(dtype).eps ** 0.5 if tolerance is None else tolerance


def ravel(position: PyTree) -> tuple[Vector, Callable[[Vector], PyTree]]:
    """The position as one vector [d], and the way back; no leaf stays weakly typed."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(position)]
    kinds = sorted({str(leaf.dtype) for leaf in leaves if not jnp.issubdtype(leaf.dtype, jnp.floating)})
    if kinds or sum(leaf.size for leaf in leaves) == 0:
        raise ValueError(
            f"the position must hold at least one number and only floating-point arrays, "
            f"got {', '.join(kinds) or 'an empty pytree'}"
        )
    return ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), position))


def flatten(logdensity_fn: LogDensityFn, unravel: Callable[[Vector], PyTree]) -> LogDensityFn:
    """The log density of the ravelled position, a scalar in the position's dtype."""

    def flat(z: Vector) -> Scalar:
        value = logdensity_fn(unravel(z))
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(value)]
        if [leaf.shape for leaf in leaves] != [()] or jnp.iscomplexobj(leaves[0]):
            came = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves) or "nothing"
            raise ValueError(f"logdensity_fn must return one real scalar, got {came}")
        return leaves[0].astype(z.dtype)

    return flat


def check_dimension(metric: Metric, step_size: Any, z: Vector) -> None:
    """Raise ValueError unless metric and step size are for positions of z's dimension; computes nothing."""
    metrics.check_is_metric(metric)
    d = z.shape[0]
    if jnp.shape(step_size) not in ((), (d,)):
        raise ValueError(f"step_size must be a number or have shape ({d},), got shape {jnp.shape(step_size)}")
    expected = f"metric must fit the position's dimension d = {d}"
    try:
        shape = jax.eval_shape(metric.tensor, z).shape
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(
            f"{expected}, got {type(metric).__name__}, which fails there: {error} "
            f"(a metric takes the ravelled position, a vector [{d}]; see jax.flatten_util.ravel_pytree)"
        ) from error
    if shape != (d, d):
        raise ValueError(f"{expected}, got {type(metric).__name__} with a tensor of shape {shape}")


def check_finite(name: str, value: PyTree) -> None:
    """Raise ValueError for a start from which no chain can move; traced values pass unseen."""
    for leaf in jax.tree.leaves(value):
        # NumPy, since inside `jit` jax.numpy traces even what is done to constants.
        if is_concrete(leaf) and not np.all(np.isfinite(np.asarray(leaf))):
            raise ValueError(f"the {name} must be finite, got {leaf}")
