"""Pytrees as checkpoints hold them: named arrays of numbers."""

import json
from typing import Any

import jax
import numpy as np

from hmcvae._paths import dotted
from hmcvae.types import PyTree


class AnotherTreeError(ValueError):
    """A checkpoint without the names, shapes and dtypes that were expected: `differences`, in words, of `names`."""

    def __init__(self, place: object, differences: dict[str, str]):
        self.differences, self.names = list(differences.values()), list(differences)
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        super().__init__(
            f"the checkpoint {place} is of another model: {'; '.join(self.differences[:3])}{more}"
        )


def dtype_of(leaf: Any) -> np.dtype:
    return np.dtype(leaf.dtype) if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def as_numbers(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise ValueError("a checkpoint holds numbers, got random keys: save jax.random.key_data of them")
    array = np.asarray(leaf)
    if not (array.dtype.kind in "biufc" or jax.numpy.issubdtype(array.dtype, jax.numpy.number)):
        raise ValueError(f"a checkpoint holds numbers, got {type(leaf).__name__} of dtype {array.dtype}")
    return array


def as_json(value: Any) -> Any:
    """The value as it comes back from JSON, or a ValueError."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be values that JSON can hold, got {value!r}: {error}") from None


def check_names(tree: PyTree) -> None:
    """Raise ValueError for what Orbax would write in one place, or not at all."""
    paths = [path for path, _ in jax.tree.leaves_with_path(tree)]
    names = [dotted(path) for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        both = [jax.tree_util.keystr(p) for p, name in zip(paths, names, strict=True) if name == twice[0]]
        raise ValueError(
            f"a checkpoint needs a name for each array, got {' and '.join(both)}: both are {twice[0]!r}"
        )
    if not names:
        raise ValueError("a checkpoint holds at least one array, got none")


def storable(array: np.ndarray) -> np.ndarray:
    """Orbax writes no array without entries: its shape is written in its place."""
    return array if array.size else np.array(array.shape, np.int64)


def empty_shapes(stored: PyTree, like: PyTree) -> dict[str, str]:
    """The shapes that stand for arrays without entries, by name."""
    paths = jax.tree.leaves_with_path(like)
    return {
        dotted(path): str(np.asarray(found).tolist())
        for (path, leaf), found in zip(paths, jax.tree.leaves(stored), strict=True)
        if not leaf.size
    }


def arrays_of(tree: PyTree) -> dict[str, str]:
    """Every leaf's name, and its dtype and shape in words."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {dotted(path): f"{leaf.dtype} {list(leaf.shape)}" for path, leaf in leaves}


def differences_between(found: dict[str, str], expected: dict[str, str]) -> dict[str, str]:
    """What a checkpoint's arrays are, where they are not what was expected, by name."""
    return {
        name: f"expected {name} to be {expected.get(name, 'absent')}, got {found.get(name, 'nothing')}"
        for name in sorted(found | expected)
        if found.get(name) != expected.get(name)
    }
