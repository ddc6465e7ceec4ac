"""The run of a call on an accelerator: the report is written anew after every row."""

import time
from pathlib import Path
from typing import Any

from experiments.benchmarks.accelerator.chains import chain_rows
from experiments.benchmarks.accelerator.config import Config, smaller
from experiments.benchmarks.accelerator.epochs import DTYPES, epoch_row
from experiments.benchmarks.accelerator.numerics import log_weights, trajectories
from experiments.benchmarks.accelerator.tables import markdown
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
    """Check, time, train on, and write the JSON and the page after each."""
    begin = time.monotonic()
    stem = Path(config.folder or f"runs/{NAME}") / NAME
    check_writable(stem.parent)
    environment = describe()
    figures: dict[str, list] = {
        name: [] for name in ("trajectories", "log_weights", "epochs", "chains", "trainings")
    }
    report: dict[str, Any] = {}

    def left(share: float = 1.0) -> float:
        return share * config.seconds - (time.monotonic() - begin)

    def add(part: str, rows: list[dict]) -> None:
        nonlocal report
        figures[part] += rows
        report = make_report(command, config, figures, environment)
        write_report(stem, report, markdown)
        print(f"{config.seconds - left():.0f} s, {part}: {rows[-1]}", flush=True)

    add("trajectories", trajectories())
    for name in config.presets:
        add("log_weights", log_weights(name, config))
    first, *others = (
        [("epochs", lambda n=n, t=t: [epoch_row(n, t, config)]) for n in config.presets] for t in DTYPES
    )
    chains = [("chains", lambda n=n: chain_rows(n, config)) for n in config.chains]
    timings = [*first, *chains, *(own for part in others for own in part)]
    for part, make in timings:
        if left(TIMINGS) > 0:
            add(part, make())
    for index, name in enumerate(config.presets):
        seconds = left() / (len(config.presets) - index)
        if seconds > LEAST:
            add("trainings", [go_on(name, seconds, config)])
    return report


def main() -> None:
    import tyro

    config = tyro.cli(Config, prog=f"python -m experiments.{NAME}")
    config = smaller(config) if config.quick else config
    call(config, command_line(NAME, config.data_dir))
