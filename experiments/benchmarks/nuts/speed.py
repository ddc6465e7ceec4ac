"""Transitions a second, in turns."""

from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import hmcvae
from experiments.benchmarks.nuts.config import Config
from experiments.benchmarks.nuts.densities import build
from experiments.benchmarks.nuts.rows import SpeedRow
from experiments.support.timing import in_turns, ratio, seconds_of

NUM_DISCARDED = 50


class Chains:
    """Chains of one sampler; each call makes `num_transitions` more, and adds up their steps."""

    def __init__(self, algorithm: Any, start: np.ndarray, num_chains: int, dtype: str):
        position = jnp.asarray(start, dtype)
        self.num_transitions, self.num_calls = 1, 0
        # One chain is run as one, without a batch axis.
        is_alone = num_chains == 1
        positions = position if is_alone else jnp.tile(position[None], (num_chains, 1))
        self.states = jax.jit(algorithm.init if is_alone else jax.vmap(algorithm.init))(positions)
        self.forget()

        def step(key: Any, states: Any) -> tuple[Any, Any]:
            if is_alone:
                return algorithm.step(key, states)
            return jax.vmap(algorithm.step)(jax.random.split(key, num_chains), states)

        @jax.jit
        def run(rng_key: Any, states: Any, num_transitions: Any) -> tuple[Any, Any]:
            def body(index: Any, carry: tuple) -> tuple:
                states, sums = carry
                states, info = step(jax.random.fold_in(rng_key, index), states)
                steps = info.num_integration_steps.astype(jnp.float32)
                return states, sums + jnp.stack([jnp.mean(steps), jnp.max(steps)])

            return lax.fori_loop(0, num_transitions, body, (states, jnp.zeros(2)))

        self.program = run

    def forget(self) -> None:
        self.done, self.sums = 0, np.zeros(2)

    def __call__(self) -> Any:
        self.num_calls += 1
        key = jax.random.key(self.num_calls)
        self.states, sums = self.program(key, self.states, self.num_transitions)
        self.sums += np.asarray(sums)
        self.done += self.num_transitions
        return self.states

    def warm_up(self, seconds: float) -> None:
        """Into the bulk; then find how many transitions last `seconds`."""
        seconds_of(self)
        self.num_transitions = NUM_DISCARDED
        self.num_transitions = max(1, round(seconds * NUM_DISCARDED / seconds_of(self)))
        self.forget()


def speed_row(name: str, num_chains: int, config: Config) -> SpeedRow:
    density = build(name, config.dtype)
    mass = jnp.ones(len(density.start), config.dtype)
    algorithms = {
        "ours": hmcvae.nuts(density.logdensity_fn, density.step_size),
        "peer": blackjax.nuts(density.logdensity_fn, density.step_size, mass),
    }
    runs = {key: Chains(value, density.start, num_chains, config.dtype) for key, value in algorithms.items()}
    for chains in runs.values():
        chains.warm_up(config.call_seconds)
    taken = in_turns(runs, config.rounds)
    each = {key: seconds / runs[key].num_transitions for key, seconds in taken.items()}
    means = {key: chains.sums / chains.done for key, chains in runs.items()}
    over, error = ratio(each["peer"], each["ours"])
    return SpeedRow(
        density=name,
        chains=num_chains,
        ours=num_chains / float(np.median(each["ours"])),
        peer=num_chains / float(np.median(each["peer"])),
        ratio=over,
        ratio_error=error,
        ours_steps=float(means["ours"][0]),
        peer_steps=float(means["peer"][0]),
        iterations_ratio=over * float(means["ours"][1] / means["peer"][1]),
    )
