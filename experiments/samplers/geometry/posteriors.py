"""What a posterior of the comparison is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Form(NamedTuple):
    """A density in coordinates of its own.

    logdensity_fn: [d] -> log p up to a constant.
    start: [d], where chains begin, with noise of standard deviation `spread` added.
    to_common: [d] -> the posterior's common coordinates, [k].
    metric, integrator: for the samplers of ours that take them.
    """

    logdensity_fn: Callable
    start: np.ndarray
    to_common: Callable = lambda z: z
    spread: float = 0.1
    metric: Any = None

    def starts(self, rng_key: jax.Array, num_chains: int) -> jax.Array:
        noise = jax.random.normal(rng_key, (num_chains, len(self.start)))
        return jnp.asarray(self.start, float)[None] + self.spread * noise


class Watched(NamedTuple):
    """An expectation that all contestants estimate.

    name: as a table says it.  function: draws in common coordinates [..., k] -> [...].
    exact: its value where known, else NaN.
    """

    name: str
    function: Callable[[np.ndarray], np.ndarray]
    exact: float = float("nan")


@dataclass(frozen=True)
class Posterior:
    """name: on the command line.  title: in tables.  forms: by name.  watched: what is told of the draws.
    judged: the common coordinates whose effective sizes count; None: all.
    num_warmup, num_samples: of each chain.  note: how it is set up, for the page.
    """

    name: str
    title: str
    forms: Mapping[str, Form]
    watched: tuple[Watched, ...]
    judged: tuple[int, ...] | None = None
    num_warmup: int = 1000
    num_samples: int = 2000
    note: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
