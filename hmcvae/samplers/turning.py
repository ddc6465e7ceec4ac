"""When a trajectory turns back: the criterion of the no-U-turn sampler, and what it has to remember of a branch.

A span of a trajectory goes on as long as both its ends move away from each other. On a manifold (Betancourt 2013;
2017, appendix A.4.2) that is, with ρ = Σ v over the points of the span and v♯ = G(z)⁻¹ v the velocity,

    ρ · v♯_first > 0   and   ρ · v♯_last > 0.

Where two spans of equal length are joined, the same is asked of each of them with the nearest point of the other, as
Stan does (since 2.21), so that two spans that both are near a whole period are not missed.

All of it is the same seen from either end of time. So the points stand in the order in which they were made, and
nothing here knows which way time ran.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from hmcvae._sharding import vary_as
from hmcvae.types import Vector


class Point(NamedTuple):
    """momentum: v.  velocity: v♯."""

    momentum: Vector
    velocity: Vector


class Span(NamedTuple):
    """Neighbouring points of a trajectory: those at its ends, and rho: Σ v."""

    first: Point
    last: Point
    rho: Vector


def turns(older: Span, newer: Span) -> Bool[Array, ""]:
    """Whether two spans that follow each other turn back when joined: the whole, or one with a point of the other."""
    whole = older.rho + newer.rho
    older_and_one = older.rho + newer.first.momentum
    one_and_newer = older.last.momentum + newer.rho
    products = jnp.stack(
        [
            jnp.dot(whole, older.first.velocity),
            jnp.dot(whole, newer.last.velocity),
            jnp.dot(older_and_one, older.first.velocity),
            jnp.dot(older_and_one, newer.first.velocity),
            jnp.dot(one_and_newer, older.last.velocity),
            jnp.dot(one_and_newer, newer.last.velocity),
        ]
    )
    return ~(products > 0).all()


class Memory(NamedTuple):
    """The points of a branch that sub-trees yet to be finished begin with, and those that finished ones ended with.

    With the points numbered from 0 as they are made, the sub-trees of 2^{k+1} points that end at number n are those
    with k < t, the count of trailing ones of n as a binary number. Each has two halves of 2^k points. The older half
    begins at n with its k + 1 lowest ones set to 0 and ends at n - 2^k, which has k trailing ones; the newer half
    begins at n with its k lowest ones set to 0.

    begins: row j is the latest point whose number has j ones: its v, v♯, and the Σ v of all points before it.
    ends: row k is the latest point whose number has k trailing ones: its v, v♯.

    While a sub-tree is unfinished, every number inside has more ones than its first, which so is not overwritten (and
    likewise for the ends): a row for each level is enough.
    """

    begins: Float[Array, "level *lanes 3 d"]
    ends: Float[Array, "level *lanes 2 d"]


def empty_memory(num_levels: int, like: Float[Array, "*lanes d"]) -> Memory:
    *lanes, d = like.shape
    return Memory(*(jnp.zeros((num_levels, *lanes, rows, d), like.dtype) for rows in (3, 2)))


def num_trailing_ones(index: Int[Array, ""]) -> Int[Array, ""]:
    return lax.population_count(index & ~(index + 1))


def remember(memory: Memory, new: Point, before: Float[Array, "*lanes d"], index: Int[Array, ""]) -> Memory:
    """The memory with point `index`, which has Σ v `before` it."""
    begin = jnp.stack([*new, before], axis=-2)
    end = jnp.stack([*new], axis=-2)
    return Memory(
        lax.dynamic_update_index_in_dim(memory.begins, begin, lax.population_count(index), axis=0),
        lax.dynamic_update_index_in_dim(memory.ends, end, num_trailing_ones(index), axis=0),
    )


def has_turned(
    memory: Memory, new: Point, total: Float[Array, "*lanes d"], index: Int[Array, ""], over: Callable
) -> Bool[Array, "*lanes"]:
    """Whether a sub-tree that ends with point `index`, which is remembered, turns back: one look on average.

    total: Σ v with that point.  over: `over(function, *axes)` maps a function over the lanes.
    """
    row = lax.population_count(index)

    def look(older: Array, older_end: Array, newer: Array, new: Point, total: Vector) -> Bool[Array, ""]:
        first, last, middle = (
            Point(older[0], older[1]),
            Point(older_end[0], older_end[1]),
            Point(newer[0], newer[1]),
        )
        return turns(Span(first, last, newer[2] - older[2]), Span(middle, new, total - newer[2]))

    def look_at(level: Int[Array, ""], turned: Bool[Array, "*lanes"]) -> Bool[Array, "*lanes"]:
        older = lax.dynamic_index_in_dim(memory.begins, row - 1 - level, keepdims=False)
        newer = lax.dynamic_index_in_dim(memory.begins, row - level, keepdims=False)
        older_end = lax.dynamic_index_in_dim(memory.ends, level, keepdims=False)
        return turned | over(look, 0, 0, 0, 0, 0)(older, older_end, newer, new, total)

    start = vary_as(jnp.zeros(total.shape[:-1], bool), memory, total)
    return lax.fori_loop(0, num_trailing_ones(index), look_at, start)
