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
from typing import Any, NamedTuple

import jax
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

    begins: row j is the latest point whose number has j ones.  before: the Σ v of all points before that.
    ends: row k is the latest point whose number has k trailing ones.

    While a sub-tree is unfinished, every number inside has more ones than its first, which so is not overwritten (and
    likewise for the ends): a row for each level is enough. Five small arrays and not one: XLA's CPU runtime takes a
    loop's kernels one after the other, without a scheduler, as long as no array has more than 512 bytes.
    """

    begins: Point
    before: Float[Array, "level *lanes d"]
    ends: Point


def empty_memory(num_levels: int, like: Float[Array, "*lanes d"]) -> Memory:
    rows = jnp.zeros((num_levels, *like.shape), like.dtype)
    return Memory(Point(rows, rows), rows, Point(rows, rows))


def num_trailing_ones(index: Int[Array, ""]) -> Int[Array, ""]:
    return lax.population_count(index & ~(index + 1))


def _row(arrays: Any, index: Int[Array, ""]) -> Any:
    return jax.tree.map(lambda array: lax.dynamic_index_in_dim(array, index, keepdims=False), arrays)


def _with_row(arrays: Any, rows: Any, index: Int[Array, ""]) -> Any:
    return jax.tree.map(
        lambda array, row: lax.dynamic_update_index_in_dim(array, row, index, axis=0), arrays, rows
    )


def remember(memory: Memory, new: Point, before: Float[Array, "*lanes d"], index: Int[Array, ""]) -> Memory:
    """The memory with point `index`, which has Σ v `before` it."""
    num_ones = lax.population_count(index)
    return Memory(
        _with_row(memory.begins, new, num_ones),
        _with_row(memory.before, before, num_ones),
        _with_row(memory.ends, new, num_trailing_ones(index)),
    )


def has_turned(
    memory: Memory, new: Point, total: Float[Array, "*lanes d"], index: Int[Array, ""], over: Callable
) -> Bool[Array, "*lanes"]:
    """Whether a sub-tree that ends with point `index`, which is remembered, turns back: one look on average.

    total: Σ v with that point.  over: `over(function, *axes)` maps a function over the lanes.
    """
    num_ones = lax.population_count(index)

    def look(
        first: Point, last: Point, middle: Point, sums: tuple[Vector, Vector], new: Point, total: Vector
    ):
        to_first, to_middle = sums
        older = Span(first, last, to_middle - to_first)
        return turns(older, Span(middle, new, total - to_middle))

    def look_at(level: Int[Array, ""], turned: Bool[Array, "*lanes"]) -> Bool[Array, "*lanes"]:
        first, to_first = _row((memory.begins, memory.before), num_ones - 1 - level)
        middle, to_middle = _row((memory.begins, memory.before), num_ones - level)
        last, sums = _row(memory.ends, level), (to_first, to_middle)
        return turned | over(look, *[0] * 6)(first, last, middle, sums, new, total)

    start = vary_as(jnp.zeros(total.shape[:-1], bool), memory, total)
    return lax.fori_loop(0, num_trailing_ones(index), look_at, start)
