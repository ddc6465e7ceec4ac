"""The picture of the benchmark of the no-U-turn sampler."""

from pathlib import Path

import numpy as np

from experiments.benchmarks.nuts.rows import Findings
from experiments.benchmarks.nuts.tables import TARGET
from experiments.reporting.plots import plt, save_figure

COLOURS = {"hmcvae": "tab:blue", "BlackJAX": "tab:orange"}


def draw(report: dict, path: Path) -> None:
    """Ratios of transitions a second at the left, gradients for an effective draw at the right."""
    found = Findings.from_json(report)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    labels = [f"{row.density}\nchains: {row.chains}" for row in found.speed]
    left.bar(labels, [row.ratio for row in found.speed], yerr=[row.ratio_error for row in found.speed])
    left.axhline(1, color="black", linewidth=0.8)
    left.axhline(TARGET, color="tab:red", linestyle="--", label=f"expected ≥ {TARGET} ×")
    left.set_ylabel("transitions a second, ours / BlackJAX's")
    left.tick_params(axis="x", labelsize=7)
    left.legend()
    posteriors = list(dict.fromkeys(row.posterior for row in found.draws))
    for offset, (sampler, colour) in zip((-0.2, 0.2), COLOURS.items(), strict=True):
        heights = [row.gradients for row in found.draws if row.sampler == sampler]
        right.bar(np.arange(len(posteriors)) + offset, heights, 0.38, color=colour, label=sampler)
    right.set_xticks(range(len(posteriors)), posteriors)
    right.set_ylabel("gradients / effective draw (less is better)")
    right.legend()
    save_figure(figure, path)
