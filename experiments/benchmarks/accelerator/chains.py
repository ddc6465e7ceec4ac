"""Integrator steps a second of HMC and RMHMC, by the number of chains."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import hmcvae
from experiments.benchmarks.accelerator.config import Config
from experiments.benchmarks.riemannian.density import regression
from experiments.support.timing import seconds_of

STEPS = {"leapfrog": 8, "generalized leapfrog": 4}


def chain_rows(num_chains: int, config: Config) -> list[dict[str, Any]]:
    """Both, on a logistic regression of 1000 rows and 25 coefficients, float32. steps_per_second: of all chains."""
    model = regression(1000, 25)
    logdensity_fn, fisher = model.build("float32")
    algorithms: dict[str, Any] = {
        "leapfrog": hmcvae.hmc(logdensity_fn, 0.05, STEPS["leapfrog"]),
        "generalized leapfrog": hmcvae.rmhmc(logdensity_fn, 0.5, STEPS["generalized leapfrog"], fisher),
    }
    noise = jax.random.normal(jax.random.key(0), (num_chains, 25))
    starts = jnp.asarray(model.mode, jnp.float32)[None] + 0.05 * noise
    return [_row(name, own, starts, config) for name, own in algorithms.items()]


def _row(name: str, algorithm: Any, starts: jax.Array, config: Config) -> dict[str, Any]:
    num_chains = len(starts)

    @jax.jit
    def run(states: Any, key: Any, num_transitions: Any) -> tuple[Any, Any]:
        def body(index: Any, carry: tuple) -> tuple:
            states, accepted = carry
            keys = jax.random.split(jax.random.fold_in(key, index), num_chains)
            states, info = jax.vmap(algorithm.step)(keys, states)
            return states, accepted + jnp.mean(info.acceptance_rate)

        return lax.fori_loop(0, num_transitions, body, (states, jnp.zeros(())))

    states = jax.jit(jax.vmap(algorithm.init))(starts)
    first = seconds_of(lambda: run(states, jax.random.key(0), 1))
    once = seconds_of(lambda: run(states, jax.random.key(1), 1))
    num_transitions = max(1, round(config.call_seconds / once))
    taken = [seconds_of(lambda k=k: run(states, jax.random.key(2 + k), num_transitions)) for k in range(3)]
    _, accepted = run(states, jax.random.key(2), num_transitions)
    steps = num_transitions * num_chains * STEPS[name]
    return {
        "integrator": name,
        "chains": num_chains,
        "steps_per_second": steps / float(np.median(taken)),
        "acceptance": float(accepted) / num_transitions,
        "compile_seconds": first - once,
    }
