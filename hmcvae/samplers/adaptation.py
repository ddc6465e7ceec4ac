"""Warm-up: the step size by dual averaging, the mass matrix from the draws, or from the draws and their gradients.

Pure functions of explicit states, pooled over the chains: one step size and one mass matrix serve all of them,
so that their mean acceptance probability drives the step size and the draws of all of them feed the
(co)variance. `hmcvae.sample` puts the pieces together; each is also of use alone.

All of it is computed in float32 at least, whatever the dtype of the positions; step sizes are kept as logarithms, and
moments in units of the draws' own size, so that no scale that the dtype can hold is too large or too small.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from hmcvae._ravel import ravel_pytree
from hmcvae._sharding import vary_as
from hmcvae.samplers import masses
from hmcvae.samplers.base import with_geometry
from hmcvae.samplers.looks import Looking, Turn
from hmcvae.samplers.masses import Mass, check_mass
from hmcvae.samplers.moments import (
    WelfordState,
    metric_from_covariance,
    welford_covariance,
    welford_init,
    welford_update,
)
from hmcvae.samplers.schedules import Schedule, step_size_schedule, window_schedule
from hmcvae.samplers.step_size import (
    DualAveragingState,
    begin_search,
    dual_averaging_init,
    dual_averaging_update,
    log_limits,
    reasonable_step_size,
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
    "check_mass",
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

# Folded into a transition's key for the first look, so that none has a key that the transition itself splits off.
FIRST_LOOK = 1_819_242_347


class AdaptationState(NamedTuple):
    """What warm-up has learned: the step size, the draws' moments (None if the mass is kept) and the metric.

    is_working: whether `settle` found the averaged step size, or a smaller one, to be accepted.
    is_adapted: whether it found the acceptance probability at the averaged one near the target.
    num_moves: of all the chains in this window.  has_moved: whether any chain has, at all.
    """

    step_size: DualAveragingState
    moments: Any
    metric: Metric
    is_working: Bool[Array, ""]
    is_adapted: Bool[Array, ""]
    num_moves: Int[Array, ""]
    has_moved: Bool[Array, ""]


def adaptation_init(
    step_size: Any, metric: Metric, position: Vector, mass: Any = "diagonal"
) -> AdaptationState:
    """Begin from a step size and a metric; a mass that is to be adapted begins at the metric's own tensor, or at its
    diagonal, a hierarchical one at the metric itself.

    Raises:
        ValueError: if `mass` is not one of `Mass`; for "hierarchical", unless the metric is hierarchical with
            log-linear masses; for another one, if the metric depends on the position.
    """
    check_mass(mass, metric)
    dtype = jnp.promote_types(position.dtype, jnp.float32)
    dual = dual_averaging_init(step_size, dtype)
    moments, start = None, metric
    if mass is not None:
        moments, start = masses.begin(mass, metric, position, dtype)
    no, zero = jnp.asarray(False), jnp.zeros((), jnp.int32)
    return AdaptationState(dual, moments, start, no, no, zero, no)


def adaptation_update(
    state: AdaptationState,
    acceptance_rate: ArrayLike,
    positions: Float[Array, "chain d"],
    collects: Any,
    ends_window: Any,
    target: ArrayLike = 0.8,
    gradients: Any = None,
    num_moves: Any = None,
) -> AdaptationState:
    """Learn from one transition of all the chains; `collects` and `ends_window` come from the schedule.

    Args:
        gradients: of the log density at the positions, [chain, d]; for masses that are learned from them.
        num_moves: chains that have moved; None: all. In a window without a move the mass stays what it was: the
            positions of chains that stand are where they began, and say nothing of the posterior.
    """
    dual = dual_averaging_update(state.step_size, acceptance_rate, target)
    # Where everything is accepted, or nothing, ε runs away: it stays where the positions' dtype can follow.
    smallest, largest = log_limits(positions.dtype)
    dual = dual._replace(
        log_step_size=jnp.clip(dual.log_step_size, smallest, largest),
        log_step_size_average=jnp.clip(dual.log_step_size_average, smallest, largest),
    )
    num_moves = jnp.asarray(positions.shape[0] if num_moves is None else num_moves, jnp.int32)
    state = state._replace(step_size=dual, has_moved=state.has_moved | (num_moves > 0))
    if state.moments is None:
        return state
    moments = masses.update(state.moments, state.metric, positions, gradients, collects)
    moves = state.num_moves + jnp.where(collects, num_moves, 0)

    def set_mass() -> Metric:
        found, is_usable = masses.fit(moments, state.metric, positions)
        is_usable = is_usable & (moves > 0)
        return jax.tree.map(lambda new, old: jnp.where(is_usable, new, old), found, state.metric)

    return state._replace(
        metric=lax.cond(ends_window, set_mass, lambda: state.metric),
        moments=masses.reset(moments, ends_window),
        num_moves=jnp.where(ends_window, 0, moves),
    )


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
    every = jax.vmap(kernel, (0, 0, None, None))

    def run(looks: Any, index: Any, states: Any, step_size: Scalar, metric: Metric, _: Any) -> tuple:
        keys = lax.cond(looks, lambda: transition_keys(rng_keys, FIRST_LOOK + index), lambda: rng_keys)
        states, info = every(keys, states, step_size, metric)
        return states, info, info

    first = jnp.exp(learned.step_size.log_step_size_average)
    shapes = jax.eval_shape(lambda: every(rng_keys, states, first, learned.metric))[1]
    info = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    learned, states, info = vary_as((learned, states, info), rng_keys, states)
    task = Task(flags, target, jnp.asarray(settles), rng_keys.shape[0], pool)
    return in_turns(run, states, learned, info, task)


class Task(NamedTuple):
    """Of a warm-up transition, as in `warmup_transition`.

    is_drawing: whether it is a stretch of draws instead, from which nothing is learned; None: it is known not to be.
    """

    flags: Schedule
    target: ArrayLike
    settles: Bool[Array, ""]
    num_chains: int
    pool: Callable[[PyTree], PyTree] = lambda values: values
    is_drawing: Any = None


def in_turns(
    run: Callable, states: Any, learned: AdaptationState, extra: PyTree, task: Task
) -> tuple[tuple[Any, AdaptationState], PyTree]:
    """A warm-up transition of all the chains: looks at step sizes, as far as there are any, then the transition itself.

    Args:
        run: `(looks, index, states, step_size, metric, extra) -> (states, info, extra)`, the transition, or where
            `looks` one for the look of that index, whose states are dropped; it stands once in the program, which is
            what a compiler takes its time for.
        extra: carried through the turns for `run`.
    """
    looking = Looking.of(learned.step_size, task.num_chains, task.flags.restarts, task.target, task.settles)
    yes = jnp.asarray(True)
    begins = looking.begins if task.is_drawing is None else looking.begins & ~task.is_drawing
    kept = learned.metric if learned.moments is None else None

    def bare(learned: AdaptationState) -> AdaptationState:
        # A metric that is kept may have functions among its static parts, and JAX keeps the structure of a carry.
        return learned if kept is None else learned._replace(metric=None)

    def whole(learned: AdaptationState) -> AdaptationState:
        return learned if kept is None else learned._replace(metric=kept)

    def turn(carry: tuple[Turn, PyTree]) -> tuple[Turn, PyTree]:
        before, extra = carry
        learned = whole(before.learned)
        step_size = jnp.where(before.looks, before.search.step_size, jnp.exp(learned.step_size.log_step_size))
        after, info, extra = run(before.looks, before.index, before.states, step_size, learned.metric, extra)

        def move() -> Turn:
            states, updated = _learn(before.states, after, info, learned, task)
            return vary_as(before._replace(states=states, learned=bare(updated), has_moved=yes), before)

        def look() -> Turn:
            return vary_as(looking.update(before, _mean_rate(task.pool(info.acceptance_rate))), before)

        def keep() -> Turn:
            return vary_as(before._replace(states=after, has_moved=yes), before)

        if task.is_drawing is None:
            return lax.cond(before.looks, look, move), extra
        return lax.switch(jnp.where(task.is_drawing, 2, before.looks), (move, look, keep)), extra

    first = jnp.exp(learned.step_size.log_step_size_average)
    start = Turn(
        states,
        # So that a look that finds nothing to mend leaves them as they are.
        bare(learned._replace(is_working=yes, is_adapted=yes)),
        begin_search(first),
        jnp.zeros((), jnp.int32),
        jnp.zeros_like(first),
        begins,
        ~yes,
    )
    start = vary_as(start, states, bare(learned))
    end, extra = lax.while_loop(lambda carry: ~carry[0].has_moved, turn, (start, extra))
    return (end.states, whole(end.learned)), extra


def transition_keys(rng_keys: Array, index: Any) -> Array:
    """A key of each chain for this transition; of a transition's keys, for the look FIRST_LOOK + its number."""
    return jax.vmap(jax.random.fold_in, (0, None))(rng_keys, index)


