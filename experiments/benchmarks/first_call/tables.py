"""The page of the benchmark of first calls."""

from experiments.benchmarks.first_call.measure import CACHE
from experiments.benchmarks.first_call.rows import CHANGES, CallRow, rows_of
from experiments.reporting.reports import machine_line, markdown_table

NAMES = {"nuts": "NUTS", "hmc": "HMC"}
# A call compiles anew where XLA takes more than this share of what it takes for the first. The diagnostics of another
# number of draws are a twentieth.
ANEW = 0.1


def _of(rows: list[CallRow], kind: str, sampler: str, change: str, is_cached: bool = False) -> CallRow:
    wanted = (kind, sampler, change, is_cached)
    return next(row for row in rows if (row.kind, row.sampler, row.change, row.is_cached) == wanted)


def calls_table(rows: list[CallRow], kind: str) -> list[str]:
    columns = ["call", "hmcvae", "BlackJAX", "hmcvae, cache on disk", "BlackJAX, cache on disk"]
    lines = []
    for change, label in CHANGES.items():
        own = [
            _of(rows, kind, sampler, change, is_cached)
            for is_cached in (False, True)
            for sampler in ("hmcvae", "BlackJAX")
        ]
        lines.append(
            [label, *(f"{row.seconds:.2f} ({row.preparing:.2f}, {row.compiling:.2f})" for row in own)]
        )
    return markdown_table(columns, lines)


def _anew(rows: list[CallRow], kind: str, is_cached: bool) -> str:
    """Which of the later calls compile anew."""
    least = ANEW * _of(rows, kind, "hmcvae", "first").compiling
    later = [change for change in CHANGES if change != "first" and (is_cached or change != "process")]
    found = [change for change in later if _of(rows, kind, "hmcvae", change, is_cached).compiling > least]
    if not found:
        return "none compiled anew: met"
    return f"compiled anew for {'; '.join(CHANGES[change] for change in found)}: **not met**"


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
        lines.append(f"- {name}: no second compilation expected of later calls, {_anew(rows, kind, False)}.")
        cached = _of(rows, kind, "hmcvae", "data", True)
        lines.append(
            f"- {name}, the same with JAX's compilation cache on disk: {_anew(rows, kind, True)} (other data take "
            f"{cached.preparing:.1f} s of tracing, lowering and loading)."
        )
    return lines


def markdown(report: dict) -> str:
    """The page."""
    rows, config = rows_of(report), report["config"]
    about = (
        f"{machine_line(report['environment'], 'blackjax')}. Stochastic volatility, T = {config['length']} "
        f"(d = {config['length'] + 3}), {config['num_chains']} chains, {config['num_warmup']} transitions of warm-up "
        f"and {config['num_samples']} draws, {config['dtype']}; trees of depth {config['max_depth']} at most, "
        f"trajectories of {config['num_steps']} steps. Medians of {config['rounds']} rounds in turns, "
        f"each in processes of its own, at a load of {report['environment']['load']}. Seconds of a call; in "
        "parentheses those of them in which JAX traced, lowered, compiled or loaded, and of these those in which XLA "
        f"compiled what was not on disk. `{report['command']}` writes this file."
    )
    lines = ["# First calls, against BlackJAX's", "", about, "", *outcome(rows)]
    for kind, name in NAMES.items():
        lines += ["", f"## {name}", "", *calls_table(rows, kind)]
    lines += [
        "",
        "The cache on disk is JAX's own, for any program, set in the environment before JAX is imported:",
        "",
    ]
    lines += [f"    {name}={value or 'DIR'}" for name, value in CACHE.items()]
    lines += [
        "",
        "With the last one, data that a function closes over are arguments of the program, and no part of its key; it "
        "is a flag that JAX calls temporary, and helps BlackJAX alone. The density carries its data along "
        "(`jax.tree_util.Partial`): `hmcvae.sample` makes arguments of them.",
    ]
    return "\n".join(lines) + "\n"
