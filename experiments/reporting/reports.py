"""A report: STEM.json with the figures and what one needs to repeat them, STEM.md made from it, and pictures."""

import dataclasses
import json
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from experiments.support.files import write_json
from experiments.support.machine import describe

NOTES = "<!-- written by hand, kept by the script -->"
NOT_MEASURED = "not measured"


def command_line(script: str, data_dir: Path | None = None) -> str:
    """The command that runs, for the record; DIR stands for the data's folder, which is this machine's own."""
    arguments = ["DIR" if argument == str(data_dir) else argument for argument in sys.argv[1:]]
    return " ".join([f"python -m experiments.{script}", *arguments])


def make_report(command: str, config: Any, figures: dict, environment: dict | None = None) -> dict:
    """The figures with command, date, environment (by default as it is now) and config, all plain JSON.

    Paths in the config are those of one machine, and are left out.
    """
    settings = {
        name: None if isinstance(value, Path) else value for name, value in dataclasses.asdict(config).items()
    }
    head = {
        "command": command,
        "date": date.today().isoformat(),
        "environment": environment or describe(),
        "config": settings,
    }
    return json.loads(json.dumps(head | figures, default=str))


def write_report(
    stem: Path,
    report: dict,
    markdown: Callable[[dict], str],
    draw: Callable[[dict, Path], None] | None = None,
) -> None:
    """Write STEM.json, STEM.md as `markdown` makes it, with what a person wrote below NOTES kept, and STEM.png."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_json(stem.with_suffix(".json"), report)
    page = stem.with_suffix(".md")
    page.write_text(with_notes(markdown(report), page))
    if draw is not None:
        draw(report, stem.with_suffix(".png"))


def with_notes(made: str, page: Path) -> str:
    """The page as it is made, and below it what a person wrote into the one that is there."""
    text = page.read_text() if page.exists() else ""
    return (
        made if NOTES not in text else f"{made.rstrip()}\n\n{NOTES}\n" + text.split(NOTES, 1)[1].lstrip("\n")
    )


def markdown_table(columns: list[str], rows: list[list[str]], num_words: int = 1) -> list[str]:
    """Lines of a table; the first num_words columns are aligned left, the others right."""
    rule = ["---"] * num_words + ["---:"] * (len(columns) - num_words)
    return [
        f"| {' | '.join(columns)} |",
        f"|{'|'.join(rule)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def cell(value: float | None, form: str = ".3g") -> str:
    """A figure; "not measured" where there is none."""
    return NOT_MEASURED if value is None else f"{value:{form}}"


def device_line(environment: dict) -> str:
    """What a page says of the machine."""
    return f"{environment['device']} ({environment['num_cpus']} cores), JAX {environment['jax']}"
