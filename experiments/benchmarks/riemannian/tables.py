"""The page of the Riemannian benchmark: what was expected and what came, and a table of each measurement."""

from collections.abc import Iterator

from experiments.benchmarks.peers import BLACKJAX, MICI
from experiments.benchmarks.riemannian.config import EPSILON, NUM_STEPS
from experiments.benchmarks.riemannian.rows import EssRow, Findings, FloorRow, GrowthRow, SpeedRow
from experiments.reporting import reports
from experiments.reporting.reports import machine_line, markdown_table, number

# Times faster than BlackJAX, by (dtype, is there more than one chain); than mici; and of the floor's cost.
BLACKJAX_TARGETS = {
    ("float32", False): 10,
    ("float32", True): 100,
    ("float64", False): 8,
    ("float64", True): 8,
}
MICI_TARGET, FLOOR_TARGET = 25, 1.5

NAMES = {
    "ours": "hmcvae rmhmc",
    "unchecked": "hmcvae rmhmc, not taken back",
    "midpoint": "hmcvae, implicit midpoint",
    "loose": "hmcvae rmhmc, BlackJAX's tolerance",
    "blackjax": "BlackJAX rmhmc",
    "mici": "mici implicit leapfrog",
}
PARTS = {
    "metric": "build G",
    "cholesky": "Cholesky",
    "log_det_grad": "∇ log |G|",
    "geometry": "these three, sharing work",
    "gradient": "∇U",
    "momentum_iteration": "a momentum iteration",
    "position_iteration": "a position iteration",
}
SUMS = {
    "momentum_iterations": "momentum iterations made (number)",
    "position_iterations": "position iterations made (number)",
    "iterations_microseconds": "all iterations",
    "floor": "**floor**",
}


def cell(value: float | None, form: str = ".3g") -> str:
    return reports.cell(value, form, absent="not reported")


def blackjax_table(rows: list[SpeedRow]) -> list[str]:
    columns = (
        "contestant, case, transitions/s, seconds / ours, acceptance, converged, iterations a step, compile s"
    )
    lines = [
        [
            NAMES[row.contestant],
            row.case,
            number(row.transitions_per_second),
            f"{row.seconds_over_ours:.3g} ± {row.seconds_over_ours_error:.1g}",
            cell(row.acceptance, ".3f"),
            cell(row.converged, ".4f"),
            cell(row.iterations),
            f"{row.compile_seconds:.1f}",
        ]
        for row in rows
    ]
    if not any(row.contestant == "blackjax" for row in rows):
        lines.append([NAMES["blackjax"], "all", BLACKJAX.not_measured, *[""] * 5])
    return markdown_table(columns.split(", "), lines, num_words=2)


def mici_table(rows: list[EssRow]) -> list[str]:
    columns = "contestant, draws, least ESS / draw, CPU ms / draw, least ESS / CPU s, acceptance, converged"
    lines = [
        [
            NAMES[row.contestant],
            str(row.draws),
            f"{row.least_ess_per_draw:.3f}",
            f"{row.cpu_milliseconds_per_draw:.3g}",
            f"{row.ess_per_cpu_second:.3g}",
            f"{row.acceptance:.3f}",
            f"{row.converged:.4f}",
        ]
        for row in rows
    ]
    if not any(row.contestant == "mici" for row in rows):
        lines.append([NAMES["mici"], MICI.not_measured, *[""] * 5])
    return markdown_table(columns.split(", "), lines)


def floor_table(rows: list[FloorRow]) -> list[str]:
    """A column for each case."""
    lines = [[label, *(f"{row.microseconds[key]:.3g}" for row in rows)] for key, label in PARTS.items()]
    lines += [[label, *(f"{getattr(row, key):.3g}" for row in rows)] for key, label in SUMS.items()]
    lines.append(["**a step**", *(f"{row.microseconds['step']:.3g}" for row in rows)])
    lines.append(["**a step / floor**", *(f"{row.over_floor:.2f}" for row in rows)])
    return markdown_table(["µs of all chains", *(row.case for row in rows)], lines)


