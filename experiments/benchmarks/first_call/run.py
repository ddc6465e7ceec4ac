"""The run of the benchmark of first calls, printed as it comes, and its report."""

from pathlib import Path

from experiments.benchmarks.first_call.config import Config, smaller
from experiments.benchmarks.first_call.figures import draw
from experiments.benchmarks.first_call.measure import measure
from experiments.benchmarks.first_call.tables import markdown
from experiments.reporting.reports import command_line, make_report, write_report
from experiments.support.files import check_writable
from experiments.support.machine import describe

NAME = "bench_first_call"


def benchmark(config: Config, command: str) -> dict:
    """Measure, print, and write the JSON, Markdown and picture."""
    stem = (config.folder or Path(f"runs/{NAME}")) / NAME
    check_writable(stem.parent)
    environment = describe("blackjax")
    rows = []
    for row in measure(config):
        rows.append(row.to_json())
        cache = ", cache on disk" if row.is_cached else ""
        took = f"{row.seconds} s, of them {row.preparing} s preparing and {row.compiling} s compiling"
        print(f"{row.kind} {row.sampler}{cache}, {row.change}: {took}", flush=True)
    report = make_report(command, config, {"rows": rows}, environment)
    write_report(stem, report, markdown, draw)
    print(f"written: {stem}.json, .md, .png")
    return report


def main() -> None:
    import tyro

    config = tyro.cli(Config, prog=f"python -m experiments.{NAME}")
    benchmark(smaller(config) if config.quick else config, command_line(NAME))
