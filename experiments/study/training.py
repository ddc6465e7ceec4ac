"""Training of one method against a decoder that is held fixed."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from experiments.configs import TrainConfig
from experiments.study.config import StudyConfig
from experiments.study.records import Training
from experiments.support.subset import evenly
from experiments.support.timing import Stopwatch
from hmcvae import training
from hmcvae._random import stream
from hmcvae.bounds import Bound
from hmcvae.transitions import Target
from hmcvae.types import PRNGKey, PyTree

# Images in one call of the compiled loop: training ends within one of them of its seconds.
CHUNK = 2000


def with_fixed_decoder(bound: Bound, decoder: PyTree) -> Bound:
    """The bound as a function of the encoder and its own parameters alone."""

    def build(params: PyTree, rng_key: PRNGKey, x: jax.Array) -> Target:
        whole = {"encoder": params["vae"]["encoder"], "decoder": lax.stop_gradient(decoder)}
        return bound.build({"vae": whole, "bound": params["bound"]}, rng_key, x)

    return dataclasses.replace(bound, build=build)


def start_params(config: TrainConfig, bound: Bound, encoder: PyTree, seed: int) -> PyTree:
    """The trained VAE's encoder, and the bound's own at their start."""
    return {
        "vae": {"encoder": config.method.posterior.start_encoder(encoder)},
        "bound": bound.init(stream(seed, "bound")),
    }


def interleaved(images: np.ndarray) -> jax.Array:
    """The images as chunks, [size, chunk, …]: each chunk is an even sample of the whole, since some sets are sorted."""
    size = min(CHUNK, len(images))
    num_chunks = len(images) // size
    chosen = images[evenly(len(images), num_chunks * size)]
    return jnp.asarray(chosen.reshape(size, num_chunks, *images.shape[1:]))


def train_method(
    config: TrainConfig,
    bound: Bound,
    params: PyTree,
    images: np.ndarray,
    options: StudyConfig,
    preprocess: training.Pixels,
) -> tuple[PyTree, Training]:
    """(params, how it went) after `options.seconds` CPU seconds, or `options.num_epochs`, over which Adam's rate falls
    to zero as a half cosine."""
    chunks = interleaved(images)
    size, num_chunks = chunks.shape[:2]
    settings = dataclasses.replace(config.training, batch_size=min(config.training.batch_size, size))
    # Made arrays too, the moments' decay rates would be of double precision where that is on.
    adam = optax.inject_hyperparams(optax.adam, static_args=("b1", "b2", "eps", "eps_root"))
    optimizer = adam(learning_rate=settings.rate)
    state = training.init_state(params, optimizer, settings.seed)
    epoch = training.make_epoch(bound, optimizer, settings, preprocess)
    compiled: Any = epoch.lower(state, chunks[:, 0]).compile()  # type: ignore[attr-defined]
    spent, num_epochs, curve, unconverged = 0.0, 0.0, [], []
    while (share := options.progress(spent, num_epochs)) < 1:
        if int(state.bad_run) >= settings.max_bad_steps:
            break
        _set_rate(state, 0.5 * settings.rate * (1 + math.cos(math.pi * share)))
        chunk = jax.block_until_ready(chunks[:, len(curve) % num_chunks])
        with Stopwatch() as watch:
            state, metrics = jax.block_until_ready(compiled(state, chunk))
        spent += watch.elapsed.cpu_seconds
        curve.append([spent, _mean_bound(metrics)])
        unconverged.append(float(np.mean(np.asarray(metrics.unconverged))))
        num_epochs = len(curve) * size / len(images)
    return state.params, Training(
        spent,
        num_epochs,
        spent / num_epochs,
        size,
        curve,
        int(state.num_skipped),
        int(state.num_clipped),
        float(np.mean(unconverged)),
    )


def _set_rate(state: training.TrainState, rate: float) -> None:
    own: Any = state.opt_state
    own.hyperparams["learning_rate"] = jnp.asarray(rate, own.hyperparams["learning_rate"].dtype)


def _mean_bound(metrics: training.StepMetrics) -> float:
    """Over the steps that were taken; NaN where none was."""
    taken = np.asarray(metrics.is_taken)
    return float(np.asarray(metrics.bound)[taken].mean()) if taken.any() else float("nan")
