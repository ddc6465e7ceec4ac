"""Densities that carry their data along, so that programs take them as arguments: other data compile nothing anew."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
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
    """`(rng_key, state, step_size, metric, *once) -> (state, info)`, of one that takes the data before `once`."""

    open: Callable
    data: list

    def __call__(self, rng_key: PRNGKey, state: Any, step_size: Any, metric: Metric, *once: Any) -> Any:
        """A transition."""
        return self.open(rng_key, state, step_size, metric, self.data, *once)


def opened(function: Callable) -> tuple[Callable, tuple]:
    """The function that programs are made of, and what they give it besides: its data, if it carries any."""
    return (
        (function.open, (function.data,)) if isinstance(function, OpenInit | OpenKernel) else (function, ())
    )


def split_data(logdensity_fn: Callable) -> tuple[list, Callable[[list], Callable]] | None:
    """The arrays of a `jax.tree_util.Partial`, and what makes the density of such; None for other functions, and for
    those without any."""
    if not isinstance(logdensity_fn, jax.tree_util.Partial):
        return None
    leaves, structure = jax.tree.flatten(logdensity_fn)
    is_data = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
    if not any(is_data):
        return None
    fixed = [None if own else leaf for leaf, own in zip(leaves, is_data, strict=True)]

    def density(data: list) -> Callable:
        rest = iter(data)
        found = [next(rest) if own else leaf for leaf, own in zip(fixed, is_data, strict=True)]
        return jax.tree.unflatten(structure, found)

    return [leaf for leaf, own in zip(leaves, is_data, strict=True) if own], density


def innermost(function: Any) -> Callable:
    """The function that a partial one is of."""
    return innermost(function.func) if hasattr(function, "func") else function


def identity_of_density(logdensity_fn: Any) -> tuple:
    """What a `Partial` is beside its arrays; has a hash if that has."""
    leaves, structure = jax.tree.flatten(logdensity_fn)
    fixed = tuple(None if isinstance(leaf, jax.Array | np.ndarray) else leaf for leaf in leaves)
    return "data", structure, fixed
