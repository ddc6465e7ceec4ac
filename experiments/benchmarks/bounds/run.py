"""The run of the benchmark of the bounds."""

from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np

from experiments.benchmarks.bounds.config import Config
from experiments.benchmarks.bounds.figures import draw
from experiments.benchmarks.bounds.rows import make_rows
from experiments.benchmarks.bounds.tables import markdown
from experiments.benchmarks.peers import PYTHAE, installed
from experiments.benchmarks.training.config import load_images, smaller
from experiments.benchmarks.training.run import PACKAGES
from experiments.benchmarks.training.workers import measure
from experiments.reporting.reports import command_line, make_report, write_report
from experiments.support.files import check_writable
from experiments.support.machine import describe

NAME = "bench_bounds"


def benchmark(config: Config, images: np.ndarray, command: str) -> dict:
    """Measure, print, and write the JSON, Markdown and picture.

    Raises:
        RuntimeError: if a contestant fails.
    """
    stem = (config.folder or Path(f"runs/{NAME}")) / NAME
    check_writable(stem.parent)
    libraries = ("hmcvae", *installed([PYTHAE]))
    environment = describe(*PACKAGES)
    measured, known = measure(config, images, libraries)
    rows = [asdict(row) for row in make_rows(measured, known)]
    figures = {"num_rounds": len(measured[0].rounds), "rows": rows}
    report = make_report(command, config, figures, environment)
    write_report(stem, report, markdown, draw)
    print(markdown(report))
    return report


def main() -> None:
    import tyro

    jax.config.update("jax_platforms", "cpu")  # as in the workers
    config = tyro.cli(Config, prog=f"python -m experiments.{NAME}")
    config = smaller(config) if config.quick else config
    benchmark(config, load_images(config), command_line(NAME, config.data_dir))
