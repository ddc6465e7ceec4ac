"""Tables and pictures of a study: `python -m experiments.report RUNS/STUDY`.

Reads the cells that `experiments.study` has written, whole or in part, and writes NAME.json, NAME.md, NAME_gaps.png,
NAME_curves.png and NAME_condition.png into --results (by default the study's folder), and NAME_grid.png if it has a
grid.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.study.figures import draw_condition, draw_curves, draw_gaps, draw_grid
from experiments.study.methods import METHODS
from experiments.study.records import BASELINE, FLAT, Decoder, read
from experiments.support.files import save_report

# A position-dependent metric, and the same held constant.
PAIRS = (
    ("RHVI-2, recentred", "RHVI-2, recentred, position dependence 0"),
    ("RHVI-2, recentred, solved to tolerance", "RHVI-2, recentred, position dependence 0"),
    ("RHVI-2, recentred, position dependence 1", "RHVI-2, recentred, position dependence 0"),
)


@dataclass(frozen=True)
class ReportConfig:
    """Report on a study.

    Attributes:
        study: its folder.
        results: where the table and the pictures go, by default the study's folder.
        name: theirs.
    """

    study: Path
    results: Path | None = None
    name: str = "study"


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
        # Studies of before did not keep it.
        "effective_sample_size": _mean(
            [np.mean(cell["per_image"].get("effective_sample_size", np.nan)) for cell in cells]
        ),
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
                "effective_sample_size": decoder.pinned.get("effective_sample_size"),
            }
        )
    return found


def _position_rows(decoders: list[Decoder]) -> list[dict]:
    """What a position-dependent metric adds to the same one held constant, in all and in the thirds of the
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
                    "gain_median": _mean([np.median(g) for g in gains]),
                    "training_unconverged": _mean([d.methods[moving]["training_unconverged"] for d in own]),
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
        "(position dependence 0), in all and in the thirds of the images whose metric varies least and most over the "
        "posterior. "
        "Variation: the median image's root mean square of log eigenvalues of the metric, over its posterior, against "
        "that at the encoder's mean.",
        "",
        "| d | method | seeds | variation | gap without it | gain | median image | least varying third | "
        "most varying | unconverged in training |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in found:
        lines.append(
            f"| {r['latent_dim']} | {r['method']} | {len(r['seeds'])} | {r['variation']:.2f} | "
            f"{r['gap_frozen']:.3f} | {r['gain']:.3f} ± {r['gain_error']:.3f} | {r['gain_median']:.3f} | "
            f"{r['gain_least']:.3f} | {r['gain_most']:.3f} | {r['training_unconverged']:.1%} |"
        )
    return lines


def markdown(report: dict) -> str:
    """The tables."""
    settings = report["settings"]
    images = f"{settings['num_train']} training images" if settings["num_train"] else "all training images"
    budget = (
        f"{settings['passes']:g} passes"
        if settings.get("passes")
        else f"{settings['seconds']:.0f} CPU seconds"
    )
    lines = [
        f"One decoder held fixed; encoder, dynamics and reverse model trained on {images} for about "
        f"{budget} a method; {settings['num_images']} test images. Nats. The gap is "
        "log p(x) by annealed importance sampling minus the bound; closed: the share of the Gaussian's gap; cost: "
        f"seconds an epoch over those of {FLAT} (-: not in the study). Unconverged: the share of draws with an "
        "implicit solve that was not, in evaluation and in training (-: not kept). A method whose gap is more than "
        "twice the Gaussian's has **failed**: it is no baseline. ± is the gain's standard error, over images "
        "and seeds (of one seed: over its images).",
        "",
        "| d | method | seeds | bound | gap | gain over the Gaussian | closed | cost | epochs | unconverged | "
        "in training | skipped |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in report["rows"]:
        gain = f"{r['gain']:.2f} ± {r['gain_error']:.2f}"
        lines.append(
            f"| {r['latent_dim']} | {r['method']} | {len(r['seeds'])} | {r['bound']:.2f} | {r['gap']:.2f} | {gain} | "
            f"{_closed(r['closed'])} | {_or_dash(r['cost'])} | {r['epochs']:.1f} | {r['unconverged']:.3%} | "
            f"{_training_share(r)} | {r['skipped_steps']} |"
        )
    lines += [
        "",
        "log p(x) of the test images by annealed importance sampling (± standard error over the images), and the "
        "effective size of its chains' weights (-: not kept); on images that the decoder made itself, the mean of the "
        "lower and of the upper estimate, and of their difference.",
        "",
        "| d | seed | log p(x), test images | ESS | lower, made images | upper | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for s in report["sandwich"]:
        lines.append(
            f"| {s['latent_dim']} | {s['seed']} | {s['log_likelihood']:.2f} ± {s['log_likelihood_error']:.2f} | "
            f"{_or_dash(s.get('effective_sample_size') or np.nan)} | "
            f"{s['lower']:.2f} | {s['upper']:.2f} | {s['width']:.3f} ± {s['width_error']:.3f} |"
        )
    lines += _position_table(report.get("position_dependence", []))
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
        "steps γ of the centre; weight e^a of the Fisher information in the metric; κ, how much of it depends on the "
        "position.",
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
        rounds = [v["centre_steps"] for v in own if "centre_steps" in v]
        gammas = ", ".join(f"{gamma:.2f}" for gamma in np.mean(rounds, axis=0)) if rounds else "-"
        step = mean("step_sizes")
        num_steps = r["num_steps"] if "num_steps" in r else METHODS[r["method"]].chain_length[1]
        cells = [_or_dash(step), _or_dash(step * (num_steps or np.nan))]
        cells += [_or_dash(_mean(ratios)), gammas]
        cells += [_or_dash(mean("fisher_weight")), _or_dash(mean("position_dependence"))]
        lines.append(f"| {r['latent_dim']} | {r['method']} | " + " | ".join(cells) + " |")
    return lines


def _closed(share: float) -> str:
    return "**failed**" if share < -1 else f"{share:.0%}"


def _training_share(row: dict) -> str:
    return f"{row['training_unconverged']:.3%}" if "training_unconverged" in row else "-"


def _or_dash(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


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
    stem = (options.results or options.study) / options.name
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
