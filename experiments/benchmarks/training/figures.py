"""The picture of the benchmark of training."""

from pathlib import Path

from matplotlib.axes import Axes

from experiments.benchmarks.training.config import MODELS
from experiments.benchmarks.training.records import Row
from experiments.benchmarks.training.tables import from_json, title
from experiments.reporting.plots import plt, save_figure

COLOURS = {"hmcvae": ("tab:blue", "#aecbe6"), "pythae": ("tab:orange", "#fcd2a6")}  # (CPU time, by the clock)


def draw(report: dict, path: Path) -> None:
    """A bar for every contestant, with what it takes over ours; a panel for each model."""
    system, config = report["environment"], report["config"]
    chosen = [row for row in from_json(report)[0] if row.seconds is not None]
    groups = [[row for row in chosen if row.model == model] for model in MODELS]
    figure, panels = plt.subplots(
        len(MODELS),
        1,
        figsize=(9.5, 1.5 + 0.4 * len(chosen)),
        height_ratios=[len(group) + 0.6 for group in groups],
        layout="constrained",
    )
    titles = {
        "VAE": "VAE (ELBO)",
        "HVI": f"{config['num_steps']} leapfrog steps in the bound (HVI, HVAE)",
    }
    for axes, model, group in zip(panels, MODELS, groups, strict=True):
        draw_bars(axes, group)
        axes.set_title(titles[model], fontsize=10, loc="left")
    panels[-1].set_xlabel(
        "seconds an epoch, median (less is better): light, by the clock; dark, of processor time",
        fontsize=9.5,
    )
    figure.suptitle(
        f"Training on {config['num_images']} MNIST images, batch {config['batch_size']} — "
        f"{system['cpu']}, jax {system['jax']}, torch {system['torch']}",
        fontsize=11,
    )
    save_figure(figure, path)


def draw_bars(axes: Axes, rows: list[Row]) -> None:
    """The CPU seconds within the seconds."""
    longest = max(longer(row) for row in rows)
    for height, row in enumerate(rows):
        dark, light = COLOURS[row.library]
        axes.barh(height, row.seconds or 0.0, 0.78, color=light)
        axes.barh(height, row.cpu_seconds or 0.0, 0.36, color=dark)
        axes.text(longer(row) + 0.012 * longest, height, words(row), va="center", fontsize=8.5)
    axes.set_yticks(range(len(rows)), [f"{title(row)} · {row.cores}" for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.62 * longest)
    axes.spines[["top", "right"]].set_visible(False)


def longer(row: Row) -> float:
    return max(row.seconds or 0.0, row.cpu_seconds or 0.0)


def words(row: Row) -> str:
    """Both times; of the peer's, with their ratios."""
    over = [
        "" if row.library == "hmcvae" else f" ({ratio:.1f} × ours)"
        for ratio in (row.seconds_over_ours, row.cpu_seconds_over_ours)
    ]
    return f"{row.seconds:.2f} s{over[0]}, CPU {row.cpu_seconds:.2f} s{over[1]}"
