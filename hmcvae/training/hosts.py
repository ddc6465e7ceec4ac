"""Several processes that train one model, each on its own host (`jax.distributed`): one of them reads and writes files.

Every process runs the same program. What the first one alone can do (a checkpoint, a run's folder) it does while the
others wait, and all go on with its result, or stop with its error.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from hmcvae.types import PyTree

T = TypeVar("T")
# Errors that mean the same in every process.
KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (ValueError, OSError, FileNotFoundError, FileExistsError, NotADirectoryError)
}


class LostProcessError(RuntimeError):
    """A process that takes part in the training has stopped, or cannot be reached."""


def is_first() -> bool:
    """Whether this process reads and writes for all."""
    return jax.process_index() == 0


def on_first(function: Callable[[], T]) -> T:
    """Call the function in the first process, and give its result, JSON values, to all.

    Raises:
        Exception: the function's own, in the first process; in the others one that says the same.
        LostProcessError: if the first process has stopped meanwhile.
    """
    if jax.process_count() == 1:
        return function()
    error, message = None, ""
    if is_first():
        try:
            message = json.dumps({"value": function()})
        except Exception as own:
            error = own
            message = json.dumps({"kind": _kind(own), "error": str(own)})
    shared = json.loads(_shared_text(message))
    if error is not None:
        raise error
    if "error" in shared:
        kind = KINDS.get(shared["kind"], RuntimeError)
        raise kind(f"the first process could not go on: {shared['error']}")
    return shared["value"]


def from_first(tree: PyTree) -> PyTree:
    """The first process's arrays, in all of them; the others give arrays of the same shapes."""
    if jax.process_count() == 1:
        return tree
    return together(lambda: multihost_utils.broadcast_one_to_all(tree))


def from_all(number: int) -> list[int]:
    """The whole number that each process gives."""
    if jax.process_count() == 1:
        return [number]
    return np.asarray(
        together(lambda: multihost_utils.process_allgather(np.array(number, np.int32)))
    ).tolist()


def texts_from_all(text: str) -> list[str]:
    """The text that each process gives."""
    if jax.process_count() == 1:
        return [text]
    encoded = np.frombuffer(text.encode(), np.uint8)
    lengths = from_all(len(encoded))
    padded = np.zeros(max(lengths), np.uint8)
    padded[: len(encoded)] = encoded
    rows = np.asarray(together(lambda: multihost_utils.process_allgather(padded)))
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def gathered(tree: PyTree) -> PyTree:
    """Arrays that are spread over the processes, whole in each."""
    if jax.process_count() == 1:
        return tree

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if leaf.is_fully_replicated:
            return np.asarray(leaf.addressable_shards[0].data)
        return together(lambda: multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(whole, tree)


def _kind(error: Exception) -> str:
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in KINDS), "RuntimeError")


def _shared_text(text: str) -> str:
    encoded = np.frombuffer(text.encode(), np.uint8)
    length = int(from_first(np.array(len(encoded), np.int32)))
    padded = np.zeros(length, np.uint8)
    if is_first():
        padded[:] = encoded
    return bytes(np.asarray(from_first(padded)).astype(np.uint8)).decode()


def together(function: Callable[[], T]) -> T:
    """The result of a function that the processes compute together.

    Raises:
        LostProcessError: if one of the others has stopped.
    """
    try:
        return jax.block_until_ready(function())
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        first = str(error).strip().splitlines()[0][:200]
        raise LostProcessError(
            f"process {jax.process_index()} of {jax.process_count()} cannot reach the others: one of them has stopped, "
            f"or the network has ({first}). Start all of them again, and resume from the last checkpoint"
        ) from error
