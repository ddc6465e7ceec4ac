"""Loops that many lanes of a `vmap` go through in step.

Under `vmap` a `while_loop` whose end depends on the data turns everything that it carries, counters too, into a batch:
rows of arrays are then gathered and scattered one by one. Where all lanes count alike the counters can stay single
numbers, if the loop itself is told of the lanes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from hmcvae.types import PyTree


def in_step(run: Callable, shared: PyTree, lane: PyTree) -> PyTree:
    """`run(shared, lane, None)`; under `vmap`, `run(shared, lanes, axes)` for all the lanes at once.

    There every array of `lanes` has a leading axis, and `axes` is 0 or None for each array of `shared`. Neither may be
    left out of the arguments: `run` must not close over traced arrays (see `lift`).
    """

    @custom_vmap
    def one(shared: PyTree, lane: PyTree) -> PyTree:
        return run(shared, lane, None)

    @one.def_vmap
    def many(size: int, batched: Any, shared: PyTree, lanes: PyTree) -> tuple[PyTree, PyTree]:
        is_shared, is_lane = batched
        lanes = jax.tree.map(
            lambda array, has: array if has else jnp.broadcast_to(array, (size, *array.shape)), lanes, is_lane
        )
        out = run(shared, lanes, jax.tree.map(lambda has: 0 if has else None, is_shared))
        return out, jax.tree.map(lambda _: True, out)

    return one(shared, lane)


def lift(function: Callable, *arguments: PyTree) -> tuple[Callable, list]:
    """`(lifted, constants)` with `lifted(constants, *arguments)` the function, for arguments of these shapes: the
    arrays that it closes over, traced ones among them, have become an argument."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    structure = jax.tree.structure(shape)

    def lifted(constants: list, *arguments: PyTree) -> PyTree:
        flat = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, constants))(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(
            structure, [jnp.asarray(leaf) for leaf in flat]
        )  # literals come as Python's

    return lifted, list(closed.consts)
