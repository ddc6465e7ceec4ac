"""What is made of a function, kept with it: programs are compiled once, and go when it goes."""

import dataclasses
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hmcvae._digest import digest

_NAME = "_hmcvae_programs"
# Of one function: a metric that it was given is seen by its programs too, and a kernel may be given many.
MOST_KEPT = 8


class _Kept(dict):
    """What has been made of a function, as an attribute of it (of the object, for a method).

    A table in this module would keep every function that was ever sampled alive, and with it the data that it closes
    over. This one dies with its owner. It is no part of the owner's data: copies and pickles leave it out.
    """

    owner: Any = None

    def __reduce__(self) -> tuple:
        return _Kept, ()


def kept(function: Callable, key: Any, make: Callable[[Callable], Any]) -> Any:
    """`make(function)`, made once for each function and key.

    What is made sees the function through a weak reference, so that no circle keeps the two alive. Where nothing can be
    attached to the function (a method of a named tuple, say) it is made at each call.
    """
    owner, name = function, None
    if isinstance(function, MethodType):
        owner, name = function.__self__, function.__func__
    made = getattr(owner, "__dict__", {}).get(_NAME)
    try:
        # `functools.wraps` and copies hand attributes on: what was made for another function is not for this one.
        if made is None or made.owner is None or made.owner() is not owner:
            made = _Kept()
            made.owner = weakref.ref(owner)
            object.__setattr__(owner, _NAME, made)
    except (AttributeError, TypeError):
        return make(function)
    if (name, key) not in made:
        if len(made) >= MOST_KEPT:
            made.pop(next(iter(made)))  # the oldest
        made[name, key] = make(_weakly(function))
    return made[name, key]


def _weakly(function: Callable) -> Callable:
    reference = weakref.WeakMethod(function) if isinstance(function, MethodType) else weakref.ref(function)

    def call(*arguments: Any) -> Any:
        found = reference()
        assert found is not None, "the function is held by whoever calls its program"
        return found(*arguments)

    return call


def shared(function: Callable, key: tuple, make: Callable[[], Callable]) -> Callable:
    """`make()`, or what it returned before for this function and an equal key: so that what is built anew of the same
    parts is the same object, and its programs are those that are there. Where the key has no hash, or the function
    takes no attribute, it is made at each call."""
    try:
        hash(key)
    except TypeError:
        return make()
    return kept(function, key, lambda _: make())


def identity_of(function: Any) -> Any:
    """A key that is equal for partial functions of equal parts."""
    keywords = getattr(function, "keywords", None)
    if keywords is None or not hasattr(function, "func"):
        return function
    return identity_of(function.func), function.args, tuple(sorted(keywords.items()))


def start_key(metric: Any, step_size: Any) -> tuple:
    """What the start of a chain depends on beside its density; no key where the metric holds arrays."""
    arrays, structure = jax.tree.flatten(metric)
    return ("init", structure, jnp.shape(step_size)) if not arrays else ("init", [])


def in_words(part: Any) -> str:
    """What a part of a key is, the same in every process: numbers in any precision, functions by name (not by what they
    close over), objects by their type."""
    if isinstance(part, (bool, str)) or part is None:
        return repr(part)
    if isinstance(part, tuple):
        return f"({', '.join(in_words(own) for own in part)})"
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        own = (f"{field.name}={in_words(getattr(part, field.name))}" for field in dataclasses.fields(part))
        return f"{type(part).__qualname__}({', '.join(own)})"
    if callable(part):
        return getattr(part, "__qualname__", type(part).__qualname__)
    numbers = np.asarray(part)
    if numbers.dtype.kind in "iuf" and not numbers.shape:
        return f"{float(numbers):.6g}"
    return digest(part)
