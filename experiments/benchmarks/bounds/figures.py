"""The picture of the benchmark of the bounds."""

from pathlib import Path

from experiments.benchmarks.bounds.rows import from_json
from experiments.reporting.plots import plt, save_figure

COLOURS = {"hmcvae": "C0", "pythae": "C1"}


def draw(report: dict, path: Path) -> None:
    """Bars of the seconds an epoch."""
    rows = from_json(report)
    figure, axes = plt.subplots(figsize=(7, 0.35 * len(rows) + 1.2))
    axes.barh(range(len(rows)), [row.seconds for row in rows], color=[COLOURS[row.library] for row in rows])
    for height, row in enumerate(rows):
        axes.text(row.seconds, height, f" {row.over_hvi:.2f} x HVI", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("seconds a training epoch (median), less is better")
    axes.set_title("Training epochs of the bounds: blue hmcvae, orange pythae", fontsize=10)
    axes.grid(alpha=0.3, axis="x")
    save_figure(figure, path)
