"""The run of the benchmark of softness, printed as it comes, and its report."""

import warnings
from pathlib import Path

import jax

from experiments.benchmarks.softness.config import Config, smaller
from experiments.benchmarks.softness.rows import Findings, rows
from experiments.benchmarks.softness.tables import markdown, outcome, table
from experiments.reporting.reports import command_line, make_report, write_report
from experiments.support.files import check_writable
from experiments.support.machine import describe
from experiments.support.timing import Stopwatch
from hmcvae.samplers.draws import SamplingWarning

NAME = "bench_softness"


def benchmark(config: Config, command: str) -> dict:
    """Measure, print, and write the JSON and the page."""
    stem = (config.folder or Path(f"runs/{NAME}")) / NAME
    check_writable(stem.parent)
    environment = describe("arviz")
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore", SamplingWarning)  # of what the table is about
    found = Findings([])
    with Stopwatch() as watch:
        for name in config.posteriors:
            for row in rows(name, config):
                found.rows.append(row)
                print(table(found.rows)[-1], flush=True)
    report = make_report(
        command, config, {"seconds": round(watch.elapsed.seconds, 1), **found.to_json()}, environment
    )
    print("", *outcome(found), sep="\n")
    write_report(stem, report, markdown)
    print(f"written: {stem}.json, .md")
    return report


def main() -> None:
    import tyro

    config = tyro.cli(Config, prog=f"python -m experiments.{NAME}")
    benchmark(smaller(config) if config.quick else config, command_line(NAME, config.data_dir))
