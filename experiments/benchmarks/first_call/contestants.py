"""The samplers, ours and BlackJAX's, each called as its documentation has it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

import hmcvae
from experiments.benchmarks.first_call.config import Config
from experiments.samplers.geometry.volatility import NUM_PARAMETERS, log_joint, simulate

KINDS = ("nuts", "hmc")


class Call(NamedTuple):
    """What one call is told. data: the seed of the observations, of which there is one density each."""

    seed: int
    num_warmup: int
    num_samples: int


def density(config: Config, data: int) -> Callable:
    """log p(u, x | y) of a stochastic volatility with simulated y, which it carries along; z = (u, x)."""
    return Partial(_log_density, jnp.asarray(simulate(config.length, data), config.dtype))


def _log_density(y: jax.Array, z: jax.Array) -> jax.Array:
    return log_joint(y, z[:NUM_PARAMETERS], z[NUM_PARAMETERS:])


def starts(config: Config, seed: int) -> jax.Array:
    """[num_chains, d], near u = (log 0.65, atanh 0.98, log 0.15) and x = 0."""
    centre = jnp.zeros(NUM_PARAMETERS + config.length, config.dtype)
    centre = centre.at[:NUM_PARAMETERS].set(jnp.asarray([-0.43, 2.3, -1.9], config.dtype))
    noise = jax.random.normal(jax.random.key(seed), (config.num_chains, len(centre)), config.dtype)
    return centre[None] + 0.1 * noise


class Ours:
    """hmcvae.nuts or hmc through `hmcvae.sample`."""

    name = "hmcvae"

    def __init__(self, kind: str, config: Config):
        self.kind, self.config = kind, config

    def build(self, logdensity_fn: Callable) -> Any:
        if self.kind == "nuts":
            return hmcvae.nuts(logdensity_fn, 0.1, max_depth=self.config.max_depth)
        return hmcvae.hmc(logdensity_fn, 0.1, self.config.num_steps)

    def run(self, algorithm: Any, call: Call) -> Any:
        samples = hmcvae.sample(
            jax.random.key(call.seed),
            algorithm,
            starts(self.config, call.seed),
            num_samples=call.num_samples,
            num_warmup=call.num_warmup,
        )
        return samples.position


class Theirs:
    """BlackJAX's window adaptation, then a loop over its step; both jitted and mapped over the chains."""

    name = "BlackJAX"

    def __init__(self, kind: str, config: Config):
        self.config = config
        self.kernel: Any = blackjax.nuts if kind == "nuts" else blackjax.hmc
        self.settings: dict[str, Any] = {"num_integration_steps": config.num_steps}
        if kind == "nuts":
            self.settings = {"max_num_doublings": config.max_depth}

    def build(self, logdensity_fn: Callable) -> Any:
        warmup: Any = blackjax.window_adaptation(
            self.kernel, logdensity_fn, adaptation_info_fn=lambda *_: None, **self.settings
        )

        def chain(key: Any, start: Any, num_warmup: int, num_samples: int) -> Any:
            key_warmup, key_draws = jax.random.split(key)
            (state, parameters), _ = warmup.run(key_warmup, start, num_warmup)
            step = self.kernel(logdensity_fn, **parameters).step

            def draw(state: Any, key: Any) -> tuple[Any, Any]:
                state, _ = step(key, state)
                return state, state.position

            return lax.scan(draw, state, jax.random.split(key_draws, num_samples))[1]

        # Its lengths are those of its loops: other lengths are other programs.
        return jax.jit(jax.vmap(chain, (0, 0, None, None)), static_argnums=(2, 3))

    def run(self, algorithm: Any, call: Call) -> Any:
        keys = jax.random.split(jax.random.key(call.seed), self.config.num_chains)
        return algorithm(keys, starts(self.config, call.seed), call.num_warmup, call.num_samples)


SAMPLERS = (Ours, Theirs)
