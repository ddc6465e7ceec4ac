"""The run of the Riemannian benchmark: all four measurements, printed as they come, and their report."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import jax

from experiments.benchmarks.peers import check_known, installed
from experiments.benchmarks.riemannian.against_blackjax import speed_rows
from experiments.benchmarks.riemannian.against_mici import ess_rows
from experiments.benchmarks.riemannian.config import PEERS, Config, smaller
from experiments.benchmarks.riemannian.density import regression
from experiments.benchmarks.riemannian.figures import draw
from experiments.benchmarks.riemannian.floor import floor_row
from experiments.benchmarks.riemannian.growth import grow
from experiments.benchmarks.riemannian.rows import Findings
from experiments.benchmarks.riemannian.tables import (
    blackjax_table,
    floor_table,
    growth_table,
    markdown,
    mici_table,
    outcome,
)
from experiments.reporting.reports import command_line, make_report, write_report
from experiments.support.files import check_writable
from experiments.support.machine import describe
from experiments.support.timing import Stopwatch

NAME = "bench_riemannian"


def measure(config: Config, peers: tuple[str, ...]) -> Findings:
    """Everything, printed as it comes."""
    model = regression(config.num_rows, config.dim)
    cases = list(product(config.dtypes, config.chains))
    speed, growth = [], []
    for dtype, num_chains in cases:
        rows = speed_rows(model, num_chains, dtype, peers, config)
        print(*blackjax_table(rows)[2:], sep="\n", flush=True)
        speed += rows
    ess, difference = ess_rows(model, peers, config)
    print(*mici_table(ess), sep="\n", flush=True)
    floor = [floor_row(model, num_chains, dtype, config) for dtype, num_chains in cases]
    print(*floor_table(floor), sep="\n", flush=True)
    for row in grow(config):
        print(growth_table([row])[-1], flush=True)
        growth.append(row)
    return Findings(speed, ess, difference, floor, growth)


def benchmark(config: Config, command: str) -> dict:
    """Measure, print, and write the JSON, Markdown and picture.

    Raises:
        ValueError: for a peer that is not known, or if mici's step is not ours.
    """
    check_known(config.peers, PEERS)
    stem = (config.folder or Path(f"runs/{NAME}")) / NAME
    check_writable(stem.parent)
    peers = installed(peer for peer in PEERS if peer.name in config.peers)
    environment = describe("blackjax", "mici", "arviz")
    with Stopwatch() as watch:
        found = measure(config, peers)
    seconds = round(watch.elapsed.seconds, 1)
    figures = {"seconds": seconds, **found.to_json()}
    report = make_report(command, replace(config, peers=peers), figures, environment)
    print("", *outcome(found), sep="\n")
    write_report(stem, report, markdown, draw)
    print(f"written in {seconds} s: {stem}.json, .md, .png")
    return report


def main() -> None:
    import tyro

    jax.config.update("jax_enable_x64", True)
    config = tyro.cli(Config, prog=f"python -m experiments.{NAME}")
    benchmark(smaller(config) if config.quick else config, command_line(NAME))
