"""log p(x) of held-out images along the trainings."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.reporting.plots import save_figure

# Of the values from a quarter of the seconds on: what comes before does not set the limits.
SHOWN_FROM = 0.25
# Of a label of two lines, as a share of the axes.
LINE_HEIGHT = 0.055


def draw(report: dict, path: Path) -> None:
    """A line for each method and seed, against seconds at the method's pace."""
    figure, axes = plt.subplots(figsize=(8.5, 5))
    labels = {own["name"]: own["method"] for own in report["rows"]}
    shown: list[float] = []
    for index, (name, curves) in enumerate(report["curves"].items()):
        style = {"color": f"C{index % 10}", "ls": ("-", "--", ":")[index // 10 % 3], "lw": 1.3}
        for number, curve in enumerate(curves):
            seconds, values = np.asarray(curve, float).reshape(-1, 2).T
            label = labels[name] if number == 0 else None
            axes.plot(seconds, values, marker="o" if len(seconds) == 1 else None, ms=3, label=label, **style)
            late = values[seconds >= SHOWN_FROM * seconds.max(initial=0.0)]
            shown += late[np.isfinite(late)].tolist()
    if shown:
        margin = 0.05 * (max(shown) - min(shown)) + 0.05
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
    axes.set_xlim(left=0)
    _mark_published(axes, report["published"])
    axes.set_xlabel("seconds of training, at the method's pace")
    axes.set_ylabel("log p(x) of held-out training images, nats")
    axes.grid(alpha=0.3)
    if axes.lines:
        # Below the axes: a method of one epoch is one point, which a legend inside may hide.
        axes.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    axes.set_title(report["net"]["summary"], fontsize=10)
    figure.tight_layout()
    save_figure(figure, path)


def _mark_published(axes: Any, published: list[dict]) -> None:
    """Where others ended on the test set, as far as that lies within the limits; told beside the axes, where no curve
    is, in the order of the lines and not on top of each other."""
    low, high = axes.get_ylim()
    shown = [
        own for own in published if own["log_likelihood"] is not None and low < own["log_likelihood"] < high
    ]
    lowest = -np.inf
    for own in sorted(shown, key=lambda own: own["log_likelihood"]):
        value = own["log_likelihood"]
        axes.axhline(value, color="0.6", lw=0.8, ls="--", zorder=1)
        height = max((value - low) / (high - low), lowest + LINE_HEIGHT)
        lowest = height
        axes.text(
            1.01,
            height,
            f"{own['method']}: {value:.2f}\n({own['source'].split(',')[0]})",
            fontsize=6.5,
            color="0.35",
            va="center",
            transform=axes.transAxes,
        )
    if shown:
        axes.plot([], [], color="0.6", lw=0.8, ls="--", label="published, on the test set")
