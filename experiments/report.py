"""Tables and pictures of a study: `python -m experiments.report RUNS/STUDY`.

Reads the cells that `experiments.study` has written, whole or in part, and writes NAME.json, NAME.md, NAME_gaps.png,
NAME_curves.png and NAME_condition.png under --results.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes

from experiments.config import fail_cleanly
from experiments.plots import save_figure
from experiments.runs import save_report
from experiments.study import FAMILIES, METHODS

BASELINE, FLAT = "Gaussian", "HVI-4"
# Whose gain is drawn against the posterior's condition number.
SHOWN = (
    "HVI-4",
    "Gaussian, full covariance, recentred",
    "amortised-4, recentred twice",
    "Fisher-4, recentred",
)
# A metric that goes with the position, and the same held constant.
PAIRS = (
    ("RHVI-2, recentred", "RHVI-2, recentred, share 0"),
    ("RHVI-2, recentred, share 1", "RHVI-2, recentred, share 0"),
)
LIMITS = (-4, 12)  # of the gains drawn one by one
NUM_AVERAGED = 5  # chunks, in the curves


@dataclass(frozen=True)
class ReportConfig:
    """Report on a study.

    Attributes:
        study: its folder.
        results: where the table and the pictures go.
        name: theirs.
    """

    study: Path
    results: Path = Path("experiments/results")
    name: str = "study"


@dataclass(frozen=True)
class Decoder:
    """One decoder's cells: log p(x) of its images, and the figures of the methods that are done."""

    latent_dim: int
    seed: int
    pinned: dict
    methods: dict[str, dict]

    @property
    def log_likelihood(self) -> np.ndarray:
        """log p(x) of each image, by annealed importance sampling."""
        return np.asarray(self.pinned["log_likelihood"])

    def gaps(self, method: str) -> np.ndarray:
        """log p(x) - bound, for each image."""
        return self.log_likelihood - np.asarray(self.methods[method]["per_image"]["bound"])


def read(folder: Path) -> list[Decoder]:
    """The decoders of a study that have anything to report.

    Raises:
        FileNotFoundError: if there is none.
    """
    decoders = []
    for path in sorted(folder.glob("*/pinned.json")):
        cells = [json.loads(cell.read_text()) for cell in sorted(path.parent.glob("method-*.json"))]
        if cells:
            methods = {cell["method"]: cell for cell in cells}
            decoders.append(
                Decoder(cells[0]["latent_dim"], cells[0]["seed"], json.loads(path.read_text()), methods)
            )
    if not decoders:
        raise FileNotFoundError(f"no study in {folder}: no */pinned.json with cells beside it")
    return decoders


def rows(decoders: list[Decoder]) -> list[dict]:
    """One row for each latent size and method: means over the seeds."""
    found = []
    for latent_dim in sorted({decoder.latent_dim for decoder in decoders}):
        own = [decoder for decoder in decoders if decoder.latent_dim == latent_dim]
        for method in names(own):
            having = [decoder for decoder in own if method in decoder.methods]
            if having:
                found.append(_row(latent_dim, method, having))
    return found


def names(decoders: list[Decoder]) -> list[str]:
    """The methods that these decoders have: in the study's order, those of a grid after them."""
    found = {method for decoder in decoders for method in decoder.methods}
    known = [method for method in METHODS if method in found]

    def place(method: str) -> tuple:
        cell = next(d.methods[method] for d in decoders if method in d.methods)
        return method.split(",")[0], cell["num_transitions"], cell["num_steps"]

    return known + sorted(found - set(known), key=place)


