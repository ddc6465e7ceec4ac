"""The picture of the benchmark of first calls."""

from pathlib import Path

import numpy as np

from experiments.benchmarks.first_call.rows import CHANGES, rows_of
from experiments.benchmarks.first_call.tables import NAMES
from experiments.reporting.plots import plt, save_figure

COLOURS = {"hmcvae": "tab:blue", "BlackJAX": "tab:orange"}


def draw(report: dict, path: Path) -> None:
    """Seconds of each call without a cache on disk, those of tracing and compilation dark."""
    rows = rows_of(report)
    figure, axes = plt.subplots(1, len(NAMES), figsize=(12, 4), layout="constrained", sharey=True)
    for axis, (kind, name) in zip(axes, NAMES.items(), strict=True):
        for offset, (sampler, colour) in zip((-0.2, 0.2), COLOURS.items(), strict=True):
            own = {
                row.change: row
                for row in rows
                if (row.kind, row.sampler, row.is_cached) == (kind, sampler, False)
            }
            places = np.arange(len(CHANGES)) + offset
            prepared = np.array([own[change].preparing for change in CHANGES])
            rest = np.array([own[change].seconds for change in CHANGES]) - prepared
            axis.barh(places, prepared, 0.38, color=colour, label=f"{sampler}, tracing and compiling")
            axis.barh(
                places, rest, 0.38, left=prepared, color=colour, alpha=0.35, label=f"{sampler}, running"
            )
        axis.set_title(f"{name}, without a cache on disk")
        axis.set_xlabel("seconds of the call (less is better)")
        axis.set_yticks(range(len(CHANGES)), list(CHANGES.values()))
    axes[0].invert_yaxis()
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    save_figure(figure, path)
