"""The run of the benchmark of training."""

from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np

from experiments.benchmarks.peers import PYTHAE, installed
from experiments.benchmarks.training.config import Config, load_images, smaller
from experiments.benchmarks.training.figures import draw
from experiments.benchmarks.training.records import compare
from experiments.benchmarks.training.tables import markdown, outcome, table
from experiments.benchmarks.training.workers import measure
from experiments.reporting.reports import command_line, make_report, write_report
from experiments.support.files import check_writable
from experiments.support.machine import describe
from experiments.support.timing import Stopwatch

NAME = "bench_training"
PACKAGES = ("flax", "optax", "torch", "pythae")


def benchmark(config: Config, images: np.ndarray, command: str) -> dict:
    """Measure, print, and write the JSON, Markdown and picture.

    Raises:
        ValueError: unless there are num_images images.
        RuntimeError: if a contestant fails.
    """
    stem = (config.folder or Path(f"runs/{NAME}")) / NAME
    check_writable(stem.parent)
    if len(images) != config.num_images:
        raise ValueError(f"expected num_images = {config.num_images} images, got {len(images)}")
    peers = installed([PYTHAE])
    environment = describe(*PACKAGES)
    print(", ".join(f"{name} {value}" for name, value in environment.items()), flush=True)
    with Stopwatch() as watch:
        measured, known = measure(config, images, ("hmcvae", *peers))
    rows = compare(measured, () if peers else (PYTHAE.name,))
    print(*table(rows), "", *outcome(rows, known), sep="\n")
    seconds = round(watch.elapsed.seconds, 1)
    figures = {
        "num_rounds": len(measured[0].rounds),
        "seconds": seconds,
        "rows": [asdict(row) for row in rows],
        "known": {
            library: {name: facts.to_json() for name, facts in models.items()}
            for library, models in known.items()
        },
    }
    report = make_report(command, config, figures, environment)
    write_report(stem, report, markdown, draw)
    print(f"written in {seconds} s: {stem}.json, .md, .png")
    return report


def main() -> None:
    import tyro

    jax.config.update("jax_platforms", "cpu")  # as in the workers
    config = tyro.cli(Config, prog=f"python -m experiments.{NAME}")
    config = smaller(config) if config.quick else config
    benchmark(config, load_images(config), command_line(NAME, config.data_dir))
