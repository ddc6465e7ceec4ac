"""How several methods rise along their trainings: bound and log p(x) against epochs, seconds and derivatives.

Of each method, a line of the mean over its seeds and a band of ± one standard error, sd / √(number of seeds).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from experiments.reporting.plots import save_figure
from experiments.support.records import EpochRecord, Likelihood

EPOCHS = "epochs"
SECONDS = "seconds of training, at the fastest epoch's pace"
DERIVATIVES = "derivatives of log p(x, ·) or the decoder,\nper training image"
# Of a curve's seconds: what comes before is where any method is bad, and does not set the vertical limits.
SHOWN_FROM = 0.25
# Of the longest curve over the shortest: beyond it the short ones would be a stroke at the left.
MAX_LINEAR_RATIO = 6.0

Run = Sequence[EpochRecord]
Quantities = dict[str, Callable[[EpochRecord], float]]


class Curve(NamedTuple):
    """One method's course.

    spent: by its name on the horizontal axis, what had been spent after each of n epochs, [n].
    values: by its name on the vertical axis, a quantity after each epoch, [num_seeds, n].
    """

    spent: dict[str, Float[np.ndarray, " n"]]
    values: dict[str, Float[np.ndarray, "seeds n"]]


def quantities(runs: Sequence[Run]) -> Quantities:
    """What is to be drawn, by name, as functions of a record: the bound on the monitored images; and log p(x) where
    every epoch of every run has it. The bound is then that of the same images and draws, so that the two rows can be
    subtracted.

    Raises:
        ValueError: if some runs were monitored on test images and others on validation images.
    """
    monitored = [record.monitored for run in runs for record in run]
    splits = sorted({own.split for own in monitored})
    if len(splits) > 1:
        raise ValueError(f"expected runs that were monitored on the same images, got {' and '.join(splits)}")
    likelihoods = [own.likelihood for own in monitored if own.likelihood is not None]
    if len(likelihoods) < len(monitored):
        return {f"{splits[0]} bound, nats": lambda record: record.monitored.bound}
    draws = sorted({own.draws for own in likelihoods})
    count = f"{draws[0]}" + (f" to {draws[-1]}" if len(draws) > 1 else "")
    sizes = [own.ess for own in likelihoods if own.ess is not None]
    weights = f", ESS {min(sizes):.0f} to {max(sizes):.0f}" if sizes else ""
    return {
        f"{splits[0]} bound, nats": lambda record: _likelihood(record).bound,
        f"{splits[0]} log p(x), nats\n({count} draws an image{weights})": lambda record: (
            _likelihood(record).log_likelihood
        ),
    }


def _likelihood(record: EpochRecord) -> Likelihood:
    if record.monitored.likelihood is None:
        raise ValueError(f"log p(x) of epoch {record.epoch} was not drawn")
    return record.monitored.likelihood


def make_curve(
    runs: Sequence[Run], drawn: Quantities, seconds_per_epoch: float, derivatives_per_epoch: int
) -> Curve:
    """The course of one method, from the records of its seeds.

    Raises:
        ValueError: if they are not of the same epochs.
    """
    epochs = [[record.epoch for record in run] for run in runs]
    if any(own != epochs[0] for own in epochs):
        raise ValueError(f"expected seeds of the same epochs, got {[len(own) for own in epochs]} of them")
    steps = np.asarray(epochs[0], float)
    spent = {
        EPOCHS: steps,
        SECONDS: seconds_per_epoch * steps,
        DERIVATIVES: derivatives_per_epoch * steps,
    }
    values = {name: np.array([[of(record) for record in run] for run in runs]) for name, of in drawn.items()}
    return Curve(spent, values)


def after(before: Curve, curve: Curve) -> Curve:
    """The curve of trainings that went on where those of `before` ended: from that last point, at what it had cost."""
    spent = {
        unit: np.concatenate([before.spent[unit][-1:], before.spent[unit][-1] + own])
        for unit, own in curve.spent.items()
    }
    values = {
        name: np.concatenate([before.values[name][:, -1:], own], axis=1) for name, own in curve.values.items()
    }
    return Curve(spent, values)


def band(values: Float[np.ndarray, "seeds n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean - error, mean, mean + error), each [n]; the error is 0 for one seed, which has none."""
    mean = values.mean(axis=0)
    if len(values) == 1:
        return mean, mean, mean
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return mean - error, mean, mean + error


def vertical_limits(curves: list[Curve], name: str) -> tuple[float, float] | None:
    """Limits that hold every band from SHOWN_FROM of its method's seconds on; None if nothing there is finite."""
    shown = []
    for curve in curves:
        seconds = curve.spent[SECONDS]
        low, _, high = band(curve.values[name])
        is_late = seconds >= SHOWN_FROM * seconds[-1]
        shown += [low[is_late], high[is_late]]
    found = np.concatenate(shown)
    found = found[np.isfinite(found)]
    if len(found) == 0:
        return None
    margin = 0.05 * (found.max() - found.min()) + 0.05
    return float(found.min() - margin), float(found.max() + margin)


def _set_horizontal(axes: Axes, curves: list[Curve], unit: str) -> None:
    """From 0; or where the longest curve would squeeze the shortest, logarithmic from where that one is shown."""
    ends = [float(curve.spent[unit][-1]) for curve in curves]
    axes.set_xlabel(unit, fontsize=9)
    if max(ends) <= MAX_LINEAR_RATIO * min(ends):
        axes.set_xlim(left=0)
        return
    axes.set_xscale("log")
    axes.set_xlim(SHOWN_FROM * min(ends), 1.15 * max(ends))


def draw(curves: dict[str, Curve], path: Path, title: str) -> None:
    """A row for each quantity and a column for each thing spent, with every method in each panel."""
    first = next(iter(curves.values()))
    names, units = list(first.values), list(first.spent)
    figure, grid = plt.subplots(
        len(names),
        len(units),
        figsize=(12.5, 0.9 + 2.9 * len(names)),
        sharex="col",
        sharey="row",
        squeeze=False,
    )
    for panels, name in zip(grid, names, strict=True):
        for axes, unit in zip(panels, units, strict=True):
            for index, (label, curve) in enumerate(curves.items()):
                low, mean, high = band(curve.values[name])
                x, color = curve.spent[unit], f"C{index}"
                # A single epoch is a point, which a line alone would not show.
                marker = "o" if len(x) == 1 else None
                axes.plot(x, mean, color=color, lw=1.4, marker=marker, ms=4, label=label)
                if len(curve.values[name]) > 1:
                    axes.fill_between(x, low, high, color=color, alpha=0.25, lw=0)
            axes.grid(alpha=0.3)
        panels[0].set_ylim(vertical_limits(list(curves.values()), name))
        panels[0].set_ylabel(name, fontsize=9)
    for axes, unit in zip(grid[-1], units, strict=True):
        _set_horizontal(axes, list(curves.values()), unit)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    num_columns = len(labels) if len(labels) <= 3 else min(3, -(-len(labels) // 2))
    figure.legend(
        handles, labels, fontsize=9, ncols=num_columns, loc="upper center", bbox_to_anchor=(0.5, 0.01)
    )
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    save_figure(figure, path)
