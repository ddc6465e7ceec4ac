"""What is measured, and its page."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from experiments.configs.presets import preset
from experiments.reporting.reports import (
    cell,
    command_line,
    machine_line,
    make_report,
    markdown_table,
    write_report,
)
from experiments.runs.model import ImageFormat, build
from experiments.support.checks import check_fields, check_whole
from experiments.support.files import check_writable
from experiments.support.timing import timed
from hmcvae import _convolutions, training
from hmcvae.networks import CONV_MAPS

NAME = "bench_convolutions"
SHAPE = (28, 28, 1)
NUM_TRAIN = 50_000  # images of an epoch of the presets


@dataclass(frozen=True)
class Config:
    """Benchmark the convolutional nets' training.

    Attributes:
        presets: whose steps are timed.
        batch_size: images a step; the presets have 250.
        num_steps: of a timed program.
        rounds: of which the least counts.
        folder: where JSON and page go; runs/bench_convolutions by default.
    """

    presets: tuple[str, ...] = ("mnist_conv_vae", "mnist_conv_amortised", "mnist_conv_hvi")
    batch_size: int = 250
    num_steps: int = 2
    rounds: int = 3
    folder: Path | None = None

    def __post_init__(self):
        check_fields(self, {name: check_whole(1) for name in ("batch_size", "num_steps", "rounds")})


@contextmanager
def convolutions(as_products: bool) -> Iterator[None]:
    """Programs that are made inside are as on a CPU, or with XLA's convolutions."""
    with mock.patch.object(_convolutions, "_is_for_cpu", return_value=as_products):
        yield


def steps_of(name: str, config: Config) -> Callable[[], Any]:
    """A function that takes `num_steps` steps of a preset, compiled by its first call."""
    chosen = preset(name)
    options = dataclasses.replace(chosen.training, batch_size=config.batch_size)
    model = build(chosen, ImageFormat(SHAPE, 255))
    optimizer = training.adam(1e-3, "constant", config.num_steps)
    epoch = training.make_epoch(model.bound, optimizer, options, model.preprocess)
    state = training.init_state(model.params, optimizer, 0)
    shape = (config.num_steps * config.batch_size, *SHAPE)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return lambda: epoch(state, images)


def products_of(hidden: int, latent_dim: int) -> list[tuple[int, int, int]]:
    """(rows for an image, inner, columns) of each product of the VAE's forward pass."""
    products, maps, side = [], (1, *CONV_MAPS), SHAPE[0]
    for channels, own in zip(maps, CONV_MAPS, strict=False):
        side = -(-side // 2)
        # Down, the windows of 5 × 5 pixels. Up, onto four phases of which each has 25/4 of them; onto one map, where
        # that is a product with a vector, rows by a banded matrix, which takes a tenth of its time.
        up = (4 * side**2, 25 * own // 4, channels) if channels > 1 else (side, side * own, 5 * 2 * side)
        products += [(side**2, 25 * channels, own), up]
    flat = side**2 * CONV_MAPS[-1]
    dense = [(flat, hidden), (hidden, 2 * latent_dim), (latent_dim, hidden), (hidden, flat)]
    return products + [(1, *sizes) for sizes in dense]


def least_of_a_step(batch_size: int, rounds: int, hidden: int, latent_dim: int) -> float:
    """CPU seconds of the products of a step alone, one by one: forwards, and backwards in both arguments."""
    total = 0.0
    for rows, inner, columns in products_of(hidden, latent_dim):
        sizes = {"x": (batch_size * rows, inner), "w": (inner, columns), "y": (batch_size * rows, columns)}
        x, w, y = (jax.random.normal(jax.random.key(0), sizes[name]) for name in "xwy")
        for product, left, right in (
            (lambda a, b: a @ b, x, w),
            (lambda a, b: a @ b.T, y, w),
            (lambda a, b: a.T @ b, x, y),
        ):
            call = partial(jax.jit(product), left, right)
            timed(call)
            total += min(timed(call)[1].cpu_seconds for _ in range(rounds))
    return total


def measure(name: str, config: Config) -> dict:
    """CPU seconds of a step of a preset, both ways."""
    calls = {}
    for as_products in (False, True):
        with convolutions(as_products):
            calls[as_products] = steps_of(name, config)
            timed(calls[as_products])
    taken: dict = {True: [], False: []}
    for _ in range(config.rounds):
        for as_products, call in calls.items():
            taken[as_products].append(timed(call)[1].cpu_seconds / config.num_steps)
    xla, ours = min(taken[False]), min(taken[True])
    return {"preset": name, "xla": xla, "ours": ours, "ratio": xla / ours}


def benchmark(config: Config, command: str) -> dict:
    """Measure, print, and write the JSON and the page."""
    stem = (config.folder or Path(f"runs/{NAME}")) / NAME
    check_writable(stem.parent)
    vae = preset("mnist_conv_vae")
    figures = {
        "products": least_of_a_step(config.batch_size, config.rounds, vae.hidden[0], vae.latent_dim),
        "rows": [measure(name, config) for name in config.presets],
    }
    report = make_report(command, config, figures)
    write_report(stem, report, markdown)
    print(markdown(report))
    return report


def markdown(report: dict) -> str:
    """The page."""
    config = report["config"]
    steps = NUM_TRAIN // config["batch_size"]
    rows = [
        [
            row["preset"],
            cell(row["xla"]),
            cell(row["ours"]),
            cell(row["ratio"], ".1f"),
            cell(steps * row["xla"], ".0f"),
            cell(steps * row["ours"], ".0f"),
        ]
        for row in report["rows"]
    ]
    of_vae = [row["ours"] for row in report["rows"] if row["preset"] == "mnist_conv_vae"]
    least = (
        f" A step of mnist_conv_vae takes {of_vae[0] / report['products']:.1f} times what its matrix products alone do "
        f"({report['products']:.3g} s)."
        if of_vae
        else ""
    )
    lines = [
        "# Convolutions as matrix products",
        "",
        f"`{report['command']}`",
        "",
        *markdown_table(
            [
                "preset",
                "XLA's: s a step",
                "products: s a step",
                "ratio",
                "XLA's: s an epoch",
                "products: s an epoch",
            ],
            rows,
        ),
        "",
        f"CPU seconds of a training step of {config['batch_size']} images, from programs of {config['num_steps']} "
        f"steps, the least of {config['rounds']} rounds in turns; an epoch of {NUM_TRAIN:,} images is {steps} of "
        f"them.{least}",
        "",
        f"Machine: {machine_line(report['environment'])}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    import tyro

    benchmark(tyro.cli(Config, prog=f"python -m experiments.{NAME}"), command_line(NAME))
