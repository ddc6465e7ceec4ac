"""The picture of the leapfrog's benchmark."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from experiments.benchmarks.integrators.rows import Row, from_json
from experiments.benchmarks.integrators.tables import TARGET_COST
from experiments.reporting.plots import plt, save_figure
from experiments.reporting.reports import plural


class Style(NamedTuple):
    """How a contestant's costs are drawn. side: of the point on which the figure stands, 1 is the right."""

    key: str
    label: str
    colour: str
    marker: str
    side: int


STYLES = (
    Style("blackjax_over_gradient", "BlackJAX velocity_verlet", "tab:orange", "s", 1),
    Style("ours_over_gradient", "hmcvae leapfrog", "tab:blue", "o", -1),
)


def draw(report: dict, path: Path) -> None:
    """The cost of a step over that of its gradient, for every case; a panel for each dtype."""
    rows, system = from_json(report), report["environment"]
    dtypes = list(dict.fromkeys(row.dtype for row in rows))
    figure, panels = plt.subplots(
        1, len(dtypes), figsize=(11, 5.6), sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    for axes, dtype in zip(panels[0], dtypes, strict=True):
        draw_costs(axes, [row for row in rows if row.dtype == dtype])
        axes.set_title(dtype, fontsize=11)
    first = panels[0, 0]
    first.invert_yaxis()
    first.set_xlim(0.8, 1.2 * max(getattr(row, style.key) or 1 for row in rows for style in STYLES))
    handles, names = first.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=9, frameon=False)
    title = f"What a leapfrog step costs beyond its gradient ({system['cpu']}, jax {system['jax']})"
    if not any(row.blackjax_over_gradient for row in rows):
        title += "; BlackJAX not measured"
    figure.suptitle(title, fontsize=12)
    save_figure(figure, path)


def draw_costs(axes: Axes, rows: list[Row]) -> None:
    """A line for each case, with a gap before another density."""
    is_new = [i > 0 and rows[i].density != rows[i - 1].density for i in range(len(rows))]
    heights = np.arange(len(rows)) + 0.7 * np.cumsum(is_new)
    axes.axvspan(1.0, TARGET_COST, color="tab:green", alpha=0.15, label=f"within {TARGET_COST} ×")
    axes.axvline(1.0, color="black", linewidth=1, label="the gradient alone")
    for style in STYLES:
        costs = [getattr(row, style.key) for row in rows]
        points = [(cost, height) for cost, height in zip(costs, heights, strict=True) if cost]
        if points:
            draw_points(axes, points, style)
    axes.set_yticks(heights, [f"{row.density}  ·  {plural(row.chains, 'chain')}" for row in rows])
    axes.set_xscale("log")
    ticks = [1, 1.5, 2, 3, 4]
    axes.set_xticks(ticks, [f"{tick:g} ×" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("time of a leapfrog step / time of a gradient  (less is better)")
    axes.grid(axis="x", alpha=0.3)


def draw_points(axes: Axes, points: list[tuple[float, float]], style: Style) -> None:
    """Each with its figure beside it."""
    x, y = zip(*points, strict=True)
    axes.scatter(x, y, color=style.colour, marker=style.marker, s=42, label=style.label, zorder=3)
    for point in points:
        axes.annotate(
            f"{point[0]:.2f}",
            point,
            (7 * style.side, 0),
            textcoords="offset points",
            ha="left" if style.side > 0 else "right",
            va="center",
            fontsize=7.5,
            color=style.colour,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
        )
