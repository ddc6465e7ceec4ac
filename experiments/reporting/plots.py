"""The pictures of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde

from experiments.support.records import EpochRecord
from hmcvae.samplers.draws import Samples

Images = Float[np.ndarray, "n h w c"]


def save_figure(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def tile(images: Images, num_columns: int, gap: int = 1) -> np.ndarray:
    """Images [n, H, W, C] on a grid [rows, columns] with a white gap, as one picture with values in [0, 1]."""
    count, height, width, channels = images.shape
    num_rows = -(-count // num_columns)
    picture = np.ones(
        (num_rows * (height + gap) + gap, num_columns * (width + gap) + gap, channels), np.float32
    )
    for index in range(count):
        top = gap + (index // num_columns) * (height + gap)
        left = gap + (index % num_columns) * (width + gap)
        picture[top : top + height, left : left + width] = images[index]
    return np.clip(picture, 0, 1)


def image_grid(
    images: Images, num_columns: int, path: Path, title: str, row_labels: Sequence[str] = ()
) -> None:
    """Draw images row by row; `row_labels` name the rows at the left."""
    picture = tile(np.asarray(images), num_columns)
    num_rows = -(-len(images) // num_columns)
    cell = 0.55 if num_columns > 8 else 0.8
    figure, axes = plt.subplots(
        figsize=(num_columns * cell + (1.2 if row_labels else 0), num_rows * cell + 0.4)
    )
    axes.imshow(picture.squeeze(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    if row_labels:
        step = picture.shape[0] / num_rows
        axes.set_yticks([(row + 0.5) * step for row in range(num_rows)], row_labels, fontsize=9)
        axes.tick_params(length=0)
    else:
        axes.set_yticks([])
    save_figure(figure, path)


def bound_curves(
    label: str, records: Sequence[EpochRecord], path: Path, title: str, num_skipped: int = 0
) -> None:
    """A run's bound, in training and on the monitored set, against epochs and against seconds.

    Args:
        label: the bound's name.
        records: of its epochs.
        path: where the picture goes.
        title: above it.
        num_skipped: epochs at the start that set the vertical axis' lower end no more than they must.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), sharey=True)
    epochs = [record.epoch for record in records]
    seconds = np.cumsum([record.seconds for record in records])
    monitored, trained = [record.monitored.bound for record in records], [record.bound for record in records]
    for axes, x in ((left, epochs), (right, seconds)):
        axes.plot(x, monitored, color="C0", lw=1.6, label=f"{label}: {records[-1].monitored.split}")
        axes.plot(x, trained, color="C0", lw=1, ls=":", label="training")
    late = [value for epoch, value in zip(epochs, monitored, strict=True) if epoch > num_skipped]
    shown = late or monitored[-1:]
    if not num_skipped:
        shown = shown + trained
    finite = [value for value in shown if np.isfinite(value)]
    if finite:
        lowest, highest = min(finite), max(finite)
        left.set_ylim(lowest - 0.03 * (highest - lowest) - 0.5, highest + 0.06 * (highest - lowest) + 0.5)
    left.set_xlabel("epoch")
    right.set_xlabel("seconds of training, compilation included")
    left.set_ylabel("bound on log p(x), nats")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_xlim(left=0)
    right.legend(fontsize=8, loc="lower right")
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    save_figure(figure, path)


def trace_and_pair(
    draws: dict[str, Samples], names: Sequence[str], trace: Path, pair: Path, num_points: int = 2000
) -> None:
    """Traces, with rows for each method and coordinate, and pairs of coordinates with the methods overlaid.

    Args:
        draws: samples of vectors by method.
        names: of the coordinates to show, the first ones.
        trace, pair: where the pictures go.
        num_points: of each method in the picture of pairs.
    """
    count = len(names)
    figure, grid = plt.subplots(len(draws) * count, 2, figsize=(11, 1.7 * len(draws) * count), squeeze=False)
    for index, (method, samples) in enumerate(draws.items()):
        for i, (name, own) in enumerate(zip(names, grid[index * count :], strict=False)):
            _trace(own, _thinned(samples, 1000)[..., i])
            own[0].set_title(f"{method}: density of {name}, a line for each chain", fontsize=9)
            own[1].set_title(f"{method}: draws of {name}", fontsize=9)
    for i in range(count):  # one scale for a coordinate, whatever the method
        for axes, which in ((grid[i::count, 0], "x"), (grid[i::count, 1], "y")):
            limits = np.array([getattr(one, f"get_{which}lim")() for one in axes])
            for one in axes:
                getattr(one, f"set_{which}lim")(limits[:, 0].min(), limits[:, 1].max())
    figure.tight_layout()
    save_figure(figure, trace)
    _pairs(draws, names, pair, num_points)


def _thinned(samples: Samples, num_draws: int) -> Float[np.ndarray, "chain draw d"]:
    positions = np.asarray(samples.position)
    return positions[:, :: max(1, positions.shape[1] // num_draws)]


def _trace(axes: Sequence[Any], chains: Float[np.ndarray, "chain draw"]) -> None:
    """The density of each chain at the left, its draws at the right."""
    density, lines = axes
    places = np.linspace(chains.min(), chains.max(), 200)
    for chain in chains:
        if chain.std() > 0:
            density.plot(places, gaussian_kde(chain)(places), lw=0.8)
        lines.plot(chain, lw=0.4, alpha=0.7)
    density.set_yticks([])
    lines.set_xlim(0, chains.shape[1] - 1)


def _pairs(draws: dict[str, Samples], names: Sequence[str], path: Path, num_points: int) -> None:
    count = len(names) - 1
    figure, grid = plt.subplots(count, count, figsize=(5.5, 5.0), squeeze=False)
    for row in range(count):
        for column in range(count):
            axes = grid[row, column]
            if column > row:
                axes.set_visible(False)
                continue
            for index, (method, samples) in enumerate(draws.items()):
                own = _thinned(samples, num_points // len(samples.position))
                x, y = own[..., column].ravel(), own[..., row + 1].ravel()
                axes.scatter(x, y, s=8, alpha=0.6, color=f"C{index}", label=method, linewidths=0)
            axes.set_xlabel(names[column] if row == count - 1 else "")
            axes.set_ylabel(names[row + 1] if column == 0 else "")
    grid[0, 0].legend(fontsize=9, markerscale=3)
    save_figure(figure, path)
