"""Names of the arrays of a pytree."""

from typing import Any

import jax


def dotted(path: tuple[Any, ...]) -> str:
    """Of the array at `path` (`jax.tree_util.KeyPath`): params.encoder.0.kernel; "" for a tree that is one array."""
    return jax.tree_util.keystr(path, simple=True, separator=".")