def _learn(
    before: Any,
    states: Any,
    info: Any,
    learned: AdaptationState,
    task: Task,
) -> tuple[Any, AdaptationState]:
    """What a transition from the states `before` teaches, and where the chains stand after it."""
    own, gradients = ravel_chains(states.position), None
    if masses.needs_gradients(learned.moments):
        if not hasattr(states, "logdensity_grad"):
            raise ValueError(
                "masses that are learned from gradients need an algorithm whose state has logdensity_grad, got "
                f"{type(states).__name__}"
            )
        gradients = task.pool(ravel_chains(states.logdensity_grad))
    moved = jnp.any(own != ravel_chains(before.position), axis=1)
    positions, rates, moved = task.pool((own, info.acceptance_rate, moved))
    updated = adaptation_update(
        learned,
        _mean_rate(rates),
        positions,
        task.flags.collects,
        task.flags.ends_window,
        task.target,
        gradients,
        jnp.where(task.settles, 0, jnp.sum(moved, dtype=jnp.int32)),
    )
    if updated.metric.is_position_dependent and updated.moments is not None:
        # What the states keep of the metric is of the new one from here on.
        states = with_geometry(states, jax.vmap(updated.metric.carry)(own))
    dual = jax.tree.map(
        lambda old, new: jnp.where(task.settles, old, new), learned.step_size, updated.step_size
    )
    return states, updated._replace(step_size=dual)


def _mean_rate(rates: Array) -> Scalar:
    """The mean acceptance probability over the chains, NaN as 0; in float32 at least, where a mean is worth having."""
    return jnp.mean(jnp.nan_to_num(rates.astype(jnp.promote_types(rates.dtype, jnp.float32))))


def ravel_chains(positions: PyTree) -> Float[Array, "chain d"]:
    """Each chain's position as a row."""
    return jax.vmap(lambda position: ravel_pytree(position)[0])(positions)
