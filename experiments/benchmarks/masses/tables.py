"""The page of the benchmark of masses."""

import numpy as np

from experiments.benchmarks.masses.rows import Findings, Row
from experiments.reporting.reports import machine_line, markdown_table


def table(rows: list[Row]) -> list[str]:
    columns = (
        "posterior, mass, gradients / effective draw, each seed, least ESS, steps, acceptance, divergent"
    )
    lines = [
        [
            row.posterior,
            row.mass,
            f"{row.mean:.3g}",
            " ".join(f"{value:.3g}" for value in row.gradients),
            f"{np.mean(row.least_ess):.0f}",
            f"{np.mean(row.steps):.1f}",
            f"{row.acceptance:.3f}",
            str(row.divergent),
        ]
        for row in rows
    ]
    return markdown_table(columns.split(", "), lines, num_words=2)


def outcome(found: Findings) -> list[str]:
    """Each form against the variances alone: ratios of gradients for an effective draw."""
    base = {row.posterior: row.mean for row in found.rows if row.mass == "diagonal"}
    lines = []
    for mass in dict.fromkeys(row.mass for row in found.rows if row.mass != "diagonal"):
        ratios = {
            row.posterior: row.mean / base[row.posterior]
            for row in found.rows
            if row.mass == mass and row.posterior in base
        }
        if ratios:
            each = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
            overall = float(np.exp(np.mean(np.log(list(ratios.values())))))
            lines.append(
                f"- `{mass}` takes {overall:.2f} of the gradients of `diagonal` (geometric mean): {each}."
            )
    return lines


def markdown(report: dict) -> str:
    """The page."""
    found, config = Findings.from_json(report), report["config"]
    about = (
        f"{machine_line(report['environment'])}; {report['seconds']} s in all. `hmcvae.nuts`, "
        f"{config['num_chains']} chains of {config['num_samples']} draws after {config['num_warmup']} of warm-up, "
        f"{config['num_seeds']} seeds, float64. `{report['command']}` writes this file."
    )
    lines = ["# What the mass of a warm-up is estimated by", "", about, "", *outcome(found), ""]
    return "\n".join([*lines, *table(found.rows)]) + "\n"
