"""The pictures of `experiments.report`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes

from experiments.reporting.plots import save_figure
from experiments.study.methods import FAMILIES
from experiments.study.records import BASELINE, Decoder, Record
from experiments.study.statistics import Row, by_size
from experiments.support.subset import evenly

# Whose gain is drawn against the posterior's condition number.
SHOWN = (
    "HVI-4",
    "Gaussian, full covariance, recentred",
    "Gaussian, full covariance, recentred twice",
    "amortised-4, recentred twice",
    "amortised 2 x 2, recentred twice",
    "Fisher-4, recentred",
)
LIMITS = (-4, 12)  # of the gains drawn one by one
NUM_POINTS = 400  # of each method, drawn one by one
NUM_AVERAGED = 5  # chunks, in the curves


def _epochs(record: Record) -> np.ndarray:
    """After each chunk of its training."""
    num_chunks = len(record.training.curve)
    return np.arange(1, num_chunks + 1) * record.training.num_epochs / num_chunks


# What curves are drawn against: of a record, what had been spent after each chunk.
SPENT: dict[str, Callable[[Record], np.ndarray]] = {
    "CPU seconds": lambda record: np.asarray(record.training.curve)[:, 0],
    "passes over the training images": _epochs,
    "derivatives per training image": lambda record: _epochs(record) * record.derivatives_per_image,
}


def shown(decoders: list[Decoder]) -> list[str]:
    """The methods that are drawn in curves: those of SHOWN that the study has; if it has none, its first few."""
    found = list(dict.fromkeys(method for decoder in decoders for method in decoder.records))
    return [m for m in SHOWN if m in found] or [m for m in found if not m.startswith(BASELINE)][: len(SHOWN)]


def draw_curves(decoders: list[Decoder], path: Path) -> None:
    """The bound during training against seconds, passes over the data and derivatives, at the size with most
    records."""
    size, own = max(by_size(decoders), key=lambda pair: sum(len(d.records) for d in pair[1]))
    figure, panels = plt.subplots(1, len(SPENT), figsize=(11, 3.6), sharey=True)
    lowest, highest = [], []
    for color, method in enumerate((BASELINE, *shown(decoders))):
        having = [d.records[method] for d in own if method in d.records]
        trained = [record for record in having if record.training.curve]
        if not trained:
            continue
        for axes, spent_fn in zip(panels, SPENT.values(), strict=True):
            x, y, error = _mean_curve(trained, spent_fn)
            axes.plot(x, y, color=f"C{color}", label=f"{method} ({len(trained)} seeds)")
            if error is not None:
                axes.fill_between(x, y - error, y + error, color=f"C{color}", alpha=0.25, linewidth=0)
            lowest.append(y[len(y) // 10])
            highest.append(np.max(y))
    for axes, label in zip(panels, SPENT, strict=True):
        axes.set_xlabel(label, fontsize=9)
        axes.grid(alpha=0.3)
    for axes in panels[1:]:
        axes.set_xscale("log")
    if lowest:
        panels[0].set_ylim(min(lowest) - 2, max(highest) + 0.5)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 0))
    panels[0].set_ylabel("bound on the images being trained on, nats", fontsize=9)
    figure.suptitle(
        f"Inference for one fixed decoder, {size} latents (bands: ± one standard error over seeds)",
        fontsize=10,
    )
    figure.tight_layout()
    save_figure(figure, path)


def _mean_curve(
    records: list[Record], spent_fn: Callable[[Record], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(what was spent, bound, its standard error over the records): means over the records, of running means."""
    xs, ys = [], []
    for record in records:
        bounds = np.asarray(record.training.curve)[:, 1]
        width = min(NUM_AVERAGED, len(bounds))
        ys.append(np.convolve(bounds, np.ones(width) / width, "valid"))
        xs.append(spent_fn(record)[width // 2 :][: len(ys[-1])])
    grid = np.linspace(max(x[0] for x in xs), min(x[-1] for x in xs), 100)
    curves = np.asarray([np.interp(grid, x, y) for x, y in zip(xs, ys, strict=True)])
    error = curves.std(axis=0, ddof=1) / np.sqrt(len(curves)) if len(curves) > 1 else None
    return grid, curves.mean(axis=0), error


def draw_gaps(rows: list[Row], path: Path, budget: str) -> None:
    """Bars of the gap by method, a panel for each latent size; dots are the seeds."""
    sizes = sorted({r.latent_dim for r in rows})
    names = list(dict.fromkeys(r.method for r in rows))
    figure, panels = plt.subplots(
        1, len(sizes), figsize=(3.2 + 2.6 * len(sizes), 0.32 * len(names) + 1.3), squeeze=False, sharey=True
    )
    for axes, size in zip(panels[0], sizes, strict=True):
        own = {r.method: r for r in rows if r.latent_dim == size}
        limit = 1.2 * own[BASELINE].gap if BASELINE in own else float("inf")
        for method, r in own.items():
            _bar(axes, names.index(method), r, limit)
        axes.set_title(f"{size} latents", fontsize=10)
        axes.set_xlabel("log p(x) - bound, nats: less is better", fontsize=8)
        axes.set_xlim(0, limit if BASELINE in own else None)
        axes.grid(alpha=0.3, axis="x")
    panels[0, 0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0, 0].invert_yaxis()
    figure.suptitle(
        f"Gap of each bound, one fixed decoder, {budget}\nblue: with leapfrog steps; grey: Gaussians",
        fontsize=10,
    )
    figure.tight_layout()
    save_figure(figure, path)


def _bar(axes: Axes, y: int, row: Row, limit: float) -> None:
    """One method that has failed must not squeeze the others: its bar is cut at the limit, and its figure says so."""
    has_steps = not row.method.startswith(BASELINE)
    axes.barh(y, row.gap, color="C0" if has_steps else "0.7", height=0.7)
    axes.plot(row.gap_over_seeds, [y] * len(row.gap_over_seeds), "k.", markersize=4)
    is_cut = row.gap > limit
    text = f" {row.gap:.2f}" + (" (bar cut)" if is_cut else "")
    x = limit if is_cut else max(row.gap, *row.gap_over_seeds, 0.0)
    axes.text(x, y, text, va="center", ha="right" if is_cut else "left", fontsize=7)


def draw_grid(rows: list[Row], path: Path) -> None:
    """The gap of each family over its grid of transitions T and steps L, at the size that has one; else nothing."""
    grids: dict[tuple[int, str], dict[tuple, Row]] = {}
    for r in rows:
        family, _, shape = r.method.rpartition(", ")
        if family in FAMILIES and shape == f"{r.num_transitions} x {r.num_steps}":
            grids.setdefault((r.latent_dim, family), {})[r.num_transitions, r.num_steps] = r
    if not grids:
        return
    gaps = [r.gap for own in grids.values() for r in own.values()]
    low, high = min(gaps), max(gaps)
    figure, panels = plt.subplots(1, len(grids), figsize=(3.4 * len(grids), 3.2), squeeze=False)
    for axes, ((size, family), own) in zip(panels[0], sorted(grids.items()), strict=True):
        transitions, steps = (sorted({key[side] for key in own}) for side in (0, 1))
        values = np.full((len(transitions), len(steps)), np.nan)
        for (T, L), r in own.items():
            row, column = transitions.index(T), steps.index(L)
            values[row, column] = r.gap
            text = f"{r.gap:.2f}\n{r.cost:.1f} × HVI-4" if np.isfinite(r.cost) else f"{r.gap:.2f}"
            is_dark = r.gap > low + 0.55 * (high - low)
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="w" if is_dark else "k")
        axes.imshow(values, cmap="Blues", vmin=low, vmax=high + 1e-6, aspect="auto")
        axes.set_xticks(range(len(steps)), steps)
        axes.set_yticks(range(len(transitions)), transitions)
        axes.set_xlabel("L, leapfrog steps", fontsize=9)
        axes.set_title(f"{family}, d = {size}", fontsize=9)
    panels[0, 0].set_ylabel("T, transitions", fontsize=9)
    figure.suptitle(
        "Gap to log p(x), nats (less is better), and an epoch's cost where HVI-4 is there to compare",
        fontsize=9,
    )
    figure.tight_layout()
    save_figure(figure, path)


def draw_condition(decoders: list[Decoder], path: Path) -> None:
    """Each image's gain over the Gaussian against how ill-conditioned its posterior is."""
    sizes = list(by_size(decoders))
    figure, panels = plt.subplots(1, len(sizes), figsize=(4.4 * len(sizes), 3.6), squeeze=False, sharey=True)
    for axes, (size, own) in zip(panels[0], sizes, strict=True):
        for color, method in enumerate(shown(decoders)):
            having = [d for d in own if {BASELINE, method} <= set(d.records)]
            if having:
                x = np.concatenate([d.reference.condition_number for d in having])
                y = np.concatenate([d.gaps(BASELINE) - d.gaps(method) for d in having])
                _scatter(axes, x, y, method, f"C{color}", len(having))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.axhline(0, color="k", linewidth=0.7)
        axes.set_ylim(*LIMITS)
        axes.set_title(f"{size} latents", fontsize=10)
        axes.set_xlabel(
            "condition number of the posterior's metric,\nin units of the encoder's deviations", fontsize=9
        )
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("gain in the bound over the Gaussian, nats", fontsize=9)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    if handles:
        columns = min(2 * len(sizes), len(handles))
        figure.legend(handles, labels, fontsize=7, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, 0))
    figure.suptitle("Joined dots: means of five groups of images. Points: some of the images.", fontsize=9)
    figure.tight_layout()
    save_figure(figure, path)


def _scatter(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, color: Any, num_seeds: int) -> None:
    """Points, and the means of five bins with equally many of them; an image counts once in their errors, though every
    seed has a point of it."""
    few = evenly(len(x), NUM_POINTS)
    axes.plot(x[few], y[few], ".", color=color, alpha=0.12, markersize=3)
    bins = np.array_split(np.argsort(x), 5)
    means, heights = [np.exp(np.log(x[b]).mean()) for b in bins], [y[b].mean() for b in bins]
    errors = [y[b].std(ddof=1) / np.sqrt(len(b) / num_seeds) if len(b) > 1 else 0.0 for b in bins]
    axes.errorbar(
        means, heights, errors, color=color, marker="o", markersize=4, label=label, capsize=2, zorder=3
    )
