"""A kernel that takes part in a comparison, and how it is tuned before its draws."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import hmcvae
from experiments.samplers.targets import Target
from hmcvae.samplers.draws import Adaptation, Samples


class Drawn(NamedTuple):
    """Draws, and their seconds without those of warm-up and compilation."""

    samples: Samples
    seconds: float


class Warm(NamedTuple):
    """A sampler after its warm-up: the algorithm to draw with, where its chains stand, and what was found."""

    algorithm: Any
    positions: jax.Array
    adaptation: Adaptation


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A kernel of a comparison.

    Attributes:
        name: in tables and pictures.
        make_fn: (target, config) -> the algorithm as it is before its warm-up.
        target_acceptance: what the warm-up tunes the step size to.
        tuned: what of the algorithm is then as the warm-up found it: step_size, metric (its masses), both or nothing.
    """

    name: str
    make_fn: Callable[[Target, Any], Any]
    target_acceptance: float
    tuned: tuple[str, ...] = ("step_size", "metric")

    def warm_up(
        self, rng_key: jax.Array, algorithm: Any, target: Target, *, num_chains: int, num_warmup: int
    ) -> Warm:
        """Chains from the target's start."""
        found = hmcvae.sample(
            rng_key,
            algorithm,
            jnp.tile(jnp.asarray(target.start, float), (num_chains, 1)),
            num_samples=1,
            num_warmup=num_warmup,
            target_acceptance=self.target_acceptance,
            adapt_mass="auto" if "metric" in self.tuned else None,
        )
        changes = {name: getattr(found.adaptation, name) for name in self.tuned}
        return Warm(algorithm._replace(**changes), found.last, found.adaptation)
