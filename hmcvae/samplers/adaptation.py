"""Warm-up: the step size by dual averaging, the mass matrix from the draws.

Pure functions of explicit states, pooled over the chains: one step size and one mass matrix serve all of them,
so that their mean acceptance probability drives the step size and the draws of all of them feed the
(co)variance. `hmcvae.sample` puts the pieces together; each is also of use alone.

All of it is computed in float32 at least, whatever the dtype of the positions; step sizes are kept as logarithms, and
moments in units of the draws' own size, so that no scale that the dtype can hold is too large or too small.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from hmcvae import metrics
from hmcvae._checks import check_count
from hmcvae._numerics import all_finite
from hmcvae._ravel import ravel_pytree
from hmcvae._sharding import vary_as
from hmcvae.samplers import hierarchical
from hmcvae.samplers.moments import (
    WelfordState,
    metric_from_covariance,
    welford_covariance,
    welford_init,
    welford_update,
)
from hmcvae.samplers.step_size import (
    DualAveragingState,
    dual_averaging_at,
    dual_averaging_init,
    dual_averaging_update,
    log_limits,
    reasonable_step_size,
    search_step_size,
)
from hmcvae.types import ArrayLike, Metric, PyTree, Scalar, Vector

__all__ = [
    "AdaptationState",
    "DualAveragingState",
    "Mass",
    "Schedule",
    "WelfordState",
    "adaptation_init",
    "adaptation_update",
    "dual_averaging_init",
    "dual_averaging_update",
    "metric_from_covariance",
    "reasonable_step_size",
    "step_size_schedule",
    "warmup_transition",
    "welford_covariance",
    "welford_init",
    "welford_update",
    "window_schedule",
]

# The form of an adapted mass matrix; None keeps the metric as it is.
Mass = Literal["diagonal", "dense", "hierarchical"] | None
# Of the last look at the step size: transitions that it rests on; the length of a last stage that needs none, and of
# one that is too short to have found anything.
NUM_LOOKS, LONG_STAGE, SHORT_STAGE = 16, 50, 10
# Folded into a transition's key for the first look, so that none has a key that the transition itself splits off.
FIRST_LOOK = 1_819_242_347


class Schedule(NamedTuple):
    """What each warm-up transition does; three bool arrays [num_warmup].

    collects: its draws feed the covariance.
    ends_window: after it the mass is set and the covariance starts afresh.
    restarts: before it a reasonable step size is sought and dual averaging starts afresh.
    """

    collects: np.ndarray
    ends_window: np.ndarray
    restarts: np.ndarray


def step_size_schedule(num_warmup: Any) -> Schedule:
    """The step size alone, from the first transition to the last.

    Raises:
        ValueError: for a negative count.
    """
    num_warmup = check_count("num_warmup", num_warmup, 0)
    collects, ends, restarts = (np.zeros(num_warmup, bool) for _ in range(3))
    restarts[:1] = True
    return Schedule(collects, ends, restarts)


def window_schedule(num_warmup: Any, *, initial: Any = 75, window: Any = 25, final: Any = 50) -> Schedule:
    """Stan's three stages (reference manual, "HMC algorithm parameters: automatic parameter tuning").

    First the step size alone, to reach the typical set; then windows of draws for the mass, each twice as long
    as the one before, the last one stretched to the end of its stage; at last the step size alone. A warm-up
    too short for the given lengths splits 15 : 75 : 10, with ten transitions at least for the last stage: a step size
    is not found in fewer. One under 20 transitions adapts the step size alone.

    Raises:
        ValueError: for a negative count, or a window without transitions.
    """
    schedule = step_size_schedule(num_warmup)
    num_warmup = len(schedule.restarts)
    initial, final = check_count("initial", initial, 0), check_count("final", final, 0)
    window = check_count("window", window, 1)
    if num_warmup < 20:
        return schedule
    if initial + window + final > num_warmup:
        initial, final = int(0.15 * num_warmup), max(10, int(0.1 * num_warmup))
        window = num_warmup - initial - final
    start, stop = initial, num_warmup - final
    schedule.collects[start:stop] = True
    while start < stop:
        # A window is stretched when the next, twice as long, would not fit behind it.
        end = start + window if start + 3 * window <= stop else stop
        schedule.ends_window[end - 1] = True
        schedule.restarts[end : end + 1] = True
        start, window = end, 2 * window
    return schedule


class AdaptationState(NamedTuple):
    """What warm-up has learned: the step size, the draws' moments (None if the mass is kept) and the metric.

    is_working: whether `settle` found the averaged step size, or a smaller one, to be accepted.
    is_adapted: whether it found the acceptance probability at the averaged one near the target.
    """

    step_size: DualAveragingState
    moments: WelfordState | hierarchical.HierarchicalMoments | None
    metric: Metric
    is_working: Bool[Array, ""]
    is_adapted: Bool[Array, ""]


def adaptation_init(
    step_size: Any, metric: Metric, position: Vector, mass: Any = "diagonal"
) -> AdaptationState:
    """Begin from a step size and a metric; a mass that is to be adapted begins at the metric's own tensor, a
    hierarchical one at the metric itself.

    Raises:
        ValueError: if `mass` is not "diagonal", "dense", "hierarchical" or None; for "hierarchical", unless the metric
            is hierarchical with log-linear masses; for another one, if the metric depends on the position.
    """
    check_mass(mass, metric)
    dtype = jnp.promote_types(position.dtype, jnp.float32)
    dual = dual_averaging_init(step_size, dtype)
    no = jnp.asarray(False)
    if mass is None:
        return AdaptationState(dual, None, metric, no, no)
    if isinstance(metric, metrics.Hierarchical):
        masses = jnp.broadcast_to(metric.first_mass, (len(metric.blocks[0]),))
        start = jax.tree.map(lambda leaf: leaf.astype(dtype), replace(metric, first_mass=masses))
        return AdaptationState(dual, hierarchical.moments_init(start, dtype), start, no, no)
    tensor = metric.tensor(position).astype(dtype)
    start = metrics.dense(tensor) if mass == "dense" else metrics.diagonal(jnp.diagonal(tensor))
    return AdaptationState(dual, welford_init(position.shape[0], mass, dtype), start, no, no)


def adaptation_update(
    state: AdaptationState,
    acceptance_rate: ArrayLike,
    positions: Float[Array, "chain d"],
    collects: Any,
    ends_window: Any,
    target: ArrayLike = 0.8,
    gradients: Any = None,
) -> AdaptationState:
    """Learn from one transition of all the chains; `collects` and `ends_window` come from the schedule. Hierarchical
    masses are learned from the `gradients` of the log density at the positions, [chain, d]."""
    dual = dual_averaging_update(state.step_size, acceptance_rate, target)
    # Where everything is accepted, or nothing, ε runs away: it stays where the positions' dtype can follow.
    smallest, largest = log_limits(positions.dtype)
    dual = dual._replace(
        log_step_size=jnp.clip(dual.log_step_size, smallest, largest),
        log_step_size_average=jnp.clip(dual.log_step_size_average, smallest, largest),
    )
    if state.moments is None:
        return state._replace(step_size=dual)
    old: Any = state.moments
    metric: Any = state.metric
    if isinstance(metric, metrics.Hierarchical):
        updated: Any = hierarchical.moments_update(old, metric, positions, gradients)
    else:
        updated = welford_update(old, positions)
    moments = jax.tree.map(lambda new, old: jnp.where(collects, new, old), updated, old)

    def set_mass() -> tuple[Any, Metric]:
        if isinstance(metric, metrics.Hierarchical):
            found = hierarchical.fit(moments, metric)
            mass = jax.vmap(found.masses)(positions.astype(metric.first_mass.dtype))
        else:
            found: Any = metric_from_covariance(welford_covariance(moments))
            mass = jnp.diagonal(found.mass) if found.mass.ndim == 2 else found.mass
        is_usable = _fits(found, mass, positions.dtype)
        found = jax.tree.map(lambda new, old: jnp.where(is_usable, new, old), found, metric)
        return jax.tree.map(jnp.zeros_like, moments), found

    moments, metric = lax.cond(ends_window, set_mass, lambda: (moments, metric))
    return state._replace(step_size=dual, moments=moments, metric=metric)


def _fits(metric: Any, mass: Array, dtype: Any) -> Bool[Array, ""]:
    """Whether masses and their reciprocals are finite and not 0 in the positions' dtype."""
    info = jnp.finfo(dtype)
    smallest = max(4 * float(info.tiny), 4 / float(info.max))
    is_inside = (mass > smallest) & (mass < 1 / smallest)
    return is_inside.all() & all_finite(*jax.tree.leaves(metric))


