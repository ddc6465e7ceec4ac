"""The run of a call on an accelerator: the report is written anew after every row."""

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from experiments.benchmarks.accelerator.chains import chain_rows
from experiments.benchmarks.accelerator.config import Config, smaller
from experiments.benchmarks.accelerator.epochs import epoch_row
from experiments.benchmarks.accelerator.numerics import log_weights, trajectories
from experiments.benchmarks.accelerator.tables import TITLES, markdown
from experiments.benchmarks.accelerator.trainings import go_on
from experiments.reporting.reports import command_line, make_report, write_report
from experiments.support.files import check_writable
from experiments.support.machine import describe

NAME = "accelerator"
# Of the seconds, after which no further timing is begun: trainings have the rest.
TIMINGS = 0.6
# A training with less than this is not begun.
LEAST = 5.0


def call(config: Config, command: str) -> dict:
    """Check, time, train on, and write the JSON and the page after each. What fails has its error in the row's place,
    and the others go on."""
    begin = time.monotonic()
    stem = Path(config.folder or f"runs/{NAME}") / NAME
    check_writable(stem.parent)
    environment = describe()
    figures: dict[str, list] = {name: [] for name in TITLES}
    report: dict[str, Any] = {}

    def left(share: float = 1.0) -> float:
        return share * config.seconds - (time.monotonic() - begin)

    def add(part: str, of: str, make: Callable[[], list[dict]]) -> None:
        nonlocal report
        try:
            rows = make()
        except Exception as error:  # of memory that is too little, say: seconds of a lent device are short
            traceback.print_exc()
            rows = [{"of": of, "error": f"{type(error).__name__}: {error}"[:300]}]
        figures[part] += rows
        report = make_report(command, config, figures, environment)
        write_report(stem, report, markdown)
        print(f"{config.seconds - left():.0f} s, {part}: {rows[-1]}", flush=True)

    for part, of, make in _timings(config):
        if left(TIMINGS) > 0:
            add(part, of, make)
    for index, name in enumerate(config.presets):
        seconds = left() / (len(config.presets) - index)
        if seconds > LEAST:
            add("trainings", name, lambda n=name, s=seconds: [go_on(n, s, config)])
    return report


def _timings(config: Config) -> Iterator[tuple[str, str, Callable[[], list[dict]]]]:
    """(part, what of it, its rows), the most wanted first."""
    yield "trajectories", "both", trajectories
    for name in config.presets:
        yield "log_weights", name, partial(log_weights, name, config)
    for name in config.presets:
        yield "epochs", f"{name}, float32", lambda n=name: [epoch_row(n, "float32", config)]
    for num_chains in config.chains:
        yield "chains", f"{num_chains} chains", partial(chain_rows, num_chains, config)
    for name in config.presets:
        yield "epochs", f"{name}, bfloat16", lambda n=name: [epoch_row(n, "bfloat16", config)]


def main() -> None:
    import tyro

    config = tyro.cli(Config, prog=f"python -m experiments.{NAME}")
    config = smaller(config) if config.quick else config
    report = call(config, command_line(NAME, config.data_dir))
    if any("error" in row for name in TITLES for row in report[name]):
        sys.exit("error: some rows failed, see the page")
