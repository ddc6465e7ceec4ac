"""The page of the benchmark of softness."""

from experiments.benchmarks.softness.rows import Findings, Row
from experiments.reporting.reports import machine_line, markdown_table

UNITS = {False: "1", True: "σ"}


def table(rows: list[Row]) -> list[str]:
    columns = (
        "posterior, scale, softness, step size, acceptance, failed, irreversible, divergent, iterations, least ESS, "
        "iterations / effective draw"
    )
    lines = [
        [
            row.posterior,
            UNITS[row.scaled],
            f"{row.softness:g}",
            f"{row.step_size:.3g}",
            f"{row.acceptance:.2f}",
            *(f"{100 * share:.1f} %" for share in (row.failed, row.irreversible, row.divergent)),
            f"{row.iterations:.0f}",
            f"{row.least_ess:.0f}",
            f"{row.cost:.3g}",
        ]
        for row in rows
    ]
    return markdown_table(columns.split(", "), lines, num_words=2)


def outcome(found: Findings) -> list[str]:
    """Of each posterior, how far softness matters, and what failed at the default and at 3 in units of σ."""
    lines = []
    for name in dict.fromkeys(row.posterior for row in found.rows):
        own = [row for row in found.rows if row.posterior == name]
        failed, least = [100 * row.failed for row in own], [row.least_ess for row in own]
        line = (
            f"- {name}: {min(failed):.1f} to {max(failed):.1f} % of the transitions failed, least ESS "
            f"{min(least):.0f} to {max(least):.0f} of {own[0].num_draws}"
        )
        for row in own:
            if (row.scaled, row.softness) in ((False, 1e6), (True, 3.0)):
                line += f"; softness {row.softness:g} in units of {UNITS[row.scaled]}: {100 * row.failed:.1f} % failed"
        lines.append(f"{line}.")
    return lines


def markdown(report: dict) -> str:
    """The page."""
    found, config = Findings.from_json(report), report["config"]
    about = (
        f"{machine_line(report['environment'])}; {report['seconds']} s in all. `hmcvae.rmhmc` with `metrics.softabs` "
        f"and Newton's method, float64, {config['num_chains']} chains of {config['num_samples']} draws after "
        f"{config['num_warmup']} of warm-up for the step size, target {config['target_acceptance']}; 1 to "
        f"{config['num_steps']} steps, each taken back. Scale: 1, or σ, the standard deviations of draws of "
        "`hmcvae.nuts`, from the last of which all begin. Failed: transitions in which a solve did not converge. The "
        f"least bulk ESS of z and z². `{report['command']}` writes this file."
    )
    lines = ["# The softness of SoftAbs", "", about, "", *outcome(found), ""]
    return "\n".join([*lines, *table(found.rows)]) + "\n"
