"""The page of the benchmark of the no-U-turn sampler."""

from experiments.benchmarks.nuts.rows import DrawsRow, Findings, SpeedRow
from experiments.reporting.reports import machine_line, markdown_table, number

TARGET = 1.2


def speed_table(rows: list[SpeedRow]) -> list[str]:
    columns = "density, chains, ours /s, BlackJAX /s, ratio, steps (ours), steps (BlackJAX), ratio by steps"
    lines = [
        [
            row.density,
            str(row.chains),
            number(row.ours),
            number(row.peer),
            f"{row.ratio:.2f} ± {row.ratio_error:.1g}",
            f"{row.ours_steps:.1f}",
            f"{row.peer_steps:.1f}",
            f"{row.iterations_ratio:.2f}",
        ]
        for row in rows
    ]
    return markdown_table(columns.split(", "), lines)


def draws_table(rows: list[DrawsRow]) -> list[str]:
    columns = "posterior, sampler, gradients / effective draw, least ESS, steps, acceptance, divergent"
    lines = [
        [
            row.posterior,
            row.sampler,
            f"{row.gradients:.3g}",
            f"{row.least_ess:.0f}",
            f"{row.steps:.1f}",
            f"{row.acceptance:.3f}",
            str(row.divergent),
        ]
        for row in rows
    ]
    return markdown_table(columns.split(", "), lines, num_words=2)


def outcome(found: Findings) -> list[str]:
    """What was expected, against what came."""
    return [
        f"- {row.density}, chains: {row.chains}: expected ≥ {TARGET} × the transitions, came {row.ratio:.2f} ×: "
        f"{'met' if row.ratio >= TARGET else '**not met**'}."
        for row in found.speed
    ]


def markdown(report: dict) -> str:
    """The page."""
    found, config = Findings.from_json(report), report["config"]
    about = (
        f"{machine_line(report['environment'], 'blackjax')}; {report['seconds']} s in all. "
        f"The same step size, identity metric and largest depth for both, {config['dtype']}. "
        "`python -m experiments.bench_nuts` writes this file."
    )
    lines = ["# The no-U-turn sampler against BlackJAX's", "", about, "", *outcome(found)]
    lines += ["", "## Transitions per second", ""]
    lines += [
        "All chains together. The last column is for integrator steps of the longest tree, for which all wait.",
        "",
        *speed_table(found.speed),
    ]
    lines += ["", "## Gradients for an effective draw", ""]
    chains = f"{config['num_chains']} chains of {config['num_samples']} draws"
    lines += [f"{chains} after {config['num_warmup']} of warm-up, float64.", "", *draws_table(found.draws)]
    return "\n".join(lines) + "\n"
