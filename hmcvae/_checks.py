"""Checks of arguments, made before any compute: what was expected and what came."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def is_concrete(value: Any) -> bool:
    """Whether the value can be looked at now (it is not being traced by jit, grad or vmap)."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))


def check_count(name: str, value: Any, minimum: int) -> int:
    """Return `value` as an int, or raise ValueError unless it is a whole number ≥ `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}, got {value!r}")
    return int(value)


def check_positive(name: str, value: Any) -> None:
    """Raise ValueError unless every entry is finite and > 0; traced values pass unseen."""
    if value is None or not is_concrete(value):
        return
    array = np.asarray(value)
    if not np.issubdtype(array.dtype, np.number):
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    if not (np.all(np.isfinite(array)) and np.all(array > 0)):
        raise ValueError(f"{name} must be finite and greater than 0, got {value!r}")


def check_vector(name: str, value: Any) -> jax.Array:
    """Return `value` as a float array [d], or raise ValueError; concrete values must be finite."""
    array = jnp.asarray(value)
    if array.ndim != 1 or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{name} must be a floating-point vector of shape [d], "
            f"got shape {tuple(array.shape)} and dtype {array.dtype}"
        )
    # NumPy, since inside `jit` jax.numpy traces even what is done to constants.
    if is_concrete(array) and not np.all(np.isfinite(np.asarray(array))):
        raise ValueError(f"{name} must be finite, got {array}")
    return array
