"""Gradients for an effective draw, after each one's own warm-up in windows."""

from typing import Any

import arviz
import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import hmcvae
from experiments.benchmarks.nuts.config import Config
from experiments.benchmarks.nuts.densities import Density, build
from experiments.benchmarks.nuts.rows import DrawsRow


def _ours(density: Density, starts: Any, config: Config) -> tuple[Any, Any]:
    algorithm = hmcvae.nuts(density.logdensity_fn, 1.0)
    samples = hmcvae.sample(
        jax.random.key(1), algorithm, starts, num_samples=config.num_samples, num_warmup=config.num_warmup
    )
    return samples.position, samples.info


def _blackjax(density: Density, starts: Any, config: Config) -> tuple[Any, Any]:
    warmup: Any = blackjax.window_adaptation(blackjax.nuts, density.logdensity_fn)

    def chain(key: Any, start: Any) -> tuple[Any, Any]:
        key_warmup, key_draws = jax.random.split(key)
        (state, parameters), _ = warmup.run(key_warmup, start, config.num_warmup)
        step = blackjax.nuts(density.logdensity_fn, **parameters).step

        def draw(state: Any, key: Any) -> tuple[Any, Any]:
            state, info = step(key, state)
            return state, (state.position, info)

        return lax.scan(draw, state, jax.random.split(key_draws, config.num_samples))[1]

    keys = jax.random.split(jax.random.key(1), config.num_chains)
    return jax.jit(jax.vmap(chain))(keys, starts)


def draws_rows(name: str, config: Config) -> list[DrawsRow]:
    density = build(name, "float64")
    noise = 0.1 * jax.random.normal(jax.random.key(0), (config.num_chains, len(density.start)))
    starts = jnp.asarray(density.start)[None] + noise
    rows = []
    for sampler, draw in (("hmcvae", _ours), ("BlackJAX", _blackjax)):
        position, info = draw(density, starts, config)
        ess = float(arviz.ess(arviz.convert_to_dataset(np.asarray(position)), method="bulk")["x"].min())
        steps = np.asarray(info.num_integration_steps, np.float64)
        rows.append(
            DrawsRow(
                posterior=name,
                sampler=sampler,
                gradients=float(steps.sum()) / ess,
                least_ess=ess,
                steps=float(steps.mean()),
                acceptance=float(jnp.mean(info.acceptance_rate)),
                divergent=int(jnp.sum(info.is_divergent)),
            )
        )
    return rows
