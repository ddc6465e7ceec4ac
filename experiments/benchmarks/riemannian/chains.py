"""Chains of a kernel, compiled and timed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import hmcvae
from experiments.benchmarks.riemannian.config import EPSILON, NUM_DISCARDED, NUM_STEPS
from experiments.support.timing import Stopwatch, seconds_of


class Statistics(NamedTuple):
    """Means over transitions. converged: 1 where all solves did.  iterations: a step."""

    acceptance: Any
    converged: Any
    iterations: Any


class Contestant(NamedTuple):
    """A kernel, and `info -> Statistics` of a transition; NaN for what is unknown."""

    algorithm: Any
    summarise: Callable[[Any], Statistics]


def summarise_ours(info: Any) -> Statistics:
    iterations = info.solver.num_iterations / info.num_integration_steps
    return Statistics(info.acceptance_rate, info.solver.converged, iterations)


def unchecked_rmhmc(logdensity_fn: Callable, metric: Any) -> Contestant:
    """Ours without the way back."""
    kernel = hmcvae.rmhmc(logdensity_fn, EPSILON, NUM_STEPS, metric, check_reversibility=False)
    return Contestant(kernel, summarise_ours)


class Chains:
    """Chains of one contestant; each call makes `num_transitions` more and adds to the statistics."""

    def __init__(self, contestant: Contestant, mode: np.ndarray, num_chains: int, dtype: str):
        positions = jnp.broadcast_to(jnp.asarray(mode, dtype), (num_chains, len(mode)))
        self.states = jax.jit(jax.vmap(contestant.algorithm.init))(positions)
        self.num_transitions, self.num_calls, self.done, self.totals = 1, 0, 0, np.zeros(3)

        def run(rng_key: Any, states: Any, num_transitions: Any) -> tuple[Any, Any]:
            def body(index: Any, carry: tuple) -> tuple:
                states, totals = carry
                keys = jax.random.split(jax.random.fold_in(rng_key, index), num_chains)
                states, info = jax.vmap(contestant.algorithm.step)(keys, states)
                means = [jnp.mean(jnp.asarray(value, dtype)) for value in contestant.summarise(info)]
                return states, totals + jnp.stack(means)

            return lax.fori_loop(0, num_transitions, body, (states, jnp.zeros(3, dtype)))

        with Stopwatch() as watch:
            self.program = jax.jit(run).lower(jax.random.key(0), self.states, 1).compile()
        self.compile_seconds = watch.elapsed.seconds

    @property
    def num_bytes(self) -> int:
        """Memory that the program works in."""
        sizes: Any = self.program.memory_analysis()
        return sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes

    def __call__(self) -> Any:
        self.num_calls += 1
        key = jax.random.key(self.num_calls)
        self.states, totals = self.program(key, self.states, self.num_transitions)
        self.totals += np.asarray(totals)
        self.done += self.num_transitions
        return self.states

    def warm_up(self, seconds: float, num_transitions: int = NUM_DISCARDED) -> None:
        """Move off the mode, then find how many transitions last `seconds`, and forget the statistics.

        A contestant that is very slow makes fewer transitions here: two, that last more than three seconds.
        """
        per_transition = min(seconds_of(self) for _ in range(2))
        self.num_transitions = max(1, min(num_transitions, round(3 / per_transition)))
        per_transition = seconds_of(self) / self.num_transitions
        self.num_transitions = max(1, round(seconds / per_transition))
        self.done, self.totals = 0, np.zeros(3)

    def statistics(self) -> dict[str, float | None]:
        """Their means since the warm-up, by name; None for what is unknown."""
        means = [None if np.isnan(value) else float(value) for value in self.totals / self.done]
        return dict(zip(Statistics._fields, means, strict=True))
