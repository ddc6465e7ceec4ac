"""The page of the comparison."""

from collections.abc import Iterator, Mapping, Sequence

from experiments.reporting.reports import device_line, markdown_table
from experiments.samplers.geometry import facts
from experiments.samplers.geometry.summary import HIGHEST_RHAT, MOST_ERRORS, Summary, summaries

COLUMNS = [
    "sampler",
    "runs",
    "s / min ESS",
    "gradients / min ESS",
    "min ESS of z",
    "of z²",
    "R̂",
    "failed",
    "off by (s.e.)",
    "warm-up s",
    "compile s",
]


def line(row: dict) -> str:
    """A row as it is printed when it is done."""
    return (
        f"{row['posterior']:<12}{row['contestant']:<34}seed {row['seed']}: min ESS {row['least_ess']:7.0f}, "
        f"R̂ {row['rhat']:.3f}, {row['seconds']:7.2f} s (warm-up {row['warm_seconds']:.2f}, compiled in "
        f"{row['compile_seconds']:.1f}), failed {row['failed']}"
    )


def by_posterior(report: dict) -> dict[str, list[Summary]]:
    """In the order of `facts`."""
    found = {}
    for name in facts.FACTS:
        rows = [row for row in report["rows"] if row["posterior"] == name]
        if rows:
            found[name] = summaries(rows, facts.FACTS[name].exact)
    return found


def markdown(report: dict) -> str:
    """The page."""
    config, found = report["config"], by_posterior(report)
    packages = ", ".join(f"{name} {report['environment'][name]}" for name in facts.PEERS)
    lines = ["# Where geometry wins", "", f"`{report['command']}`", ""]
    lines += [f"- {sentence}" for name, own in found.items() for sentence in facts.outcome(name, own)]
    lines += [
        "",
        f"{config['num_chains']} chains at once, each library's own warm-up of the same length, float64. Seconds are "
        "those of the draws, all chains together, without warm-up and compilation, which stand apart (the warm-up's "
        "median over the runs; nutpie's is shared out by gradients, and it calls the density through Python). Min ESS: "
        "of the worst coordinate, of z or of z², at most the number of draws, summed over the runs, one a seed. Of "
        "implicit integrators all derivatives count as gradients. Failed: the share of transitions that diverged, or "
        "were not solved or retraced. Off by: the largest error of the watched expectations, in their standard errors, "
        "against the exact value or, where there is none, the median of all others that have mixed. **Wrong**: more "
        f"than {MOST_ERRORS:g}, or R̂ above {HIGHEST_RHAT:g} in any run. Ours are in bold. The load "
        "while each row ran is in the JSON; gradients / min ESS do not depend on it.",
    ]
    for name, own in found.items():
        lines += ["", f"## {facts.FACTS[name].title}", "", *_section(name, own, report)]
    lines += ["", f"Device: {device_line(report['environment'])}; {packages}."]
    return "\n".join(lines) + "\n"


def _section(name: str, own: Sequence[Summary], report: dict) -> Iterator[str]:
    fact = facts.FACTS[name]
    first = next(row for row in report["rows"] if row["posterior"] == name)
    yield (
        f"{fact.note} {first['num_warmup']} transitions of warm-up and {first['num_samples']} draws a chain. Watched: "
        f"{', '.join(f'{w}' + (f' = {fact.exact[w]:.4g}' if w in fact.exact else '') for w in first_watched(own))}."
    )
    if fact.chosen:
        yield from ("", fact.chosen)
    yield ""
    shown = list(fact.shown)
    columns = COLUMNS + shown
    ordered = sorted(own, key=lambda s: (not s.is_right, s.seconds))
    yield from markdown_table(columns, [_cells(summary, shown) for summary in ordered])
    absent = facts.not_measured(name, [s.contestant for s in own])
    if absent:
        yield from (
            "",
            f"Not measured here: {', '.join(absent)} (`python -m experiments.samplers --posteriors {name}`).",
        )
    for row in report["rows"]:
        if row["posterior"] == name and "error" in row:
            yield from ("", f"{row['contestant']} failed: {row['error']}")


def first_watched(own: Sequence[Summary]) -> Mapping:
    return own[0].watched if own else {}


def _cells(s: Summary, shown: Sequence[str]) -> list[str]:
    deviation = "–" if s.deviation is None else f"{s.deviation:.1f}"
    return [
        f"**{s.contestant}**" if s.is_ours else s.contestant,
        str(s.num_runs),
        f"{s.seconds:.3g}" + ("" if s.is_right else " (**wrong**)"),
        f"{s.gradients:.3g}",
        f"{s.ess_z:.0f}",
        f"{s.ess_z2:.0f}",
        f"{s.rhat:.3f}",
        f"{s.failed:.2%}",
        deviation,
        f"{s.warm_seconds:.3g}",
        f"{s.compile_seconds:.3g}",
        *(f"{s.watched[name].mean:.4g} ± {s.watched[name].error:.2g}" for name in shown),
    ]
