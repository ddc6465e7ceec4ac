"""Densities that carry their data along, so that programs take them as arguments: other data compile nothing anew."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hmcvae.types import Metric, PRNGKey, PyTree


@dataclass(frozen=True, eq=False)
class OpenInit:
    """`(position, rng_key=None) -> state`, of a function that takes the data last."""

    open: Callable
    data: list

    def __call__(self, position: PyTree, rng_key: PRNGKey | None = None) -> Any:
        """The state at a position."""
        return self.open(position, rng_key, self.data)


@dataclass(frozen=True, eq=False)
class OpenKernel:
    """`(rng_key, state, step_size, metric, *once) -> (state, info)`, of one that takes the data before `once`.

    numbers: what the density carries besides, in words.
    """

    open: Callable
    data: list
    numbers: tuple[str, ...]

    def __call__(self, rng_key: PRNGKey, state: Any, step_size: Any, metric: Metric, *once: Any) -> Any:
        """A transition."""
        return self.open(rng_key, state, step_size, metric, self.data, *once)


def opened(function: Callable) -> tuple[Callable, tuple]:
    """The function that programs are made of, and what they give it besides: its data, if it carries any."""
    return (
        (function.open, (function.data,)) if isinstance(function, OpenInit | OpenKernel) else (function, ())
    )


def with_data(algorithm: Any, put: Callable[[list], list]) -> Any:
    """The algorithm with its data as `put` puts them, on other devices say."""
    parts = {name: getattr(algorithm, name, None) for name in ("init", "kernel")}
    found = {
        name: dataclasses.replace(own, data=put(own.data))
        for name, own in parts.items()
        if isinstance(own, OpenInit | OpenKernel)
    }
    return algorithm._replace(**found) if found else algorithm


@dataclass(frozen=True)
class Carried:
    """A density taken apart. function: what the data are given to.  identity: all that the density is beside the
    function and the arrays' numbers; has a hash.  numbers: those that stand in no array, in words.  data: the arrays.
    density: of such arrays."""

    function: Callable
    identity: tuple
    numbers: tuple[str, ...]
    data: list
    density: Callable[[list], Callable]


def carried(logdensity_fn: Callable) -> Carried | None:
    """The parts of a `jax.tree_util.Partial` of a plain function with arrays among its arguments, the others being
    numbers or text; None for other functions. What is kept with the function must not keep data alive: so none whose
    arguments are functions or objects."""
    if not isinstance(logdensity_fn, jax.tree_util.Partial):
        return None
    function = logdensity_fn.func
    # Of a Partial of a Partial the inner one is wrapped up as a partial function that is no function's own.
    is_plain = hasattr(function, "__dict__") and not hasattr(function, "func")
    leaves, structure = jax.tree.flatten(logdensity_fn)
    is_data = [_is_data(leaf) for leaf in leaves]
    fixed = [None if own else leaf for leaf, own in zip(leaves, is_data, strict=True)]
    are_plain = all(isinstance(leaf, bool | int | float | complex | str | None) for leaf in fixed)
    if not (is_plain and are_plain and any(is_data)):
        return None

    def density(data: list) -> Callable:
        rest = iter(data)
        found = [next(rest) if own else leaf for leaf, own in zip(fixed, is_data, strict=True)]
        return jax.tree.unflatten(structure, found)

    # 1, 1.0 and True are equal, and so are 0.0 and -0.0.
    numbers = tuple(f"{type(leaf).__name__} {leaf!r}" for leaf in fixed)
    data = [jnp.asarray(leaf) for leaf, own in zip(leaves, is_data, strict=True) if own]
    return Carried(function, (structure, tuple(is_data), numbers), numbers, data, density)


def _is_data(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray):
        return leaf.dtype.kind in "biufc" or jnp.issubdtype(leaf.dtype, jnp.floating)
    return isinstance(leaf, jax.Array)
