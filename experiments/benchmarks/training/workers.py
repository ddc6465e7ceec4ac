"""Processes that each hold one library, and the turns in which their contestants train for an epoch each."""

import multiprocessing
import os
import time
import warnings
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.training import ours, peer
from experiments.benchmarks.training.config import Config
from experiments.benchmarks.training.records import EpochTime, Facts, Known, Row, make_row
from experiments.support.machine import num_cores
from experiments.support.timing import Stopwatch

BUILDERS = {"hmcvae": ours.build, "pythae": peer.build}
MIN_ROUNDS = 3  # however long they take


def serve(pipe: Any, library: str, one_core: bool, config: Config, images: np.ndarray) -> None:
    """A worker: builds its epochs, then times one whenever it is told a name."""
    if one_core:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    # Threads that wait by spinning take the core from the very thread that they wait for, as soon as another program
    # is there; with this, PyTorch is the same on a quiet machine and several times faster on a busy one.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    jax.config.update("jax_platforms", "cpu")
    warnings.simplefilter("ignore")
    try:
        epochs, known = BUILDERS[library](config, images, one_core)
        for epoch in epochs.values():
            epoch()
    except Exception as error:
        pipe.send(RuntimeError(f"{library}: {error!r}"))
        return
    pipe.send((list(epochs), known))
    for name in iter(pipe.recv, None):
        with Stopwatch() as watch:
            bound = epochs[name]()
        pipe.send(EpochTime(*watch.elapsed, bound))


class Worker:
    """A process with one library in it; see `serve`.

    contestants: their names.  facts: what is known of each.
    """

    def __init__(self, library: str, one_core: bool, config: Config, images: np.ndarray):
        context = multiprocessing.get_context("spawn")  # JAX has threads, which do not survive a fork
        self.library, self.num_cores = library, 1 if one_core else num_cores()
        self.contestants: list[str] = []
        self.facts: dict[str, Facts] = {}
        self.pipe, child = context.Pipe()
        self.process = context.Process(
            target=serve, args=(child, library, one_core, config, images), daemon=True
        )
        self.process.start()
        child.close()

    def wait(self) -> None:
        """Until its epochs are built.

        Raises:
            RuntimeError: if it failed.
        """
        self.contestants, self.facts = self._receive()

    def time_epoch(self, name: str) -> EpochTime:
        """Train for one epoch.

        Raises:
            RuntimeError: if it failed.
        """
        self.pipe.send(name)
        return self._receive()

    def _receive(self) -> Any:
        try:
            message = self.pipe.recv()
        except EOFError:
            raise RuntimeError(f"the process that runs {self.library} ended unexpectedly") from None
        if isinstance(message, Exception):
            raise message
        return message

    def close(self) -> None:
        if self.process.is_alive():
            self.process.terminate()
        self.process.join()
        self.process.close()
        self.pipe.close()


def measure(config: Config, images: np.ndarray, libraries: tuple[str, ...]) -> tuple[list[Row], Known]:
    """A row for every contestant, and what is known of each model.

    Raises:
        RuntimeError: if a contestant fails.
    """
    kinds = (False, True) if config.one_core and hasattr(os, "sched_setaffinity") else (False,)
    workers: list[Worker] = []
    try:
        for library in libraries:
            for one_core in kinds:
                workers.append(Worker(library, one_core, config, images))
                workers[-1].wait()  # so that no two compile at once
        rows = take_turns(workers, config)
    finally:
        for worker in workers:
            worker.close()
    return rows, known_of(workers)


def take_turns(workers: list[Worker], config: Config) -> list[Row]:
    """Every contestant trains for an epoch in each round; every second round goes backwards."""
    contestants = [(worker, name) for worker in workers for name in worker.contestants]
    times: list[list[EpochTime]] = [[] for _ in contestants]
    begin = time.perf_counter()
    for number in range(config.rounds):
        if number >= MIN_ROUNDS and time.perf_counter() - begin > config.seconds:
            break
        for index in list(range(len(contestants)))[:: 1 if number % 2 else -1]:
            worker, name = contestants[index]
            times[index].append(worker.time_epoch(name))
    return [
        make_row(worker.library, name, worker.num_cores, own)
        for (worker, name), own in zip(contestants, times, strict=True)
    ]


def known_of(workers: list[Worker]) -> Known:
    """What the workers found; with all cores, where both did."""
    known: Known = {}
    for worker in workers:
        own = known.setdefault(worker.library, {})
        for name, facts in worker.facts.items():
            own[name] = own[name].or_else(facts) if name in own else facts
    return known
