"""Checks of arguments, made before any compute: what was expected and what came.

One function for each kind of public number. Each knows the numbers of Python and NumPy and arrays without axes, refuses
booleans, strings, complex numbers and None, and returns the value in the form that the code goes on with.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# Counts are int32 on the device, and loops of more passes would never end.
MAX_COUNT = 2**31 - 1
# The largest seed that `jax.random.key` takes.
MAX_SEED = 2**63 - 1


def is_concrete(value: Any) -> bool:
    """Whether the value can be looked at now (it is not being traced by jit, grad or vmap)."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))


def check_count(name: str, value: Any, minimum: int, maximum: int = MAX_COUNT) -> int:
    """Return `value` as an int, or raise ValueError unless it is a whole number from `minimum` to `maximum`."""
    array = _as_array(value)
    number = int(array) if array is not None and array.ndim == 0 and array.dtype.kind in "iu" else None
    if number is None or not minimum <= number <= maximum:
        is_small = number is not None and number < minimum
        most = "" if maximum == MAX_COUNT and is_small else f" and at most {maximum}"
        raise ValueError(f"{name} must be a whole number of at least {minimum}{most}, got {value!r}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """Return `value` as a bool, or raise ValueError unless it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_function(name: str, value: Any, form: str) -> None:
    """Raise ValueError unless `value` can be called."""
    if not callable(value):
        raise ValueError(f"{name} must be a function, {form}, got {value!r}")


def check_key(rng_key: Any) -> Any:
    """The key, or ValueError for what is none, such as a seed."""
    dtype, shape = getattr(rng_key, "dtype", None), getattr(rng_key, "shape", None)
    is_typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    is_raw = dtype == jnp.uint32 and shape is not None and len(shape) == 1 and shape[0] in (2, 4)
    if not (is_raw or (is_typed and shape == ())):
        raise ValueError(f"rng_key must be one key, such as jax.random.key(0), got {rng_key!r}")
    return rng_key


def check_seed(name: str, value: Any) -> int:
    """Return a seed as an int, or raise ValueError unless it is a whole number that `jax.random.key` takes."""
    return check_count(name, value, 0, MAX_SEED)


def check_real(
    name: str,
    value: Any,
    minimum: float = -np.inf,
    maximum: float = np.inf,
    *,
    is_open: bool = False,
) -> float:
    """Return `value` as a float, or raise ValueError unless it is one finite real number in [minimum, maximum], or
    inside (minimum, maximum) where `is_open`."""
    number = _as_array(value)
    x = np.nan
    if number is not None and number.ndim == 0 and number.dtype.kind in "iufV":
        x = float(number)
    inside = minimum < x < maximum if is_open else minimum <= x <= maximum
    if not (np.isfinite(x) and inside):
        raise ValueError(f"{name} must be a finite number{_range(minimum, maximum, is_open)}, got {value!r}")
    return x


def check_positive(name: str, value: Any, *, optional: bool = False, is_array: bool = False) -> Any:
    """Return `value`; or raise ValueError unless it is one number that is real, finite and > 0.

    Traced values pass unseen. None passes where it is `optional`. Where `is_array`, any array of such numbers passes,
    and lists and tuples come back as arrays.
    """
    if value is None and optional:
        return None
    if not is_concrete(value):
        return value
    array = _as_array(value)
    is_number = array is not None and array.dtype.kind in "iufV"
    if array is None or not is_number or array.size == 0 or (array.ndim and not is_array):
        of_many = ", or an array of such" if is_array else ""
        raise ValueError(f"{name} must be a positive number{of_many}, got {value!r}")
    # In float64: bfloat16 and its kin (kind V) have no isfinite of their own in NumPy.
    numbers = array.astype(np.float64)
    if not (np.all(np.isfinite(numbers)) and np.all(numbers > 0)):
        raise ValueError(f"{name} must be finite and greater than 0, got {value!r}")
    return jnp.asarray(array, float) if isinstance(value, (list, tuple)) else value


def check_choice(name: str, value: Any, options: Iterable[str]) -> str:
    """One of the options, which are names.

    Raises:
        ValueError: for anything else, with or without a hash.
    """
    known = tuple(options)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return value


def kind_of(value: Any) -> str:
    """What came in the place of a tuple, in words that do not depend on whether it is being traced."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"one array of shape {list(value.shape)}"
    return type(value).__name__ + (f" of length {len(value)}" if isinstance(value, (tuple, list)) else "")


def shapes_of(tree: Any) -> str:
    """of shape [3]; of shapes [3], []: of the arrays of a tree, in its order."""
    shapes = [str(list(jnp.shape(leaf))) for leaf in jax.tree.leaves(tree)]
    return f"of shape {shapes[0]}" if len(shapes) == 1 else f"of shapes {', '.join(shapes)}"


def check_one_number(name: str, value: Any) -> Any:
    """`value`, which must be a scalar: of anything else later sums would make wrong numbers in silence."""
    if jnp.ndim(value):
        raise ValueError(
            f"{name} must return one number, got an array of shape {list(jnp.shape(value))}: sum over the entries"
        )
    return value


@contextmanager
def told(note: str) -> Iterator[None]:
    """What goes wrong in a user's function within the block is told with what it was called with."""
    try:
        yield
    except Exception as error:
        error.add_note(note)
        raise


def check_plain(name: str, value: Any) -> None:
    """Raise ValueError unless the leaves of a tree are numbers, or arrays of numbers, that JAX takes as they are: no
    strings, objects, dates, masked arrays (the numbers behind the mask would be taken) or foreign byte order."""
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, (jax.Array, bool, int, float, complex)):
            continue
        if isinstance(leaf, np.ma.MaskedArray):
            raise ValueError(
                f"{name} must be a plain array, got a masked one: the numbers behind its mask would be taken; missing "
                "entries are for likelihoods.masked"
            )
        dtype = getattr(leaf, "dtype", None)
        dtype = np.dtype(dtype) if dtype is not None else np.asarray(leaf).dtype
        if dtype.kind not in "biufc" and not jnp.issubdtype(dtype, jnp.number):
            raise ValueError(f"{name} must be numbers, got {type(leaf).__name__} of dtype {dtype}")
        if not dtype.isnative:
            raise ValueError(
                f"{name} must have this machine's byte order, got dtype {dtype.str}: give "
                "array.astype(array.dtype.newbyteorder('='))"
            )


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


def _as_array(value: Any) -> np.ndarray | None:
    """A concrete number or array of numbers as NumPy's; None for what is neither (booleans, strings, None, …)."""
    if value is None or not is_concrete(value) or isinstance(value, np.ma.MaskedArray):
        return None
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # a ragged list, an object that refuses
        return None
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    is_number = array.dtype.kind in "iufc" or jnp.issubdtype(array.dtype, jnp.number)
    return array if is_number else None


def _range(minimum: float, maximum: float, is_open: bool) -> str:
    low, high = np.isfinite(minimum), np.isfinite(maximum)
    if low and high:
        opening, closing = "()" if is_open else "[]"
        return f" in {opening}{minimum:g}, {maximum:g}{closing}"
    if low:
        return f" greater than {minimum:g}" if is_open else f" of at least {minimum:g}"
    if high:
        return f" less than {maximum:g}" if is_open else f" of at most {maximum:g}"
    return ""
