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
    Search,
    begin_search,
    dual_averaging_at,
    dual_averaging_init,
    dual_averaging_update,
    log_limits,
    reasonable_step_size,
    search_goes_on,
    search_update,
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

# Of the last look at the step size: transitions that it rests on; the length of a last stage that needs none, and of
# one that is too short to have found anything.
NUM_LOOKS, LONG_STAGE, SHORT_STAGE = 16, 50, 10
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
    learned = vary_as(learned, rng_keys, states)
    settles = jnp.asarray(settles)
    looking = _Looking.of(learned.step_size, rng_keys.shape[0], flags.restarts, target, settles)
    yes = jnp.asarray(True)

    def turn(carry: _Turn) -> _Turn:
        # A look at a step size, or the transition: the kernel stands here once, so it is compiled once.
        looks, search, learned = carry.looks, carry.search, carry.learned
        others = jax.vmap(jax.random.fold_in, (0, None))(rng_keys, FIRST_LOOK + carry.index)
        step_size = jnp.where(looks, search.step_size, jnp.exp(learned.step_size.log_step_size))
        after, info = jax.vmap(kernel, (0, 0, None, None))(
            jnp.where(_as_wide(looks, rng_keys), others, rng_keys), carry.states, step_size, learned.metric
        )

        def look() -> _Turn:
            return looking.update(carry, _mean_rate(pool(info.acceptance_rate)))

        def move() -> _Turn:
            states, updated = _learn(carry.states, after, info, learned, flags, target, settles, pool)
            return carry._replace(states=states, learned=updated, info=info, has_moved=yes)

        return lax.cond(looks, look, move)

    first = jnp.exp(learned.step_size.log_step_size_average)
    shapes = jax.eval_shape(jax.vmap(kernel, (0, 0, None, None)), rng_keys, states, first, learned.metric)[1]
    carry = _Turn(
        states,
        learned._replace(is_working=yes, is_adapted=yes),
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes),
        begin_search(first),
        jnp.zeros((), jnp.int32),
        jnp.zeros_like(first),
        looking.begins,
        ~yes,
    )
    carry = vary_as(carry, rng_keys, states, learned)
    end = lax.while_loop(lambda carry: ~carry.has_moved, turn, carry)
    return (end.states, end.learned), end.info


class _Turn(NamedTuple):
    """Where a warm-up transition stands. looks: whether a step size is looked at next.  index, total: of the looks at
    this one, and of their acceptance probabilities."""

    states: Any
    learned: AdaptationState
    info: Any
    search: Search
    index: Int[Array, ""]
    total: Scalar
    looks: Bool[Array, ""]
    has_moved: Bool[Array, ""]


class _Looking(NamedTuple):
    """The search for a step size before a transition. A restart looks upwards or downwards; the last look goes
    downwards alone.

    begins: whether there is one.
    """

    begins: Bool[Array, ""]
    settles: Bool[Array, ""]
    num_looks: Int[Array, ""]
    least: Scalar
    most: Scalar

    @classmethod
    def of(
        cls,
        dual: DualAveragingState,
        num_chains: int,
        restarts: ArrayLike,
        target: ArrayLike,
        settles: Bool[Array, ""],
    ) -> "_Looking":
        target = jnp.asarray(target, jnp.float32)
        least, most = 0.5 * target, 1 - 0.02 * (1 - target)
        m = dual.count.astype(dual.error_average.dtype)
        # The mean acceptance probability since the last restart is δ - H̄ (m + t₀)/m.
        mean_rate = target - dual.error_average * (m + 10) / jnp.maximum(m, 1)
        is_known = (m >= LONG_STAGE) & (mean_rate > least) & (mean_rate < most)
        num_looks = jnp.where(settles, -(-NUM_LOOKS // num_chains), 1)
        return cls(jnp.asarray(restarts) | (settles & ~is_known), settles, num_looks, least, most)

    def update(self, carry: _Turn, rate: Scalar) -> _Turn:
        """After another look."""
        total = carry.total + rate.astype(carry.total.dtype)
        index, is_whole = carry.index + 1, carry.index + 1 == self.num_looks
        leaves = (leaf for leaf in jax.tree.leaves(carry.states.position) if leaf.size)
        found = search_update(
            carry.search,
            total / self.num_looks,
            jnp.where(self.settles, self.least, 0.5),
            may_grow=~self.settles,
            dtype=jnp.result_type(*leaves),
        )
        search = jax.tree.map(lambda new, old: jnp.where(is_whole, new, old), found, carry.search)
        dual, looks = carry.learned.step_size, search_goes_on(search)
        # A search that ended without an answer leaves ε where it was.
        log_found = jnp.where(search.has_crossed, jnp.log(search.step_size), dual.log_step_size_average)
        is_near = (search.count == 1) & (search.rate < self.most) & (dual.count >= SHORT_STAGE)
        ended = carry.learned._replace(
            step_size=dual_averaging_at(log_found),
            is_working=search.has_crossed,
            is_adapted=search.has_crossed & is_near,
        )
        return carry._replace(
            learned=jax.tree.map(lambda new, old: jnp.where(looks, old, new), ended, carry.learned),
            search=search,
            index=jnp.where(is_whole, 0, index),
            total=jnp.where(is_whole, 0, total),
            looks=looks,
        )


def _learn(
    before: Any,
    states: Any,
    info: Any,
    learned: AdaptationState,
    flags: Schedule,
    target: ArrayLike,
    settles: Bool[Array, ""],
    pool: Callable[[PyTree], PyTree],
) -> tuple[Any, AdaptationState]:
    """What a transition from the states `before` teaches, and where the chains stand after it."""
    own, gradients = ravel_chains(states.position), None
    if masses.needs_gradients(learned.moments):
        if not hasattr(states, "logdensity_grad"):
            raise ValueError(
                "masses that are learned from gradients need an algorithm whose state has logdensity_grad, got "
                f"{type(states).__name__}"
            )
        gradients = pool(ravel_chains(states.logdensity_grad))
    moved = jnp.any(own != ravel_chains(before.position), axis=1)
    positions, rates, moved = pool((own, info.acceptance_rate, moved))
    updated = adaptation_update(
        learned,
        _mean_rate(rates),
        positions,
        flags.collects,
        flags.ends_window,
        target,
        gradients,
        jnp.where(settles, 0, jnp.sum(moved, dtype=jnp.int32)),
    )
    if updated.metric.is_position_dependent and updated.moments is not None:
        # What the states keep of the metric is of the new one from here on.
        states = with_geometry(states, jax.vmap(updated.metric.carry)(own))
    dual = jax.tree.map(lambda old, new: jnp.where(settles, old, new), learned.step_size, updated.step_size)
    return states, updated._replace(step_size=dual)


def _as_wide(flag: Bool[Array, ""], keys: Array) -> Array:
    """The flag with the axes of the keys."""
    return jnp.broadcast_to(flag, keys.shape)


def _mean_rate(rates: Array) -> Scalar:
    """The mean acceptance probability over the chains, NaN as 0; in float32 at least, where a mean is worth having."""
    return jnp.mean(jnp.nan_to_num(rates.astype(jnp.promote_types(rates.dtype, jnp.float32))))


def ravel_chains(positions: PyTree) -> Float[Array, "chain d"]:
    """Each chain's position as a row."""
    return jax.vmap(lambda position: ravel_pytree(position)[0])(positions)
