"""Seconds of a training epoch of each preset, compilation apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.accelerator.config import Config
from experiments.benchmarks.accelerator.models import loaded
from experiments.configs import Elbo
from experiments.support.timing import Stopwatch
from hmcvae import training

DTYPES = ("float32", "bfloat16")


def epoch_row(name: str, compute_dtype: str, config: Config) -> dict[str, Any]:
    """Of a preset, its layers in that dtype. seconds, spread: of an epoch of `images`, mean and standard deviation.
    flops_per_second: by XLA's count of a step, of those bounds that have no loop, of which it counts the body once.
    temporary_bytes: of the program.  peak_bytes: of the device since it started, where it tells."""
    chosen, dataset, model = loaded(name, config, compute_dtype=compute_dtype)
    images = jnp.asarray(dataset.train[: config.num_images])
    batch_size = min(chosen.training.batch_size, len(images))
    num_batches = len(images) // batch_size
    settings = training.Settings(batch_size=batch_size, clip_norm=chosen.training.clip_norm)
    optimizer = chosen.training.make_optimizer(num_batches)
    state = training.init_state(model.params, optimizer, 0)
    with Stopwatch() as watch:
        program = (
            training.make_epoch(model.bound, optimizer, settings, model.preprocess)
            .lower(state, images)
            .compile()
        )
    held, taken = [state], []

    def epoch() -> None:
        held[0], metrics = jax.block_until_ready(program(held[0], images))
        if not np.isfinite(np.asarray(metrics.bound)).all():
            raise FloatingPointError(f"{name}, {compute_dtype}: bounds that are not finite")

    del state
    epoch()  # the first is not like the others
    for _ in range(config.repeats):
        with Stopwatch() as own:
            epoch()
        taken.append(own.elapsed.seconds)
    seconds = float(np.mean(taken))
    has_loop = not isinstance(chosen.method, Elbo)
    flops = None if has_loop else _flops_of_a_step(model, optimizer, settings, held[0], images)
    memory: Any = program.memory_analysis()
    return {
        "preset": name,
        "compute_dtype": compute_dtype,
        "images": num_batches * batch_size,
        "batch_size": batch_size,
        "compile_seconds": watch.elapsed.seconds,
        "seconds": seconds,
        "spread": float(np.std(taken, ddof=1)) if len(taken) > 1 else 0.0,
        "images_per_second": num_batches * batch_size / seconds,
        "flops_per_second": None if flops is None else flops * num_batches / seconds,
        "temporary_bytes": int(memory.temp_size_in_bytes),
        "peak_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
    }


def _flops_of_a_step(model: Any, optimizer: Any, settings: Any, state: Any, images: Any) -> float:
    step = training.make_step(model.bound, optimizer, settings, model.preprocess)
    batch = images[: settings.batch_size]
    lowered = jax.jit(step, static_argnums=3).lower(state, batch, jax.random.key(0), 1)
    # Before compilation: afterwards a GPU's products are calls that XLA does not count.
    cost: Any = lowered.cost_analysis() or {}
    return float(cost.get("flops", float("nan")))
