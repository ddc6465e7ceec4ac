"""A warm-up transition in turns: looks at step sizes, until one is found, and then the transition itself."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from hmcvae.samplers.step_size import (
    DualAveragingState,
    Search,
    dual_averaging_at,
    search_goes_on,
    search_update,
)
from hmcvae.types import ArrayLike, Scalar

# Of the last look at the step size: transitions that it rests on; the length of a last stage that needs none, and of
# one that is too short to have found anything.
NUM_LOOKS, LONG_STAGE, SHORT_STAGE = 16, 50, 10


class Turn(NamedTuple):
    """Where a warm-up transition stands. learned: an `AdaptationState`.  looks: whether a step size is looked at next.
    index, total: of the looks at this one, and of their acceptance probabilities."""

    states: Any
    learned: Any
    search: Search
    index: Int[Array, ""]
    total: Scalar
    looks: Bool[Array, ""]
    has_moved: Bool[Array, ""]


class Looking(NamedTuple):
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
    ) -> "Looking":
        target = jnp.asarray(target, jnp.float32)
        least, most = 0.5 * target, 1 - 0.02 * (1 - target)
        m = dual.count.astype(dual.error_average.dtype)
        # The mean acceptance probability since the last restart is δ - H̄ (m + t₀)/m.
        mean_rate = target - dual.error_average * (m + 10) / jnp.maximum(m, 1)
        is_known = (m >= LONG_STAGE) & (mean_rate > least) & (mean_rate < most)
        num_looks = jnp.where(settles, -(-NUM_LOOKS // num_chains), 1)
        return cls(jnp.asarray(restarts) | (settles & ~is_known), settles, num_looks, least, most)

    def update(self, carry: Turn, rate: Scalar) -> Turn:
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
