"""The page of the benchmark of first calls."""

from experiments.benchmarks.first_call.rows import CHANGES, CallRow, rows_of
from experiments.reporting.reports import machine_line, markdown_table

NAMES = {"nuts": "NUTS", "hmc": "HMC"}
# A call compiles anew where it spends more than this share of the first call's compilation on it.
ANEW = 0.1


def _of(rows: list[CallRow], kind: str, sampler: str, change: str) -> CallRow:
    return next(row for row in rows if (row.kind, row.sampler, row.change) == (kind, sampler, change))


def calls_table(rows: list[CallRow], kind: str) -> list[str]:
    columns = ["call", "hmcvae s", "of them compiling", "BlackJAX s", "of them compiling"]
    lines = []
    for change, label in CHANGES.items():
        both = [_of(rows, kind, sampler, change) for sampler in ("hmcvae", "BlackJAX")]
        lines.append([label, *(f"{value:.2f}" for row in both for value in (row.seconds, row.compiling))])
    return markdown_table(columns, lines)


def outcome(rows: list[CallRow]) -> list[str]:
    """What was expected, against what came."""
    lines = []
    for kind, name in NAMES.items():
        ours, theirs = (_of(rows, kind, sampler, "first") for sampler in ("hmcvae", "BlackJAX"))
        verdict = "met" if ours.seconds <= theirs.seconds else "**not met**"
        lines.append(
            f"- {name}: the first call expected to take at most BlackJAX's seconds, came {ours.seconds:.1f} s against "
            f"{theirs.seconds:.1f}: {verdict}."
        )
        anew = [
            CHANGES[change]
            for change in CHANGES
            if change != "first" and _of(rows, kind, "hmcvae", change).compiling > ANEW * ours.compiling
        ]
        said = f"compiled anew for {'; '.join(anew)}: **not met**" if anew else "none compiled anew: met"
        lines.append(f"- {name}: no second compilation expected of the calls after it, {said}.")
    return lines


def markdown(report: dict) -> str:
    """The page."""
    rows, config = rows_of(report), report["config"]
    about = (
        f"{machine_line(report['environment'], 'blackjax')}. Stochastic volatility, T = {config['length']} "
        f"(d = {config['length'] + 3}), {config['num_chains']} chains, {config['num_warmup']} transitions of warm-up "
        f"and {config['num_samples']} draws, {config['dtype']}; trees of depth {config['max_depth']} at most, "
        f"trajectories of {config['num_steps']} steps. Medians of {config['rounds']} rounds in turns, "
        "each from empty caches. `python -m experiments.bench_first_call` writes this file."
    )
    lines = ["# First calls, against BlackJAX's", "", about, "", *outcome(rows)]
    for kind, name in NAMES.items():
        lines += ["", f"## {name}", "", *calls_table(rows, kind)]
    return "\n".join(lines) + "\n"
