"""A report: STEM.json with the figures and what one needs to repeat them, STEM.md made from it, and pictures."""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from experiments.support.files import with_ending, write_json
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
    write_json(with_ending(stem, ".json"), report)
    page = with_ending(stem, ".md")
    page.write_text(with_notes(markdown(report), page))
    if draw is not None:
        draw(report, with_ending(stem, ".png"))


def with_notes(made: str, page: Path) -> str:
    """The page as it is made, and below it what a person wrote into the one that is there."""
    text = page.read_text() if page.exists() else ""
    return (
        made if NOTES not in text else f"{made.rstrip()}\n\n{NOTES}\n" + text.split(NOTES, 1)[1].lstrip("\n")
    )


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], num_words: int = 1) -> list[str]:
    """Lines of a table; the first num_words columns are aligned left, the others right."""
    rule = ["---"] * num_words + ["---:"] * (len(columns) - num_words)
    return [
        f"| {' | '.join(columns)} |",
        f"|{'|'.join(rule)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def cell(value: float | None, form: str = ".3g", absent: str = NOT_MEASURED) -> str:
    """A figure; "not measured", or what else is said, where there is none."""
    return absent if value is None else f"{value:{form}}"


def number(value: float) -> str:
    """Three digits and a unit: 12.3 k, 4.56 M."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def bits_per_dimension(nats: float, num_dimensions: int) -> float:
    """-log₂ p(x) / D of log p(x) in nats: what a number of an image costs, for a likelihood of whole values. (Of a
    density, it would depend on the unit of the pixels.)"""
    return -nats / math.log(2) / num_dimensions


def plural(count: int, noun: str) -> str:
    """1 chain, 64 chains."""
    return f"{count} {noun}" + "s" * (count != 1)


def device_line(environment: dict) -> str:
    """What a page says of the machine."""
    return f"{environment['device']} ({environment['num_cpus']} cores), JAX {environment['jax']}"


def machine_line(environment: dict, *packages: str) -> str:
    """What a page says of the machine where seconds count: the accelerator, if there is one, the processor, and the
    versions of JAX and of what was measured beside it."""
    accelerator = [] if environment["platform"] == "cpu" else [environment["device"]]
    machine = [*accelerator, environment["cpu"], plural(environment["num_cpus"], "core")]
    return f"{', '.join(machine)}; {', '.join(f'{name} {environment[name]}' for name in ('jax', *packages))}"
