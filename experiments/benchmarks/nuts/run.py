"""The run of the benchmark of the no-U-turn sampler, printed as it comes, and its report."""

from pathlib import Path

import jax

from experiments.benchmarks.nuts.config import Config, smaller
from experiments.benchmarks.nuts.draws import draws_rows
from experiments.benchmarks.nuts.figures import draw
from experiments.benchmarks.nuts.rows import Findings
from experiments.benchmarks.nuts.speed import speed_row
from experiments.benchmarks.nuts.tables import draws_table, markdown, outcome, speed_table
from experiments.reporting.reports import command_line, make_report, write_report
from experiments.support.files import check_writable
from experiments.support.machine import describe
from experiments.support.timing import Stopwatch

NAME = "bench_nuts"


def measure(config: Config) -> Findings:
    found = Findings([], [])
    # BlackJAX's sampler takes positions in single precision only where there is no other.
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    for name in config.densities:
        for num_chains in config.chains:
            found.speed.append(speed_row(name, num_chains, config))
            print(speed_table(found.speed)[-1], flush=True)
    jax.config.update("jax_enable_x64", True)
    for name in config.posteriors:
        found.draws.extend(draws_rows(name, config))
        print(*draws_table(found.draws)[-2:], sep="\n", flush=True)
    return found


def benchmark(config: Config, command: str) -> dict:
    """Measure, print, and write the JSON, Markdown and picture."""
    stem = (config.folder or Path(f"runs/{NAME}")) / NAME
    check_writable(stem.parent)
    environment = describe("blackjax", "arviz")
    with Stopwatch() as watch:
        found = measure(config)
    figures = {"seconds": round(watch.elapsed.seconds, 1), **found.to_json()}
    report = make_report(command, config, figures, environment)
    print("", *outcome(found), sep="\n")
    write_report(stem, report, markdown, draw)
    print(f"written: {stem}.json, .md, .png")
    return report


def main() -> None:
    import tyro

    config = tyro.cli(Config, prog=f"python -m experiments.{NAME}")
    benchmark(smaller(config) if config.quick else config, command_line(NAME))