def growth_table(rows: list[GrowthRow]) -> list[str]:
    columns = (
        "grows, rows, d, chains, dtype, steps/s, iterations a step, acceptance, converged, MiB, compile s"
    )
    lines = []
    for row in rows:
        found = ["skipped: memory", "", "", ""]
        if row.steps_per_second is not None:
            found = [number(row.steps_per_second), cell(row.iterations)]
            found += [cell(row.acceptance, ".3f"), cell(row.converged, ".4f")]
        size = [row.varied, *(str(value) for value in (row.rows, row.dim, row.chains)), row.dtype]
        lines.append([*size, *found, f"{row.megabytes:.3g}", f"{row.compile_seconds:.1f}"])
    return markdown_table(columns.split(", "), lines)


def blackjax_target(row: SpeedRow) -> int:
    return BLACKJAX_TARGETS[row.dtype, row.chains > 1]


def verdict(came: float, target: float, at_most: bool = False) -> str:
    met = came <= target if at_most else came >= target
    return "met" if met else "**not met**"


def outcome(found: Findings) -> list[str]:
    """What was expected, against what came."""
    lines = [*blackjax_outcome(found.against_blackjax), mici_outcome(found.against_mici)]
    lines += [
        f"- The way back, {row.case}: a transition costs {1 / row.seconds_over_ours:.2f} × one without."
        for row in found.against_blackjax
        if row.contestant == "unchecked"
    ]
    lines += [
        f"- Floor, {row.case}: expected ≤ {FLOOR_TARGET} ×, came {row.over_floor:.2f} ×: "
        f"{verdict(row.over_floor, FLOOR_TARGET, at_most=True)}."
        for row in found.floor
    ]
    return lines


def blackjax_outcome(rows: list[SpeedRow]) -> Iterator[str]:
    """A line for each case, with what the way back and the tolerance make of it."""
    cases: dict[str, dict[str, SpeedRow]] = {}
    for row in rows:
        cases.setdefault(row.case, {})[row.contestant] = row
    is_there = False
    for case, by_name in cases.items():
        peer = by_name.get("blackjax")
        if peer is None:
            continue
        is_there, target, came = True, blackjax_target(peer), peer.seconds_over_ours
        conditions = {"unchecked": "without the way back", "loose": "at its tolerance too"}
        words = [
            f"{came / by_name[name].seconds_over_ours:.3g} × {condition}"
            for name, condition in conditions.items()
            if name in by_name
        ]
        also = f" ({', '.join(words)})" if words else ""
        yield (
            f"- BlackJAX, {case}: expected ≥ {target} ×, came {came:.3g} ×{also}: {verdict(came, target)}."
        )
    if not is_there:
        yield f"- BlackJAX: expected ≥ 10, 100, 8, 8 ×; {BLACKJAX.not_measured}."


def mici_outcome(rows: list[EssRow]) -> str:
    expected = f"- mici, least ESS per CPU second: expected ≥ {MICI_TARGET} ×"
    rates = {row.contestant: row.ess_per_cpu_second for row in rows}
    if "mici" not in rates:
        return f"{expected}; {MICI.not_measured}."
    came, without = (rates[name] / rates["mici"] for name in ("ours", "unchecked"))
    return (
        f"{expected}, came {came:.3g} × ({without:.3g} × without the way back): {verdict(came, MICI_TARGET)}."
    )


def markdown(report: dict) -> str:
    """The page."""
    config, found = report["config"], Findings.from_json(report)
    about = (
        f"Bayesian logistic regression {config['num_rows']} × {config['dim']}, Fisher metric, ε = {EPSILON}, "
        f"{NUM_STEPS} steps. {machine_line(report['environment'], 'blackjax', 'mici')}; "
        f"{report['seconds']} s in all. "
        "`python -m experiments.bench_riemannian` writes this file; its docstring says what is measured and how."
    )
    lines = ["# Riemannian HMC against BlackJAX, mici and its floor", "", about]
    lines += ["", "## Expectation and outcome", "", *outcome(found)]
    lines += ["", "## Transitions per second", "", "BlackJAX does not report its solver.", ""]
    lines += blackjax_table(found.against_blackjax)
    lines += ["", "## Least effective sample size per CPU second", ""]
    lines += [f"One chain, float64, 1 … {NUM_STEPS} steps; mici with ε/2, which advances ε."]
    if found.difference_from_mici is not None:
        lines += [f"One step of mici's differs from ours by {found.difference_from_mici:.1g} (relative)."]
    lines += [f"ESS of stretches of {config['mici_draws']} draws.", "", *mici_table(found.against_mici)]
    lines += ["", "## A step and its parts", "", *floor_table(found.floor)]
    lines += ["", "## Growth", "", *growth_table(found.growth)]
    return "\n".join(lines) + "\n"
