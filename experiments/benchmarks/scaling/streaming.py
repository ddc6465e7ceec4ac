"""Images a second from a file and from memory, in one process, whose memory is watched."""

import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.scaling.config import Config
from experiments.benchmarks.scaling.model import OPTIMIZER, PIXELS, model, pixels
from experiments.support.timing import ratio, timed
from hmcvae import training


class Streaming(NamedTuple):
    """file_gib: what was read, once.  peak_mib: the most memory that the process held, images in memory and all.
    alone_mib: that of a process which does nothing but stream the file.
    images_per_second: (from the file, from memory), medians.  rate: of the two within a round, and its error."""

    file_gib: float
    peak_mib: float
    alone_mib: float
    images_per_second: tuple[float, float]
    rate: tuple[float, float]


class FileBatches:
    """Batches of a file of raw bytes, read one after another; Python's own file keeps no more than it was asked for."""

    def __init__(self, path: Path, batch_size: int, shape: tuple[int, ...]):
        self._path, self._shape = path, (batch_size, *shape)
        self._count = path.stat().st_size // int(np.prod(self._shape))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[np.ndarray]:
        with self._path.open("rb") as file:
            for _ in range(self._count):
                yield np.frombuffer(file.read(int(np.prod(self._shape))), np.uint8).reshape(self._shape)


def write_file(path: Path, config: Config) -> None:
    """num_parts × steps_in_memory batches of noise."""
    for step in range(config.num_parts * config.steps_in_memory):
        with path.open("ab") as file:
            pixels(config.batch_size, config.image_shape, step).tofile(file)


def peak_mib() -> float:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2 ** (20 if sys.platform == "darwin" else 10)


def measure(config: Config) -> Streaming:
    """One pass over the file, in parts; after each as many steps in memory, so that both see the same machine."""
    bound, params = model(config.image_shape, config.hidden, config.latent_dim, num_steps=None)
    num_steps = config.steps_in_memory
    settings = training.Settings(batch_size=config.batch_size)
    in_memory = jnp.asarray(pixels(num_steps * config.batch_size, config.image_shape))
    whole = training.make_epoch(bound, OPTIMIZER, settings, PIXELS)
    by_batch = training.make_stream_epoch(bound, OPTIMIZER, settings, PIXELS)
    state = training.init_state(params, OPTIMIZER, 0)
    with tempfile.TemporaryDirectory(dir=config.scratch) as folder:
        path = Path(folder) / "images.bin"
        write_file(path, config)
        batches = iter(FileBatches(path, config.batch_size, config.image_shape))
        taken: list[tuple[float, float]] = []
        for part in range(config.num_parts):
            first = timed(lambda: by_batch(state, batches, num_steps))[1].seconds
            second = timed(lambda: whole(state, in_memory))[1].seconds
            if part:  # the first of each compiles
                taken.append((first, second))
    streamed, kept = np.array(taken).T
    count = num_steps * config.batch_size
    rates = float(count / np.median(streamed)), float(count / np.median(kept))
    gib = config.num_parts * count * config.image_bytes / 2**30
    return Streaming(gib, peak_mib(), float("nan"), rates, ratio(kept, streamed))


def peak_alone(config: Config) -> float:
    """MiB that this process held at most while it streamed the file, and did nothing else."""
    bound, params = model(config.image_shape, config.hidden, config.latent_dim, num_steps=None)
    by_batch = training.make_stream_epoch(
        bound, OPTIMIZER, training.Settings(batch_size=config.batch_size), PIXELS
    )
    state = training.init_state(params, OPTIMIZER, 0)
    with tempfile.TemporaryDirectory(dir=config.scratch) as folder:
        path = Path(folder) / "images.bin"
        write_file(path, config)
        batches = FileBatches(path, config.batch_size, config.image_shape)
        timed(lambda: by_batch(state, batches, len(batches)))
    return peak_mib()


def in_own_process(config: Config) -> Streaming:
    """Each in a process that has held nothing else."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        measured = pool.apply(measure, (config,))
    with context.Pool(1) as pool:
        return measured._replace(alone_mib=pool.apply(peak_alone, (config,)))
