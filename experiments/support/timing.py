"""Seconds of calls, measured in turns, and their ratios."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

MIN_ROUNDS = 8


class Elapsed(NamedTuple):
    """seconds: by the clock.  cpu_seconds: of all threads of this process; leaves out when others held the cores."""

    seconds: float
    cpu_seconds: float


class Stopwatch:
    """`with Stopwatch() as watch: …`, then `watch.elapsed`. What is timed must wait for its own results."""

    elapsed: Elapsed

    def __enter__(self) -> "Stopwatch":
        self._begin = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *exception: object) -> None:
        seconds, cpu_seconds = self._begin
        self.elapsed = Elapsed(time.perf_counter() - seconds, time.process_time() - cpu_seconds)


def seconds_of(call: Callable[[], Any]) -> float:
    """Seconds of one call, until all that it returns is there."""
    return timed(call)[1].seconds


def timed(call: Callable[[], Any]) -> tuple[Any, Elapsed]:
    """What a call returns, and what it took until that was there."""
    with Stopwatch() as watch:
        value = jax.block_until_ready(call())
    return value, watch.elapsed


def seconds_per_round(run: Callable[[int], Any], seconds: float) -> float:
    """Seconds of one of the `count` rounds of `run(count)`, from the first of 1, 4, 16, … that takes `seconds` or more,
    best of three."""
    count = 1
    seconds_of(partial(run, count))  # compile
    while (taken := min(seconds_of(partial(run, count)) for _ in range(3))) < seconds:
        count *= 4
    return taken / count


def in_turns(
    calls: Mapping[str, Callable[[], Any]], max_rounds: int, seconds: float = np.inf
) -> dict[str, np.ndarray]:
    """Seconds of each call in the calmer half of the rounds: as many as `seconds` hold, MIN_ROUNDS to max_rounds.

    The order turns, so that no call always follows the same one. A round in which the machine did something else is
    long for whichever ran at that moment; dropping the longer half of the rounds favours none.
    """
    for call in calls.values():
        seconds_of(call)  # compile
    once = sum(seconds_of(call) for call in calls.values())
    num_rounds = int(np.clip(seconds / once, min(MIN_ROUNDS, max_rounds), max_rounds))
    names = list(calls)
    taken = {name: np.zeros(num_rounds) for name in names}
    for index in range(num_rounds):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            taken[name][index] = seconds_of(calls[name])
    length = sum(values / np.median(values) for values in taken.values())
    calm = np.argsort(length)[: -(-num_rounds // 2)]
    return {name: values[calm] for name, values in taken.items()}


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, float]:
    """The median of the ratios within a round, and its standard error from their interquartile range."""
    ratios = numerator / denominator
    low, high = np.quantile(ratios, [0.25, 0.75])
    return float(np.median(ratios)), float(0.93 * (high - low) / np.sqrt(ratios.size))