def warmup_transition(
    kernel: Callable,
    rng_keys: Array,
    states: Any,
    learned: AdaptationState,
    flags: Schedule,
    target: ArrayLike = 0.8,
    settles: ArrayLike = False,
    pool: Callable[[PyTree], PyTree] = lambda values: values,
) -> tuple[tuple[Any, AdaptationState], Any]:
    """One transition of all the chains, and what is learned from it.

    Args:
        kernel: `(rng_key, state, step_size, metric) -> (state, info)`, of one chain.
        rng_keys: a key for each chain.
        states: the chains' states, stacked.
        learned: from `adaptation_init` or the last transition.
        flags: this transition's entries of the schedule.
        target: acceptance probability.
        settles: call once more with True, and flags that are all False, after the last transition. Then the averaged
            step size is looked at with fresh randomness, unless a long last stage vouches for it, and halved until
            half of the target is accepted; nothing else is learned.
        pool: of values with a chain axis, before they are summed over it: brings them to where that is done.

    Returns:
        ((states, learned), info), info with a leading chain axis.
    """
    learned = vary_as(learned, rng_keys, states)
    dual, is_working, is_adapted = _reconsider(
        kernel, rng_keys, states, learned, flags.restarts, target, settles, pool
    )
    states, info = jax.vmap(kernel, (0, 0, None, None))(
        rng_keys, states, jnp.exp(dual.log_step_size), learned.metric
    )
    learned = learned._replace(step_size=dual, is_working=is_working, is_adapted=is_adapted)
    own, gradients = ravel_chains(states.position), None
    if isinstance(learned.moments, hierarchical.HierarchicalMoments):
        gradients = pool(ravel_chains(states.logdensity_grad))
    positions, rates = pool((own, info.acceptance_rate))
    updated = adaptation_update(
        learned, _mean_rate(rates), positions, flags.collects, flags.ends_window, target, gradients
    )
    if gradients is not None:
        # What the states keep of the metric is of the new one from here on.
        states = states._replace(geometry=jax.vmap(updated.metric.carry)(own))
    dual = jax.tree.map(lambda old, new: jnp.where(settles, old, new), dual, updated.step_size)
    return (states, updated._replace(step_size=dual)), info


