"""A public number of the library, good and bad values of its kind, and what is wrong with how they are met."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class Row(NamedTuple):
    """call(value), whose argument is named last in `name`; `good` is a value that it takes."""

    name: str
    call: Callable[[Any], Any]
    kind: str
    good: Any
    is_quick: bool = True


BAD_NUMBERS = [None, True, "a", float("nan"), float("inf"), -1, 1j]
LIST = [1.0, 2.0]


def bad_values(kind: str) -> list:
    """What an argument of the kind refuses."""
    bad = [value for value in BAD_NUMBERS if not (value is None and kind.startswith("optional"))]
    bad += [np.array(float("nan")), np.bool_(True), np.array(["a"]), {}]
    if "positives" not in kind:
        bad += [LIST, np.array(LIST)]
    if "count" in kind:
        bad += [1.5, np.float64(2.0), 2**70, *range(int(kind[-1]))]
    if "positive" in kind or "share" in kind:
        bad += [] if "closed" in kind else [0, 0.0, np.float32(0)]
        bad += [-0.5] + ([1.5] if "share" in kind else [])
    return bad


def good_values(row: Row) -> list:
    """One value as Python, NumPy and JAX write it."""
    if isinstance(row.good, list):
        return [row.good, tuple(row.good), np.array(row.good, np.float32), jnp.array(row.good)]
    kinds = (
        (np.int64, np.int32, np.uint8, jnp.int32)
        if "count" in row.kind
        else (np.float64, np.float32, jnp.float32)
    )
    values = [row.good, *(kind(row.good) for kind in kinds), np.array(row.good)]
    values += [None] if row.kind.startswith("optional") else []
    return values if row.is_quick else values[1:2]


def complaints(row: Row) -> list[str]:
    """What is not as it should be."""
    argument, found = row.name.rsplit(".", 1)[1], []
    for value in bad_values(row.kind):
        try:
            row.call(value)
        except ValueError as error:
            if argument not in str(error) or "got" not in str(error):
                found.append(
                    f"{value!r}: ValueError that does not say what and what came: {str(error)[:100]}"
                )
        except Exception as error:
            found.append(f"{value!r}: {type(error).__name__}: {str(error)[:100]}")
        else:
            found.append(f"{value!r}: taken")
    for value in good_values(row):
        try:
            row.call(value)
        except Exception as error:
            found.append(f"{value!r}, of {type(value)}: refused, {type(error).__name__}: {str(error)[:100]}")
    return found
