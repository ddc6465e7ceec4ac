"""The picture of the Riemannian benchmark: all four measurements on one sheet."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.benchmarks.riemannian.config import DTYPES, EPSILON
from experiments.benchmarks.riemannian.floor import pieces
from experiments.benchmarks.riemannian.rows import EssRow, Findings, FloorRow, GrowthRow, SpeedRow
from experiments.benchmarks.riemannian.tables import FLOOR_TARGET, MICI_TARGET, NAMES, blackjax_target
from experiments.reporting.plots import plt, save_figure
from experiments.reporting.reports import number

COLOURS = {
    "ours": "tab:blue",
    "unchecked": "tab:gray",
    "loose": "tab:purple",
    "midpoint": "tab:cyan",
    "blackjax": "tab:orange",
    "mici": "tab:green",
}
PIECE_COLOURS = ("#4c78a8", "#9ecae9", "#f58518", "#ffbf79")


def draw(report: dict, path: Path) -> None:
    """Speed, effective sample size and floor above, growth in three directions below."""
    config, system, found = report["config"], report["environment"], Findings.from_json(report)
    figure = plt.figure(figsize=(16, 9.5), layout="constrained")
    grid = figure.add_gridspec(2, 12, height_ratios=(1.15, 1))
    draw_speed(figure.add_subplot(grid[0, :6]), found.against_blackjax)
    draw_ess(figure.add_subplot(grid[0, 6:8]), found.against_mici)
    draw_floor(figure.add_subplot(grid[0, 8:]), found.floor)
    rows, dim = config["num_rows"], config["dim"]
    labels = {
        "dim": f"dimension d ({rows} rows, 1 chain)",
        "rows": f"rows of data (d = {dim}, 1 chain)",
        "chains": f"number of chains ({rows} × {dim})",
    }
    for index, (varied, label) in enumerate(labels.items()):
        axes = figure.add_subplot(grid[1, 4 * index : 4 * index + 4])
        draw_growth(axes, [row for row in found.growth if row.varied == varied], varied, label)
    figure.suptitle(
        f"Riemannian HMC on a logistic regression {rows} × {dim}, Fisher metric, ε = {EPSILON} "
        f"({system['cpu']}, jax {system['jax']})",
        fontsize=13,
    )
    save_figure(figure, path)


def say_missing(axes: Axes, peer: str) -> None:
    """Say in the panel that a peer was not measured."""
    text = f"{peer}: not measured"
    axes.text(0.98, 0.02, text, transform=axes.transAxes, ha="right", fontsize=9, color="grey")


def draw_speed(axes: Axes, rows: list[SpeedRow]) -> None:
    """A bar for each contestant in each case."""
    cases = list(dict.fromkeys(row.case for row in rows))
    names = [name for name in COLOURS if any(row.contestant == name for row in rows)]
    width = 0.8 / len(names)  # a contestant need not be in every case
    for offset, name in enumerate(names):
        chosen = [row for row in rows if row.contestant == name]
        heights = np.array([cases.index(row.case) for row in chosen])
        heights = heights + width * (offset - 0.5 * (len(names) - 1))
        rates = [row.transitions_per_second for row in chosen]
        axes.barh(heights, rates, 0.92 * width, color=COLOURS[name], label=NAMES[name])
        for row, rate, height in zip(chosen, rates, heights, strict=True):
            text = number(rate)
            if name == "blackjax":
                target = blackjax_target(row)
                text += f"  ({row.seconds_over_ours:.3g} × slower than ours; expected {target} ×)"
            axes.annotate(text, (rate, height), (4, 0), textcoords="offset points", va="center", fontsize=8)
    if "blackjax" not in names:
        say_missing(axes, "BlackJAX")
    axes.set_xscale("log")
    rates = [row.transitions_per_second for row in rows]
    axes.set_xlim(0.5 * min(rates), 100 * max(rates))  # room for the words, and for the legend beside them
    axes.set_yticks(range(len(cases)), cases)
    axes.invert_yaxis()
    axes.set_xlabel("transitions per second of all chains (more is better)")
    axes.set_title("Transitions of six steps", fontsize=11)
    axes.legend(fontsize=8, loc="upper right")


def draw_ess(axes: Axes, rows: list[EssRow]) -> None:
    values = {row.contestant: row.ess_per_cpu_second for row in rows}
    axes.bar(range(len(values)), list(values.values()), 0.5, color=[COLOURS[name] for name in values])
    words = [NAMES[name].removeprefix("hmcvae ").replace("taken back", "taken\nback") for name in values]
    axes.set_xticks(range(len(values)), [text.replace(" ", "\n", 2) for text in words], fontsize=8)
    for index, value in enumerate(values.values()):
        axes.annotate(number(value), (index, value), (0, 3), textcoords="offset points", ha="center")
    axes.set_yscale("log")
    axes.set_ylim(0.4 * min(values.values()), 4 * max(values.values()))
    axes.margins(x=0.1)
    axes.set_ylabel("least ESS per CPU second (more is better)")
    title = "One chain, float64, 1 … 6 steps"
    if "mici" in values:
        title += f"\n{values['ours'] / values['mici']:.3g} × mici (expected {MICI_TARGET} ×)"
    else:
        say_missing(axes, "mici")
    axes.set_title(title, fontsize=11)


def draw_floor(axes: Axes, rows: list[FloorRow]) -> None:
    """The parts on top of each other, and beside them the step."""
    positions, base = np.arange(len(rows)), np.zeros(len(rows))
    for colour, name in zip(PIECE_COLOURS, pieces(rows[0]), strict=True):
        values = np.array([pieces(row)[name] for row in rows])
        axes.bar(positions - 0.2, values, 0.36, bottom=base, color=colour, label=name)
        base += values
    over = [row.over_floor for row in rows]
    axes.bar(positions + 0.2, over, 0.36, color="tab:blue", label="a step, as it is")
    for index, row in enumerate(rows):
        text, top = f"{row.over_floor:.2f} ×\n{row.microseconds['step']:.3g} µs", (index + 0.2, over[index])
        axes.annotate(text, top, (0, 3), textcoords="offset points", ha="center", fontsize=8)
    label = f"expected ≤ {FLOOR_TARGET} ×"
    axes.axhline(FLOOR_TARGET, color="tab:red", linestyle="--", linewidth=1, label=label)
    axes.set_xticks(positions, [row.case.replace(", ", "\n") for row in rows])
    axes.set_ylim(0, 1.75 * max([*over, FLOOR_TARGET]))
    axes.set_ylabel("time / sum of the parts (less is better)")
    axes.set_title("A step against the sum of its parts", fontsize=11)
    axes.legend(fontsize=7.5, loc="upper center", ncols=2)


def draw_growth(axes: Axes, rows: list[GrowthRow], varied: str, label: str) -> None:
    """A line for each dtype; a cross where most solves fail."""
    for dtype, style in zip(DTYPES, ("o-", "s--"), strict=True):
        chosen = [row for row in rows if row.dtype == dtype and row.steps_per_second]
        if not chosen:
            continue
        x, y, share = (
            np.array([getattr(row, name) for row in chosen], float)
            for name in (varied, "steps_per_second", "converged")
        )
        axes.plot(x, y, style, label=dtype)
        is_stuck = ~(share >= 0.5)
        if is_stuck.any():
            axes.plot(x[is_stuck], y[is_stuck], "kx", ms=11)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("steps per second of all chains")
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    if any(line.get_marker() == "x" for line in axes.lines):
        handles.append(Line2D([], [], ls="", marker="x", color="k", ms=8))
        labels.append("ε too large: most solves fail")
    axes.legend(handles, labels, fontsize=8)
    axes.set_title(f"Growth with the {label.split(' (')[0]}", fontsize=11)
