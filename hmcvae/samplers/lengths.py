"""How many steps a trajectory has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from hmcvae._checks import check_count, check_flag, is_concrete
from hmcvae.types import PRNGKey

NumStepsFn = Callable[[PRNGKey], Any]


def uniform_steps(low: Any, high: Any, *, shared: bool = False) -> NumStepsFn:
    """The number of integration steps drawn uniformly from {low, …, high}, both included, each transition.

    A random length spares the chain the resonances of a fixed one (Mackenzie 1989; Neal 2011, section 3.2).

    Args:
        low, high: both included.
        shared: `sample` draws one length for all the chains of a transition: they run in step, and none waits for the
            longest. Each chain is as valid as with lengths of its own, which depend on no state either way; what the
            chains share is the sequence of lengths. A `step` that is called by hand draws its own all the same.

    Raises:
        ValueError: unless 1 ≤ low ≤ high are whole numbers, and shared is True or False.
    """
    low = check_count("low", low, 1)
    return _Uniform(low, check_count("high", high, low), check_flag("shared", shared))


@dataclass(frozen=True)
class _Uniform:
    """Equal ones are one key: see `keeping.shared`."""

    low: int
    high: int
    is_shared: bool = False

    def __call__(self, rng_key: PRNGKey) -> Int[Array, ""]:
        return jax.random.randint(rng_key, (), self.low, self.high + 1)


def _try_lengths(num_integration_steps: NumStepsFn) -> None:
    """Raise ValueError for a function of a key that returns no count of at least 1, as far as 32 keys tell: a
    trajectory of no steps would be accepted, and never move."""
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0), 32)
        counts = jax.vmap(lambda key: draw_num_steps(num_integration_steps, key))(keys)
    if is_concrete(counts) and (least := int(np.asarray(counts).min())) < 1:
        raise ValueError(f"num_integration_steps(rng_key) must be at least 1, got {least}")


def draw_num_steps(num_integration_steps: Any, rng_key: PRNGKey) -> int | Int[Array, ""]:
    if not callable(num_integration_steps):
        return num_integration_steps
    num_steps = jnp.asarray(num_integration_steps(rng_key))
    if num_steps.shape != () or not jnp.issubdtype(num_steps.dtype, jnp.integer):
        raise ValueError(
            "num_integration_steps(rng_key) must return a whole number, "
            f"got shape {num_steps.shape} and dtype {num_steps.dtype}"
        )
    return num_steps


def check_num_steps(num_integration_steps: Any) -> Any:
    """A whole number of at least 1 as Python's own; a function is tried."""
    if callable(num_integration_steps):
        _try_lengths(num_integration_steps)
        return num_integration_steps
    return check_count("num_integration_steps", num_integration_steps, 1)
