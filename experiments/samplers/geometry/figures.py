"""The picture of the comparison."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from experiments.reporting.plots import plt, save_figure
from experiments.samplers.geometry.facts import FACTS
from experiments.samplers.geometry.tables import by_posterior

OURS, THEIRS = "tab:blue", "tab:orange"
NUM_COLUMNS = 2


def draw(report: dict, path: Path) -> None:
    """Seconds per effective draw of the worst coordinate: a panel a posterior, a line a sampler, the best at the top;
    hollow where its draws are wrong."""
    found = by_posterior(report)
    num_rows = max(1, -(-len(found) // NUM_COLUMNS))
    most = max((len(own) for own in found.values()), default=1)
    size = (6.4 * NUM_COLUMNS, (0.9 + 0.27 * most) * num_rows)
    figure, grid = plt.subplots(num_rows, NUM_COLUMNS, figsize=size, layout="constrained", squeeze=False)
    panels = list(grid.flat)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    for (name, own), axes in zip(found.items(), panels, strict=False):
        ordered = sorted(own, key=lambda s: (not s.is_right, s.seconds), reverse=True)
        for height, s in enumerate(ordered):
            colour = OURS if s.is_ours else THEIRS
            face = colour if s.is_right else "white"
            axes.plot(s.seconds, height, "o", color=colour, markerfacecolor=face, markersize=7)
        axes.set_yticks(range(len(ordered)), [s.contestant for s in ordered], fontsize=8)
        axes.set_ylim(-0.6, len(ordered) - 0.4)
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        axes.set_title(FACTS[name].title, fontsize=10)
        axes.set_xlabel("seconds per min ESS (left is better)", fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        _widen(axes, [s.seconds for s in own])
    marks = [
        Line2D([], [], marker="o", ls="", color=OURS, label="hmcvae"),
        Line2D([], [], marker="o", ls="", color=THEIRS, label="other libraries"),
        Line2D(
            [], [], marker="o", ls="", color="0.3", markerfacecolor="white", label="wrong: not mixed, or off"
        ),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=3, fontsize=9)
    save_figure(figure, path)


def _widen(axes: Axes, seconds: list[float]) -> None:
    """A decade at least, so that small differences look small."""
    low, high = min(seconds), max(seconds)
    middle, half = np.sqrt(low * high), max(np.sqrt(high / low) * 1.3, np.sqrt(10))
    axes.set_xlim(middle / half, middle * half)
