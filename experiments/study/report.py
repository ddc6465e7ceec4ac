"""Tables and pictures of a study: `python -m experiments.report RUNS/STUDY`.

Reads the records that `experiments.study` has written, all of them or as many as there are, and writes NAME.json,
NAME.md, NAME_gaps.png, NAME_curves.png and NAME_condition.png into --results (by default the study's folder), and
NAME_grid.png if it has a grid.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from experiments.reporting.reports import command_line, make_report, write_report
from experiments.study.figures import draw_condition, draw_curves, draw_gaps, draw_grid
from experiments.study.records import read
from experiments.study.statistics import position_rows, rows, sandwich, settings
from experiments.study.tables import markdown


@dataclass(frozen=True)
class ReportConfig:
    """Report on a study.

    Attributes:
        study: its folder.
        results: where the table and the pictures go, by default the study's folder.
        name: theirs.
    """

    study: Path
    results: Path | None = None
    name: str = "study"


def make(options: ReportConfig, command: str) -> dict:
    """Read the study; write tables and pictures."""
    decoders = read(options.study)
    found, own = rows(decoders), settings(decoders)
    figures = {
        "rows": [dataclasses.asdict(row) for row in found],
        "sandwich": [dataclasses.asdict(sandwich(decoder)) for decoder in decoders],
        "position_dependence": [dataclasses.asdict(row) for row in position_rows(decoders)],
        "settings": dataclasses.asdict(own),
    }
    # The figures belong to the machine that the records were made on.
    environment = next(iter(decoders[0].records.values())).environment
    report = make_report(command, options, figures, environment)
    stem = (options.results or options.study) / options.name
    write_report(stem, report, markdown)
    budget = "equal passes" if own.num_epochs else "equal CPU seconds"
    draw_gaps(found, stem.with_name(f"{options.name}_gaps.png"), budget)
    draw_grid(found, stem.with_name(f"{options.name}_grid.png"))
    draw_curves(decoders, stem.with_name(f"{options.name}_curves.png"))
    draw_condition(decoders, stem.with_name(f"{options.name}_condition.png"))
    return report


def main() -> None:
    import tyro

    options = tyro.cli(
        ReportConfig, prog="python -m experiments.report", config=(tyro.conf.PositionalRequiredArgs,)
    )
    print(markdown(make(options, command_line("report"))))
