"""The run of the leapfrog's benchmark and, where peers are asked for, of the Riemannian one."""

from dataclasses import asdict, replace
from pathlib import Path

import jax

from experiments.benchmarks.integrators.config import PEERS, RIEMANNIAN_PEERS, Config, smaller
from experiments.benchmarks.integrators.cost import measure_all
from experiments.benchmarks.integrators.figures import draw
from experiments.benchmarks.integrators.tables import markdown, outcome, table
from experiments.benchmarks.peers import check_known, installed
from experiments.benchmarks.riemannian import config as riemannian_config
from experiments.benchmarks.riemannian import run as riemannian
from experiments.reporting.reports import command_line, make_report, write_report
from experiments.support.files import check_writable
from experiments.support.machine import describe
from experiments.support.timing import Stopwatch

NAME = "bench_integrators"


def benchmark(config: Config, command: str) -> dict:
    """Measure, print, and write the JSON, Markdown and picture.

    Raises:
        ValueError: for a peer that is not known, or if a peer's trajectory is not ours.
    """
    wanted = [peer.name for peer in PEERS] if config.peers is None else config.peers
    check_known(wanted, RIEMANNIAN_PEERS)
    stem = (config.folder or Path(f"runs/{NAME}")) / NAME
    check_writable(stem.parent)
    peers = installed(peer for peer in PEERS if peer.name in wanted)
    environment, rows = describe("blackjax"), []
    print(", ".join(f"{name} {value}" for name, value in environment.items()), *table([]), sep="\n")
    with Stopwatch() as watch:
        for row in measure_all(config, peers):
            rows.append(row)
            print(table([row])[-1], flush=True)
    print("", *outcome(rows), sep="\n")
    seconds = round(watch.elapsed.seconds, 1)
    figures = {"seconds": seconds, "rows": [asdict(row) for row in rows]}
    report = make_report(command, replace(config, peers=peers), figures, environment)
    write_report(stem, report, markdown, draw)
    print(f"written in {seconds} s: {stem}.json, .md, .png")
    return report


def run_riemannian(config: Config, command: str) -> None:
    """The Riemannian part, with the same peers and folder."""
    settings = riemannian_config.Config(peers=config.peers or (), quick=config.quick, folder=config.folder)
    riemannian.benchmark(riemannian_config.smaller(settings) if config.quick else settings, command)


def main() -> None:
    import tyro

    jax.config.update("jax_enable_x64", True)
    config = tyro.cli(Config, prog=f"python -m experiments.{NAME}")
    command = command_line(NAME)
    benchmark(smaller(config) if config.quick else config, command)
    if config.peers:
        run_riemannian(config, command)