def _reconsider(
    kernel: Callable,
    rng_keys: Array,
    states: Any,
    learned: AdaptationState,
    restarts: ArrayLike,
    target: ArrayLike,
    settles: ArrayLike,
    pool: Callable[[PyTree], PyTree],
) -> tuple[DualAveragingState, Bool[Array, ""], Bool[Array, ""]]:
    """(the state of the step size, whether its average is accepted, whether near the target) before a transition.

    A restart looks for a reasonable step size, upwards or downwards; the last look goes downwards alone.
    """
    target = jnp.asarray(target, jnp.float32)
    least, most = 0.5 * target, 1 - 0.02 * (1 - target)
    num_looks = jnp.where(settles, -(-NUM_LOOKS // rng_keys.shape[0]), 1)

    def acceptance(step_size: Scalar) -> Scalar:
        def look(index: Any, total: Scalar) -> Scalar:
            keys = jax.vmap(jax.random.fold_in, (0, None))(rng_keys, FIRST_LOOK + index)
            info = jax.vmap(kernel, (0, 0, None, None))(keys, states, step_size, learned.metric)[1]
            return total + _mean_rate(pool(info.acceptance_rate)).astype(total.dtype)

        zero = vary_as(jnp.zeros_like(step_size), rng_keys, states, step_size)
        return lax.fori_loop(0, num_looks, look, zero) / num_looks

    def search(dual: DualAveragingState) -> tuple:
        found = search_step_size(
            acceptance,
            jnp.exp(dual.log_step_size_average),
            jnp.where(settles, least, 0.5),
            may_grow=~jnp.asarray(settles),
            dtype=jnp.result_type(*(leaf for leaf in jax.tree.leaves(states.position) if leaf.size)),
        )
        # A search that ended without an answer leaves ε where it was.
        log_found = jnp.where(found.has_crossed, jnp.log(found.step_size), dual.log_step_size_average)
        is_adapted = (
            found.has_crossed & (found.count == 1) & (found.rate < most) & (dual.count >= SHORT_STAGE)
        )
        return dual_averaging_at(log_found), found.has_crossed, is_adapted

    dual = learned.step_size
    m = dual.count.astype(dual.error_average.dtype)
    # The mean acceptance probability since the last restart is δ - H̄ (m + t₀)/m.
    mean_rate = target - dual.error_average * (m + 10) / jnp.maximum(m, 1)
    is_known = (m >= LONG_STAGE) & (mean_rate > least) & (mean_rate < most)
    known = vary_as((jnp.asarray(True), jnp.asarray(True)), dual)
    return lax.cond(jnp.asarray(restarts) | (settles & ~is_known), search, lambda dual: (dual, *known), dual)


def _mean_rate(rates: Array) -> Scalar:
    """The mean acceptance probability over the chains, NaN as 0; in float32 at least, where a mean is worth having."""
    return jnp.mean(jnp.nan_to_num(rates.astype(jnp.promote_types(rates.dtype, jnp.float32))))


def ravel_chains(positions: PyTree) -> Float[Array, "chain d"]:
    """Each chain's position as a row."""
    return jax.vmap(lambda position: ravel_pytree(position)[0])(positions)


def check_mass(mass: Any, metric: Any) -> None:
    """Raise ValueError unless `mass` names a form that can replace the metric."""
    if mass not in ("diagonal", "dense", "hierarchical", None):
        raise ValueError(
            f'the adapted mass must be "diagonal", "dense", "hierarchical" or None, got {mass!r}'
        )
    if mass == "hierarchical":
        functions = getattr(metric, "mass_fns", ())
        if not functions or not all(isinstance(function, metrics.LogLinear) for function in functions):
            raise ValueError(
                "hierarchical masses are tuned where all mass functions are log-linear, as in "
                f"metrics.hierarchical(blocks), got {type(metric).__name__}"
            )
        return
    if mass is not None and getattr(metric, "is_position_dependent", False):
        raise ValueError(
            f"a metric that depends on the position has no mass to adapt, got {mass!r} for {type(metric).__name__}"
        )
