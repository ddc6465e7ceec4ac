"""The page of the leapfrog's benchmark."""

from collections.abc import Iterator

import numpy as np

from experiments.benchmarks.integrators.rows import Row, from_json
from experiments.reporting.reports import NOT_MEASURED, machine_line, markdown_table, number

TARGET_COST = 1.15  # of the bare gradient
COLUMNS = "density, chains, dtype, L, bare gradient, ours, BlackJAX, ours / BlackJAX, cost / bare gradient"


def table(rows: list[Row]) -> list[str]:
    lines = []
    for row in rows:
        rates, faster = row.steps_per_second, NOT_MEASURED
        if row.blackjax_over_ours is not None:
            faster = f"{row.blackjax_over_ours:.2f} ± {row.blackjax_over_ours_error:.2f}"
        lines.append(
            [
                row.density,
                str(row.chains),
                row.dtype,
                str(row.num_steps),
                number(rates["gradient"]),
                number(rates["ours"]),
                number(rates["blackjax"]) if "blackjax" in rates else NOT_MEASURED,
                faster,
                f"{row.ours_over_gradient:.2f} ± {row.ours_over_gradient_error:.2f}",
            ]
        )
    return markdown_table(COLUMNS.split(", "), lines, num_words=3)


def outcome(rows: list[Row]) -> list[str]:
    """What was expected, against what came."""
    costs = [row.ours_over_gradient for row in rows]
    above = [row for row in rows if row.ours_over_gradient > TARGET_COST]
    dearest = max(rows, key=lambda row: row.ours_over_gradient)
    return [
        f"Expected: at least 1.0 × BlackJAX everywhere, at most {TARGET_COST} × the cost of the bare gradient.",
        "",
        f"- Cost over the bare gradient: median {np.median(costs):.2f} ×, worst {max(costs):.2f} × "
        f"({dearest.case}); {len(rows) - len(above)} of {len(rows)} cases within {TARGET_COST} ×.",
        *(
            f"- Above it: {row.case}, {row.ours_over_gradient:.2f} ± {row.ours_over_gradient_error:.2f} ×."
            for row in above
        ),
        *blackjax_outcome(rows),
    ]


def blackjax_outcome(rows: list[Row]) -> Iterator[str]:
    found = [(row.blackjax_over_ours, row) for row in rows if row.blackjax_over_ours is not None]
    if not found:
        yield f"- Against BlackJAX: {NOT_MEASURED}."
        return
    ratios = [ratio for ratio, _ in found]
    (least, lowest), (most, highest) = (pick(found, key=lambda pair: pair[0]) for pick in (min, max))
    yield (
        f"- Against BlackJAX: median {np.median(ratios):.2f} ×, least {least:.2f} × ({lowest.case}), "
        f"most {most:.2f} × ({highest.case})."
    )
    for ratio, row in found:
        if ratio < 1:
            yield f"- Below 1 ×: {row.case}, {ratio:.2f} ± {row.blackjax_over_ours_error:.2f} ×."


def markdown(report: dict) -> str:
    """The page."""
    rows = from_json(report)
    about = (
        "Rates are steps per second of all chains together; L is the number of steps in a timed call. "
        f"{machine_line(report['environment'], 'blackjax')}. "
        "`python -m experiments.bench_integrators` writes this file; its docstring says what each contestant does."
    )
    heading = "# Leapfrog against BlackJAX and against the bare gradient"
    lines = [heading, "", about, "", *table(rows), "", "## Expectation and outcome", "", *outcome(rows)]
    return "\n".join(lines) + "\n"
