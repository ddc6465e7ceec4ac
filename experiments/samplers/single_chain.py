"""Samplers that make runs of one chain each, as those of Girolami & Calderhead (2011) do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import hmcvae
from experiments.samplers.sampler import Drawn, Sampler
from experiments.samplers.targets import Target
from experiments.support.timing import timed
from hmcvae.samplers.draws import Samples, TransitionCounts

# key -> the draws of one chain, after a warm-up that is not timed.
Run = Callable[[jax.Array], Drawn]


@dataclass(frozen=True, kw_only=True)
class SingleChain(Sampler):
    """One of ours."""

    tuned: tuple[str, ...] = ("step_size",)

    def make_run(self, target: Target, config: Any) -> Run:
        """On a target; config has num_samples and num_warmup."""
        algorithm = self.make_fn(target, config)

        def run(key: jax.Array) -> Drawn:
            warm_key, draw_key = jax.random.split(key)
            warm = self.warm_up(warm_key, algorithm, target, num_chains=1, num_warmup=config.num_warmup)
            samples, elapsed = timed(
                lambda: hmcvae.sample(
                    draw_key, warm.algorithm, warm.positions, num_samples=config.num_samples
                )
            )
            return Drawn(samples, elapsed.seconds)

        return run


@dataclass(frozen=True)
class BlackjaxNuts:
    """BlackJAX's NUTS with its window adaptation (diagonal masses), as one compiled program each."""

    name: str = "NUTS"

    def make_run(self, target: Target, config: Any) -> Run:
        """On a target; config has num_samples and num_warmup.

        Raises:
            ImportError: if BlackJAX is not installed.
        """
        import blackjax

        warmup: Any = blackjax.window_adaptation(blackjax.nuts, target.logdensity_fn)
        adapt = jax.jit(lambda key: warmup.run(key, jnp.asarray(target.start, float), config.num_warmup)[0])
        nuts: Any = blackjax.nuts

        @jax.jit
        def draw(key: jax.Array, state: Any, parameters: Any) -> tuple:
            step = nuts(target.logdensity_fn, **parameters).step

            def body(state: Any, key: jax.Array):
                state, info = step(key, state)
                return state, (state.position, info.acceptance_rate, info.is_divergent)

            return jax.lax.scan(body, state, jax.random.split(key, config.num_samples))[1]

        def run(key: jax.Array) -> Drawn:
            warm_key, draw_key = jax.random.split(key)
            state, parameters = adapt(warm_key)
            found, elapsed = timed(lambda: draw(draw_key, state, parameters))
            return Drawn(_as_samples(*found), elapsed.seconds)

        return run


def _as_samples(position: jax.Array, acceptance_rate: jax.Array, is_divergent: jax.Array) -> Samples:
    """Of one chain [draw, d], whose solves are explicit."""
    zero = jnp.zeros((), jnp.int32)
    num_draws = jnp.asarray(len(position))
    counts = TransitionCounts(num_draws, jnp.mean(acceptance_rate), jnp.sum(is_divergent), zero, zero, zero)
    return Samples(position[None], None, None, counts, hmcvae.samplers.Adaptation(None, None, counts))