def _row(latent_dim: int, method: str, decoders: list[Decoder]) -> dict:
    cells = [decoder.methods[method] for decoder in decoders]
    gaps = [decoder.gaps(method) for decoder in decoders]
    with_base = [decoder for decoder in decoders if BASELINE in decoder.methods]
    closed = [1 - decoder.gaps(method).mean() / decoder.gaps(BASELINE).mean() for decoder in with_base]
    gains = [decoder.gaps(BASELINE) - decoder.gaps(method) for decoder in with_base]
    speeds = [
        decoder.methods[method]["seconds_per_epoch"] / decoder.methods[FLAT]["seconds_per_epoch"]
        for decoder in decoders
        if FLAT in decoder.methods
    ]
    return {
        "latent_dim": latent_dim,
        "method": method,
        "num_transitions": cells[0].get("num_transitions"),
        "num_steps": cells[0].get("num_steps"),
        "seeds": [decoder.seed for decoder in decoders],
        "bound": _mean([np.mean(cell["per_image"]["bound"]) for cell in cells]),
        "importance_weighted": _mean([np.mean(cell["per_image"]["log_likelihood"]) for cell in cells]),
        "gap": _mean([gap.mean() for gap in gaps]),
        "gap_over_seeds": [float(gap.mean()) for gap in gaps],
        # Paired, image by image: what is common to the methods drops out.
        "gain": _mean([gain.mean() for gain in gains]),
        "gain_error": _gain_error(gains),
        "closed": _mean(closed),
        "cost": _mean(speeds),
        "epochs": _mean([cell["epochs"] for cell in cells]),
        "unconverged": _mean([cell["unconverged"] for cell in cells]),
        "training_unconverged": _mean([cell["training_unconverged"] for cell in cells]),
        "nonfinite": _mean([cell["nonfinite"] for cell in cells]),
        "skipped_steps": sum(cell["skipped_steps"] for cell in cells),
        "clipped_steps": sum(cell["clipped_steps"] for cell in cells),
        "learned": [cell["learned"] for cell in cells],
    }


