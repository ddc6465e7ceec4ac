"""The page of the benchmark of training."""

from collections.abc import Iterator

from experiments.benchmarks.peers import PYTHAE
from experiments.benchmarks.training.config import EXACT
from experiments.benchmarks.training.records import Facts, Known, Row
from experiments.reporting.reports import NOT_MEASURED, cell, machine_line, markdown_table

TARGETS = (2.0, 3.0)  # times faster than pythae: at least, and aimed at
NAMES = {
    ("hmcvae", "VAE"): "hmcvae ELBO",
    ("hmcvae", "HVI"): "hmcvae HVI",
    ("pythae", "VAE"): "pythae VAE",
    ("pythae", "HVI"): "pythae HVAE",
}
COLUMNS = "contestant; cores; s an epoch, median; least; CPU s an epoch; s over ours; CPU s over ours; bound at the end"
JUDGED = ("", EXACT.partition(", ")[2])  # the variants of which something was expected


def title(row: Row) -> str:
    """A contestant as the table and the picture name it."""
    return ", ".join([NAMES[row.library, row.model], *([row.variant] if row.variant else [])])


def table(rows: list[Row]) -> list[str]:
    lines = []
    for row in rows:
        if row.seconds is None:
            cells = ["", NOT_MEASURED, "", "", NOT_MEASURED, NOT_MEASURED, ""]
        else:
            cells = [
                str(row.num_cores),
                *(cell(value, ".3f") for value in (row.seconds, row.least_seconds, row.cpu_seconds)),
                times(row.seconds_over_ours),
                times(row.cpu_seconds_over_ours),
                cell(row.bound, ".1f"),
            ]
        lines.append([title(row), *cells])
    return markdown_table(COLUMNS.split("; "), lines)


def times(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.2f} ×"


def outcome(rows: list[Row], known: Known) -> list[str]:
    """What was expected, what came, and where the time goes."""
    return [
        f"Expected: at least {TARGETS[0]:g} × faster than each, aiming at {TARGETS[1]:g} ×.",
        *(judgement(row) for row in rows if row.library != "hmcvae" and row.variant in JUDGED),
        *work(rows, known),
        *gradients(known),
    ]


def judgement(row: Row) -> str:
    """Of one of the peer's."""
    by_clock, in_cpu_time = row.seconds_over_ours, row.cpu_seconds_over_ours
    if by_clock is None or in_cpu_time is None:
        return f"- Against {title(row)}: not measured. `{PYTHAE.install}`"
    found = {"by the clock": by_clock, "in CPU time": in_cpu_time}
    met = [kind for kind, ratio in found.items() if ratio >= TARGETS[0]]
    verdict = f"at least {TARGETS[0]:g} × {' and '.join(met)}" if met else f"not {TARGETS[0]:g} ×"
    return (
        f"- Against {title(row)}, {row.cores}: {by_clock:.2f} × in seconds, {in_cpu_time:.2f} × in CPU seconds: "
        f"{verdict}."
    )


def work(rows: list[Row], known: Known) -> Iterator[str]:
    """Operations and their rate, on as few cores as were measured, and what the time goes to."""
    seen = set()
    for row in sorted(rows, key=lambda row: row.num_cores or 0):
        facts = known.get(row.library, {}).get(row.name, Facts())
        if facts.flops is None or row.cpu_seconds is None or (row.library, row.name) in seen:
            continue
        seen.add((row.library, row.name))
        rate = facts.flops / row.cpu_seconds / 1e9
        line = f"- {title(row)}: {facts.flops / 1e9:.1f} Gflop an epoch, {rate:.0f} Gflop per CPU second"
        if facts.shares:
            parts = ", ".join(f"{kind} {share:.0%}" for kind, share in facts.shares.items())
            line += f"; of its time, {parts}"
        if facts.compile_seconds is not None:
            line += f". Compiled in {facts.compile_seconds:.1f} s"
        yield f"{line}."


def gradients(known: Known) -> Iterator[str]:
    """The automatic derivative over the difference quotient, of both."""
    parts = []
    for library, models in known.items():
        for name, facts in models.items():
            if facts.gradient is not None:
                model, _, variant = name.partition(", ")
                parts.append(f"{title(Row(model, library, variant))} {facts.gradient.ratio:.4f}")
    if parts:
        yield (
            "- Derivative of the loss along a random direction of the decoder's weights, automatic over difference "
            f"quotient, 1 when nothing is left out: {'; '.join(parts)}."
        )


def from_json(report: dict) -> tuple[list[Row], Known]:
    known = {
        library: {name: Facts.from_json(facts) for name, facts in models.items()}
        for library, models in report["known"].items()
    }
    return [Row(**row) for row in report["rows"]], known


def markdown(report: dict) -> str:
    """The page."""
    system, config = report["environment"], report["config"]
    rows, known = from_json(report)
    widths = "-".join(str(width) for width in (784, *config["hidden"], config["latent_dim"]))
    num_batches = config["num_images"] // config["batch_size"]
    about = (
        f"`{report['command']}`, {report['date']}: {machine_line(system, 'torch', 'pythae')}. "
        f"{report['num_rounds']} rounds, in which "
        f"the contestants take turns; {report['seconds']:.0f} seconds in all. {config['num_images']} images, "
        f"{num_batches} batches of {config['batch_size']}, {widths} tanh MLPs, Adam. All take the grey values "
        "as they are, except where new bits are drawn from them in every epoch. "
        f"The load average before the run was {system['load']}: other programs were on the cores as far as that "
        "is above 0, and then CPU seconds say more than seconds."
    )
    below = (
        "The bound at the end is the mean over the last timed epoch, to show that all of them train. pythae's VAE has "
        "the same objective as ours; the loss of its HVAE leaves out constants and terms, and is no bound."
    )
    lines = ["# Seconds an epoch, against pythae", "", about, "", *table(rows), "", below]
    return "\n".join([*lines, "", "## Expectation and outcome", "", *outcome(rows, known)]) + "\n"
