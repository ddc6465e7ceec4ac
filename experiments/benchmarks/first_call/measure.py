"""The calls, one after another in processes of their own."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import monitoring

from experiments.benchmarks.first_call.config import Config
from experiments.benchmarks.first_call.contestants import KINDS, SAMPLERS, Call, density
from experiments.benchmarks.first_call.rows import CHANGES, CallRow
from experiments.support.timing import seconds_of

# What JAX reports of itself: tracing to its own expressions, lowering, and XLA's compilation; and within the last, that
# the program was found on disk.
_PREFIX = "/jax/core/compile/"
_COMPILE, _FOUND = _PREFIX + "backend_compile_duration", "/jax/compilation_cache/cache_hits"
# JAX's own cache of compiled programs; with the last one, data that a function closes over are arguments of the
# program and no part of its key. JAX reads that one when it is imported.
CACHE = {
    "JAX_COMPILATION_CACHE_DIR": "",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS": "1",
}
_CHILD = "from experiments.benchmarks.first_call.measure import child; child()"


class Preparation(NamedTuple):
    """Seconds, one entry each.  all_of_it: in which JAX traced, lowered, compiled or loaded.  compiling: in which XLA
    compiled what was not on disk."""

    all_of_it: list[float]
    compiling: list[float]


@contextmanager
def prepared() -> Iterator[Preparation]:
    """What JAX does within the block before it runs anything."""
    found, hits = Preparation([], []), []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if not event.startswith(_PREFIX):
            return
        found.all_of_it.append(duration_secs)
        if event == _COMPILE:
            if not hits:
                found.compiling.append(duration_secs)
            hits.clear()

    def note(event: str, **_: Any) -> None:
        if event == _FOUND:
            hits.append(event)

    monitoring.register_event_duration_secs_listener(listen)
    monitoring.register_event_listener(note)
    try:
        yield found
    finally:
        monitoring.unregister_event_duration_listener(listen)
        monitoring.unregister_event_listener(note)


def calls_of(sampler: Any, config: Config, is_second: bool = False) -> dict[str, tuple[float, float, float]]:
    """(seconds, preparing, compiling) of each call in `CHANGES`, in its order: in the first process all but the last,
    in the second the last alone."""
    found = {}

    def take(change: str, algorithm: Any, call: Call) -> None:
        with prepared() as spent:
            seconds = seconds_of(partial(sampler.run, algorithm, call))
        found[change] = seconds, sum(spent.all_of_it), sum(spent.compiling)

    logdensity_fn = density(config, 0)
    algorithm = sampler.build(logdensity_fn)
    lengths = config.num_warmup, config.num_samples
    if is_second:
        take("process", algorithm, Call(1, *lengths))
        return found
    take("first", algorithm, Call(0, *lengths))
    take("key", algorithm, Call(1, *lengths))
    take("samples", algorithm, Call(1, lengths[0], lengths[1] + 1))
    take("warmup", algorithm, Call(1, lengths[0] + 1, lengths[1]))
    take("again", sampler.build(logdensity_fn), Call(1, *lengths))
    take("data", sampler.build(density(config, 1)), Call(1, *lengths))
    return found


def child() -> None:
    """What a process does: told on its standard input, answered on its standard output."""
    told = json.load(sys.stdin)
    config = Config(**told["config"])
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    sampler = {own.name: own for own in SAMPLERS}[told["sampler"]](told["kind"], config)
    json.dump(calls_of(sampler, config, told["is_second"]), sys.stdout)


def in_processes(sampler: str, kind: str, config: Config, is_cached: bool) -> dict[str, list[float]]:
    """All the calls of one sampler, in two processes; is_cached: that share a cache, empty at first."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        own = CACHE | {"JAX_COMPILATION_CACHE_DIR": folder} if is_cached else {}
        others = {name: value for name, value in os.environ.items() if name not in CACHE}
        for is_second in (False, True):
            settings = dataclasses.asdict(config) | {"folder": None}
            told = {"sampler": sampler, "kind": kind, "config": settings, "is_second": is_second}
            done = subprocess.run(
                [sys.executable, "-c", _CHILD],
                input=json.dumps(told),
                env=others | own,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"{sampler}, {kind}: {done.stderr[-2000:]}")
            found |= json.loads(done.stdout)
    return found


def measure(config: Config) -> Iterator[CallRow]:
    """Rows as they come; the samplers take turns."""
    samplers = [(make.name, is_cached) for is_cached in (False, True) for make in SAMPLERS]
    for kind in KINDS:
        rounds: list[list] = [[] for _ in samplers]
        for _ in range(config.rounds):
            for own, (sampler, is_cached) in zip(rounds, samplers, strict=True):
                own.append(in_processes(sampler, kind, config, is_cached))
        for own, (sampler, is_cached) in zip(rounds, samplers, strict=True):
            for change in CHANGES:
                medians = np.median([found[change] for found in own], axis=0)
                yield CallRow(
                    kind, sampler, is_cached, change, *(round(float(value), 3) for value in medians)
                )
