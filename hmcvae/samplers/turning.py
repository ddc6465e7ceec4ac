"""When a trajectory turns back: the criterion of the no-U-turn sampler, and the sub-trees that it still has to see.

A span of a trajectory goes on as long as both its ends move away from each other. On a manifold (Betancourt 2013;
2017, appendix A.4.2) that is, with ρ = Σ v over the points of the span and v♯ = G(z)⁻¹ v the velocity,

    ρ · v♯_first > 0   and   ρ · v♯_last > 0.

Where two spans of equal length are joined, the same is asked of each of them with the nearest point of the other, as
Stan does (since 2.21), so that a pair of spans that are both near a whole period is not missed.

All of it is the same seen from either end of time. So the points stand in the order in which they were made, and nothing
here knows which way time ran.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from hmcvae.types import Vector


class Span(NamedTuple):
    """Neighbouring points of a trajectory.  first, last: (momentum v, velocity v♯) at its ends.  rho: Σ v."""

    first: tuple[Vector, Vector]
    last: tuple[Vector, Vector]
    rho: Vector


def turns(older: Span, newer: Span) -> Bool[Array, ""]:
    """Whether two spans that follow each other turn back when joined: the whole, or one with a point of the other."""
    whole = older.rho + newer.rho
    older_and_one = older.rho + newer.first[0]
    one_and_newer = older.last[0] + newer.rho
    sums = jnp.stack([whole, whole, older_and_one, older_and_one, one_and_newer, one_and_newer])
    velocities = [older.first, newer.last, older.first, newer.first, older.last, newer.last]
    products = jnp.sum(sums * jnp.stack([velocity for _, velocity in velocities]), axis=1)
    return ~(products > 0).all()


def join(older: Span, newer: Span) -> Span:
    """Two spans that follow each other, as one."""
    return Span(older.first, newer.last, older.rho + newer.rho)


def point(momentum: Vector, velocity: Vector) -> Span:
    """A span of one point."""
    return Span((momentum, velocity), (momentum, velocity), momentum)


# A span as rows of one array, so that it is read and written at once.
Rows = Float[Array, "*lanes 5 d"]


def pack(span: Span) -> Rows:
    return jnp.stack([*span.first, *span.last, span.rho])


def unpack(rows: Rows) -> Span:
    return Span((rows[0], rows[1]), (rows[2], rows[3]), rows[4])


def num_joins(index: Int[Array, ""]) -> Int[Array, ""]:
    """How many sub-trees of two points and more end at point `index` of a tree: its trailing ones as a binary number."""
    return lax.population_count(index & ~(index + 1))


def add_point(
    stack: Float[Array, "level *lanes 5 d"], new: Rows, index: Int[Array, ""], over: Callable
) -> tuple[Float[Array, "level *lanes 5 d"], Bool[Array, "*lanes"]]:
    """Add point `index` (from 0) of a branch that is being built, and say whether a sub-tree that ends with it turns
    back. `over(function, *axes)` maps a function over the lanes.

    Row k of the stack is the last whole sub-tree of 2^k points that is not yet part of a larger one. Adding a point is
    adding 1 to a binary number: a sub-tree is joined with the one of its own length before it, as long as there is one.
    So the memory is that of `level` spans, and a point costs one join on average.
    """

    def both(older: Rows, newer: Rows) -> tuple[Rows, Bool[Array, ""]]:
        spans = unpack(older), unpack(newer)
        return pack(join(*spans)), turns(*spans)

    def carry_over(level: Int[Array, ""], carry: tuple) -> tuple:
        newer, has_turned = carry
        older = lax.dynamic_index_in_dim(stack, level, keepdims=False)
        joined, turned = over(both, 0, 0)(older, newer)
        return joined, has_turned | turned

    num = num_joins(index)
    joined, has_turned = lax.fori_loop(0, num, carry_over, (new, jnp.zeros(new.shape[:-2], bool)))
    return lax.dynamic_update_index_in_dim(stack, joined, num, axis=0), has_turned
