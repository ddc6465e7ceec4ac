"""The calls, one after another from empty caches."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import monitoring

from experiments.benchmarks.first_call.config import Config
from experiments.benchmarks.first_call.contestants import KINDS, SAMPLERS, Call, density
from experiments.benchmarks.first_call.rows import CHANGES, CallRow
from experiments.support.timing import seconds_of

# What JAX reports of itself: tracing to its own expressions, lowering, and XLA's compilation.
_PREFIX = "/jax/core/compile/"


@contextmanager
def compiling() -> Iterator[list[float]]:
    """The seconds in which JAX traced, lowered or compiled within the block, one entry each."""
    found: list[float] = []

    def listen(event: str, seconds: float, **_: Any) -> None:
        if event.startswith(_PREFIX):
            found.append(seconds)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        monitoring.unregister_event_duration_listener(listen)


def calls_of(sampler: Any, config: Config) -> dict[str, tuple[float, float]]:
    """(seconds, of them compiling) of each call in `CHANGES`, in its order."""
    jax.clear_caches()
    gc.collect()
    found = {}

    def take(change: str, algorithm: Any, call: Call) -> None:
        with compiling() as spent:
            seconds = seconds_of(partial(sampler.run, algorithm, call))
        found[change] = seconds, sum(spent)

    logdensity_fn = density(config, 0)
    algorithm = sampler.build(logdensity_fn)
    lengths = config.num_warmup, config.num_samples
    take("first", algorithm, Call(0, *lengths))
    take("key", algorithm, Call(1, *lengths))
    take("samples", algorithm, Call(1, lengths[0], lengths[1] + 1))
    take("warmup", algorithm, Call(1, lengths[0] + 1, lengths[1]))
    take("again", sampler.build(logdensity_fn), Call(1, *lengths))
    take("data", sampler.build(density(config, 1)), Call(1, *lengths))
    return found


def measure(config: Config) -> Iterator[CallRow]:
    """Rows as they come; the samplers take turns."""
    for kind in KINDS:
        samplers = [make(kind, config) for make in SAMPLERS]
        rounds: list[list] = [[] for _ in samplers]
        for _ in range(config.rounds):
            for own, sampler in zip(rounds, samplers, strict=True):
                own.append(calls_of(sampler, config))
        for own, sampler in zip(rounds, samplers, strict=True):
            for change in CHANGES:
                seconds, spent = np.median([found[change] for found in own], axis=0)
                yield CallRow(kind, sampler.name, change, round(float(seconds), 3), round(float(spent), 3))