def _gain_error(gains: list[np.ndarray]) -> float:
    """Of the mean gain: the seeds share their images, so images are counted once; what the seeds differ by is added."""
    if not gains:
        return float("nan")
    over_images = np.mean(gains, axis=0).std(ddof=1) / np.sqrt(len(gains[0]))
    means = [gain.mean() for gain in gains]
    over_seeds = np.std(means, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else 0.0
    return float(np.hypot(over_images, over_seeds))


def _mean(values: list) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _sandwich(decoders: list[Decoder]) -> list[dict]:
    """For each decoder, the two estimates on data that it made: their means, and the mean of their difference."""
    found = []
    for decoder in decoders:
        lower, upper = (np.asarray(decoder.pinned["simulated"][side]) for side in ("lower", "upper"))
        width = upper - lower
        found.append(
            {
                "latent_dim": decoder.latent_dim,
                "seed": decoder.seed,
                "log_likelihood": float(decoder.log_likelihood.mean()),
                "log_likelihood_error": float(
                    decoder.log_likelihood.std(ddof=1) / np.sqrt(len(decoder.log_likelihood))
                ),
                "lower": float(lower.mean()),
                "upper": float(upper.mean()),
                "width": float(width.mean()),
                "width_error": float(width.std(ddof=1) / np.sqrt(len(width))),
                "num_simulated": len(width),
            }
        )
    return found


def _position_rows(decoders: list[Decoder]) -> list[dict]:
    """What a metric that goes with the position adds to the same one held constant, in all and in the thirds of the
    images over whose posterior it varies least and most."""
    found = []
    for latent_dim in sorted({decoder.latent_dim for decoder in decoders}):
        for moving, frozen in PAIRS:
            own = [
                d
                for d in decoders
                if d.latent_dim == latent_dim
                and {moving, frozen} <= set(d.methods)
                and "metric_variation" in d.pinned
            ]
            if not own:
                continue
            gains = [d.gaps(frozen) - d.gaps(moving) for d in own]
            order = [np.argsort(d.pinned["metric_variation"]) for d in own]
            third = len(order[0]) // 3
            found.append(
                {
                    "latent_dim": latent_dim,
                    "method": moving,
                    "seeds": [d.seed for d in own],
                    "variation": _mean([np.median(d.pinned["metric_variation"]) for d in own]),
                    "gap_frozen": _mean([d.gaps(frozen).mean() for d in own]),
                    "gain": _mean([g.mean() for g in gains]),
                    "gain_error": _gain_error(gains),
                    "gain_least": _mean([g[o[:third]].mean() for g, o in zip(gains, order, strict=True)]),
                    "gain_most": _mean([g[o[-third:]].mean() for g, o in zip(gains, order, strict=True)]),
                }
            )
    return found


def _position_table(found: list[dict]) -> list[str]:
    if not found:
        return []
    lines = [
        "",
        "What position dependence adds: the gain in the bound over the same dynamics with the metric held constant "
        "(share 0), in all and in the thirds of the images whose metric varies least and most over the posterior. "
        "Variation: the median image's root mean square of log eigenvalues of the metric, over its posterior, against "
        "that at the encoder's mean.",
        "",
        "| d | method | seeds | variation | gap with share 0 | gain | least varying third | most varying |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in found:
        lines.append(
            f"| {r['latent_dim']} | {r['method']} | {len(r['seeds'])} | {r['variation']:.2f} | "
            f"{r['gap_frozen']:.3f} | {r['gain']:.3f} ± {r['gain_error']:.3f} | {r['gain_least']:.3f} | "
            f"{r['gain_most']:.3f} |"
        )
    return lines


def markdown(report: dict) -> str:
    """The tables."""
    settings = report["settings"]
    images = f"{settings['num_train']} training images" if settings["num_train"] else "all training images"
    budget = (
        f"{settings['passes']:g} passes" if settings["passes"] else f"{settings['seconds']:.0f} CPU seconds"
    )
    lines = [
        f"One decoder held fixed; encoder, dynamics and reverse model trained on {images} for about "
        f"{budget} a method; {settings['num_images']} test images. Nats. The gap is "
        "log p(x) by annealed importance sampling minus the bound; closed: the share of the Gaussian's gap; cost: "
        f"seconds an epoch over those of {FLAT}. ± is the gain's standard error, over images "
        "and seeds (of one seed: over its images).",
        "",
        "| d | method | seeds | bound | gap | gain over the Gaussian | closed | cost | epochs | failed | skipped |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in report["rows"]:
        gain = f"{r['gain']:.2f} ± {r['gain_error']:.2f}"
        lines.append(
            f"| {r['latent_dim']} | {r['method']} | {len(r['seeds'])} | {r['bound']:.2f} | {r['gap']:.2f} | {gain} | "
            f"{r['closed']:.0%} | {_or_dash(r['cost'])} | {r['epochs']:.1f} | {r['unconverged']:.3%} | "
            f"{r['skipped_steps']} |"
        )
    lines += [
        "",
        "log p(x) of the test images by annealed importance sampling (± standard error over the images); on images "
        "that the decoder made itself, the mean of the lower and of the upper estimate, and of their difference.",
        "",
        "| d | seed | log p(x), test images | lower, made images | upper | difference |",
        "|---|---|---|---|---|---|",
    ]
    for s in report["sandwich"]:
        lines.append(
            f"| {s['latent_dim']} | {s['seed']} | {s['log_likelihood']:.2f} ± {s['log_likelihood_error']:.2f} | "
            f"{s['lower']:.2f} | {s['upper']:.2f} | {s['width']:.3f} ± {s['width_error']:.3f} |"
        )
    lines += _position_table(report["position_dependence"])
    lines += _learned_table(report["rows"])
    device = report["environment"]
    lines += ["", f"`{report['command']}`, {device['device']}, JAX {device['jax']}."]
    return "\n".join(lines) + "\n"


def _learned_table(found: list[dict]) -> list[str]:
    """What the dynamics' parameters came to: means over seeds and transitions, masses by their range."""
    lines = [
        "",
        "As learned, means over the seeds (and transitions): step size ε and εL, in units of y (in whitened "
        "coordinates π/2 is a quarter of a period); the ratio of the largest to the smallest mass of the dynamics; "
        "Gauss-Newton steps γ of recentring; weight e^a of the Fisher information in the metric; share κ of it that "
        "goes with the position.",
        "",
        "| d | method | ε | εL | masses, largest : smallest | γ | e^a | κ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in found:
        own = [values for values in r["learned"] if values]
        if not own:
            continue

        def mean(name: str, own: list[dict] = own) -> float:
            return _mean([np.mean(values[name]) for values in own if name in values])

        ratios = [np.exp(np.ptp(v["log_masses"], axis=-1)).mean() for v in own if "log_masses" in v]
        rounds = [v["recentring_steps"] for v in own if "recentring_steps" in v]
        gammas = ", ".join(f"{gamma:.2f}" for gamma in np.mean(rounds, axis=0)) if rounds else "-"
        step = mean("step_sizes")
        cells = [_or_dash(step), _or_dash(step * (r["num_steps"] or np.nan))]
        cells += [_or_dash(_mean(ratios)), gammas]
        cells += [_or_dash(mean("fisher_weight")), _or_dash(mean("position_dependence"))]
        lines.append(f"| {r['latent_dim']} | {r['method']} | " + " | ".join(cells) + " |")
    return lines


def _or_dash(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def draw_curves(decoders: list[Decoder], path: Path) -> None:
    """The bound during training against seconds, passes over the data and derivatives, at the size with most cells."""
    sizes = [decoder.latent_dim for decoder in decoders for _ in decoder.methods]
    size = max(sorted(set(sizes)), key=sizes.count)
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True)
    lowest, highest = [], []
    for color, method in enumerate((BASELINE, *SHOWN)):
        cells = [d.methods[method] for d in decoders if d.latent_dim == size and method in d.methods]
        cells = [cell for cell in cells if len(cell["training_bound"]) > NUM_AVERAGED]
        if not cells:
            continue
        for kind, axes in enumerate(panels):
            x, y, error = _mean_curve(cells, kind)
            axes.plot(x, y, color=f"C{color}", label=f"{method} ({len(cells)} seeds)")
            if error is not None:
                axes.fill_between(x, y - error, y + error, color=f"C{color}", alpha=0.25, linewidth=0)
            lowest.append(y[len(y) // 10])
            highest.append(np.max(y))
    for axes, label in zip(
        panels,
        ("CPU seconds", "passes over the training images", "derivatives per training image"),
        strict=True,
    ):
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


def _mean_curve(cells: list[dict], kind: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(x, bound, its standard error over the cells), means over the cells, of running means; x by kind: seconds,
    passes, derivatives."""
    xs, ys = [], []
    for cell in cells:
        seconds, bounds = np.asarray(cell["training_bound"]).T
        passes = np.arange(1, len(bounds) + 1) * cell["epochs"] / len(bounds)
        window = np.ones(NUM_AVERAGED) / NUM_AVERAGED
        ys.append(np.convolve(bounds, window, "valid"))
        xs.append(
            (seconds, passes, passes * cell["derivatives_per_image"])[kind][NUM_AVERAGED // 2 :][
                : len(ys[-1])
            ]
        )
    grid = np.linspace(max(x[0] for x in xs), min(x[-1] for x in xs), 100)
    curves = np.asarray([np.interp(grid, x, y) for x, y in zip(xs, ys, strict=True)])
    error = curves.std(axis=0, ddof=1) / np.sqrt(len(curves)) if len(curves) > 1 else None
    return grid, curves.mean(axis=0), error


def draw_gaps(found: list[dict], path: Path, budget: str) -> None:
    """Bars of the gap by method, a panel for each latent size; dots are the seeds."""
    sizes = sorted({r["latent_dim"] for r in found})
    names = list(dict.fromkeys(r["method"] for r in found))
    figure, panels = plt.subplots(
        1, len(sizes), figsize=(3.2 + 2.6 * len(sizes), 0.32 * len(names) + 1.3), squeeze=False, sharey=True
    )
    for axes, size in zip(panels[0], sizes, strict=True):
        base = [r["gap"] for r in found if r["latent_dim"] == size and r["method"] == BASELINE]
        limit = 1.2 * base[0] if base else float("inf")
        for r in (r for r in found if r["latent_dim"] == size):
            y = names.index(r["method"])
            has_steps = not r["method"].startswith("Gaussian")
            axes.barh(y, r["gap"], color="C0" if has_steps else "0.7", height=0.7)
            axes.plot(r["gap_over_seeds"], [y] * len(r["gap_over_seeds"]), "k.", markersize=4)
            # One method that has failed must not squeeze the others: its bar is cut, and its figure says so.
            is_cut = r["gap"] > limit
            text = f" {r['gap']:.2f}" + (" (bar cut)" if is_cut else "")
            x = limit if is_cut else max(r["gap"], *r["gap_over_seeds"], 0.0)
            axes.text(x, y, text, va="center", ha="right" if is_cut else "left", fontsize=7)
        axes.set_title(f"{size} latents", fontsize=10)
        axes.set_xlabel("log p(x) - bound, nats: less is better", fontsize=8)
        axes.set_xlim(0, limit if base else None)
        axes.grid(alpha=0.3, axis="x")
    panels[0, 0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0, 0].invert_yaxis()
    figure.suptitle(
        f"Gap of each bound, one fixed decoder, {budget} (blue: with leapfrog steps; grey: Gaussians)",
        fontsize=10,
    )
    figure.tight_layout()
    save_figure(figure, path)


def draw_grid(found: list[dict], path: Path) -> None:
    """The gap of each family over its grid of transitions T and steps L, at the size that has one; else nothing."""
    cells: dict[tuple, dict] = {}
    for r in found:
        family, _, shape = r["method"].rpartition(", ")
        if family in FAMILIES and shape == f"{r['num_transitions']} x {r['num_steps']}":
            cells.setdefault((r["latent_dim"], family), {})[r["num_transitions"], r["num_steps"]] = r
    if not cells:
        return
    shown = [r for own in cells.values() for r in own.values()]
    low, high = min(r["gap"] for r in shown), max(r["gap"] for r in shown)
    figure, panels = plt.subplots(1, len(cells), figsize=(3.4 * len(cells), 3.2), squeeze=False)
    for axes, ((size, family), own) in zip(panels[0], sorted(cells.items()), strict=True):
        transitions, steps = (sorted({key[side] for key in own}) for side in (0, 1))
        values = np.full((len(transitions), len(steps)), np.nan)
        for (T, L), r in own.items():
            row, column = transitions.index(T), steps.index(L)
            values[row, column] = r["gap"]
            text = f"{r['gap']:.2f}\n{r['cost']:.1f} × HVI-4" if np.isfinite(r["cost"]) else f"{r['gap']:.2f}"
            is_dark = r["gap"] > low + 0.55 * (high - low)
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="w" if is_dark else "k")
        axes.imshow(values, cmap="Blues", vmin=low, vmax=high + 1e-6, aspect="auto")
        axes.set_xticks(range(len(steps)), steps)
        axes.set_yticks(range(len(transitions)), transitions)
        axes.set_xlabel("L, leapfrog steps", fontsize=9)
        axes.set_title(f"{family}, d = {size}", fontsize=9)
    panels[0, 0].set_ylabel("T, transitions", fontsize=9)
    figure.suptitle("Gap to log p(x), nats (less is better), and cost of an epoch", fontsize=10)
    figure.tight_layout()
    save_figure(figure, path)


def draw_condition(decoders: list[Decoder], path: Path) -> None:
    """Each image's gain over the Gaussian against how ill-conditioned its posterior is."""
    sizes = sorted({decoder.latent_dim for decoder in decoders})
    figure, panels = plt.subplots(1, len(sizes), figsize=(4.4 * len(sizes), 3.6), squeeze=False, sharey=True)
    for axes, size in zip(panels[0], sizes, strict=True):
        own = [d for d in decoders if d.latent_dim == size and BASELINE in d.methods]
        for color, method in enumerate(SHOWN):
            having = [d for d in own if method in d.methods]
            if having:
                x = np.concatenate([d.pinned["condition_number"] for d in having])
                y = np.concatenate([d.gaps(BASELINE) - d.gaps(method) for d in having])
                _scatter(axes, x, y, method, f"C{color}", len(having))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.axhline(0, color="k", linewidth=0.7)
        axes.set_ylim(*LIMITS)
        num_outside = sum(
            int(np.sum((gains < LIMITS[0]) | (gains > LIMITS[1])))
            for d in own
            for gains in (d.gaps(BASELINE) - d.gaps(m) for m in SHOWN if m in d.methods)
        )
        if num_outside:
            axes.text(
                0.98, 0.02, f"{num_outside} points outside", fontsize=7, ha="right", transform=axes.transAxes
            )
        axes.set_title(f"{size} latents", fontsize=10)
        axes.set_xlabel(
            "condition number of the posterior's metric,\nin units of the encoder's deviations", fontsize=9
        )
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("gain in the bound over the Gaussian, nats", fontsize=9)
    if panels[0, 0].get_legend_handles_labels()[0]:
        panels[0, 0].legend(fontsize=7)
    figure.tight_layout()
    save_figure(figure, path)


def _scatter(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, color: Any, num_seeds: int) -> None:
    """Points, and the means of five bins with equally many of them; an image counts once in their errors, though every
    seed has a point of it."""
    axes.plot(x, y, ".", color=color, alpha=0.12, markersize=3)
    bins = np.array_split(np.argsort(x), 5)
    means, heights = [np.exp(np.log(x[b]).mean()) for b in bins], [y[b].mean() for b in bins]
    errors = [y[b].std(ddof=1) / np.sqrt(len(b) / num_seeds) if len(b) > 1 else 0.0 for b in bins]
    axes.errorbar(means, heights, errors, color=color, marker="o", markersize=4, label=label, capsize=2)


def make(options: ReportConfig, command: str) -> dict:
    """Read the study; write tables and pictures."""
    decoders = read(options.study)
    first = next(iter(decoders[0].methods.values()))
    figures = {
        "rows": rows(decoders),
        "sandwich": _sandwich(decoders),
        "position_dependence": _position_rows(decoders),
        "settings": {
            "num_train": first["num_train"],
            "num_images": len(first["per_image"]["bound"]),
            "passes": first.get("passes", 0.0),
            "seconds": float(
                np.median(
                    [c["seconds"] for decoder in decoders for c in decoder.methods.values() if c["epochs"]]
                )
            ),
        },
    }
    stem = options.results / options.name
    report = save_report(stem, command, options, figures, markdown)
    budget = "equal passes" if figures["settings"]["passes"] else "equal CPU seconds"
    draw_gaps(figures["rows"], stem.with_name(f"{options.name}_gaps.png"), budget)
    draw_grid(figures["rows"], stem.with_name(f"{options.name}_grid.png"))
    draw_curves(decoders, stem.with_name(f"{options.name}_curves.png"))
    draw_condition(decoders, stem.with_name(f"{options.name}_condition.png"))
    return report


def main() -> None:
    import tyro

    options = tyro.cli(
        ReportConfig, prog="python -m experiments.report", config=(tyro.conf.PositionalRequiredArgs,)
    )
    print(markdown(make(options, "python -m experiments.report " + " ".join(sys.argv[1:]))))


if __name__ == "__main__":
    fail_cleanly(main)
