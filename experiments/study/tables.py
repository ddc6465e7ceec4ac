"""The tables of a study in Markdown, made from its report."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.reporting.reports import device_line, markdown_table
from experiments.study.methods import METHODS
from experiments.study.records import FLAT
from experiments.study.statistics import PositionRow, Row, Sandwich, Settings

ABSENT = "-"


def markdown(report: Mapping[str, Any]) -> str:
    """The page."""
    rows = [Row(**values) for values in report["rows"]]
    lines = [
        *_methods_table(rows, Settings.from_json(report["settings"])),
        *_sandwich_table([Sandwich(**values) for values in report["sandwich"]]),
        *position_table([PositionRow(**values) for values in report.get("position_dependence", [])]),
        *_learned_table(rows),
        "",
        f"`{report['command']}`, {device_line(report['environment'])}.",
    ]
    return "\n".join(lines) + "\n"


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    return markdown_table(columns, rows, num_words=len(columns))


def _methods_table(rows: list[Row], settings: Settings) -> list[str]:
    images = f"{settings.num_train} training images" if settings.num_train else "all training images"
    budget = (
        f"{settings.num_epochs:g} passes" if settings.num_epochs else f"{settings.seconds:.0f} CPU seconds"
    )
    columns = ["d", "method", "seeds", "bound", "gap", "gain over the Gaussian", "closed", "cost", "epochs"]
    columns += ["unconverged", "in training", "skipped"]
    cells = [
        [
            *(f"{r.latent_dim}", r.method, f"{len(r.seeds)}", f"{r.bound:.2f}", f"{r.gap:.2f}"),
            *(f"{r.gain:.2f} ± {r.gain_error:.2f}", _closed(r.closed), _or_dash(r.cost), f"{r.epochs:.1f}"),
            *(f"{r.unconverged:.3%}", _share(r.training_unconverged), f"{r.skipped_steps}"),
        ]
        for r in rows
    ]
    return [
        f"One decoder held fixed; encoder, dynamics and reverse model trained on {images} for about "
        f"{budget} a method; {settings.num_images} test images. Nats. The gap is "
        "log p(x) by annealed importance sampling minus the bound; closed: the share of the Gaussian's gap; cost: "
        f"seconds an epoch over those of {FLAT} (-: not in the study). Unconverged: the share of draws with an "
        "implicit solve that was not, in evaluation and in training (-: not kept). A method whose gap is more than "
        "twice the Gaussian's has **failed**: it is no baseline. ± is the gain's standard error, over images "
        "and seeds (of one seed: over its images).",
        "",
        *_table(columns, cells),
    ]


def _sandwich_table(found: list[Sandwich]) -> list[str]:
    columns = ["d", "seed", "log p(x), test images", "ESS", "lower, made images", "upper", "difference"]
    cells = [
        [
            *(f"{s.latent_dim}", f"{s.seed}", f"{s.log_likelihood:.2f} ± {s.log_likelihood_error:.2f}"),
            *(_or_dash(s.effective_sample_size), f"{s.lower:.2f}", f"{s.upper:.2f}"),
            f"{s.width:.3f} ± {s.width_error:.3f}",
        ]
        for s in found
    ]
    return [
        "",
        "log p(x) of the test images by annealed importance sampling (± standard error over the images), and the "
        "effective size of its chains' weights (-: not kept); on images that the decoder made itself, the mean of the "
        "lower and of the upper estimate, and of their difference.",
        "",
        *_table(columns, cells),
    ]


def position_table(found: list[PositionRow]) -> list[str]:
    """What position dependence adds; nothing, where the study does not ask."""
    if not found:
        return []
    columns = ["d", "method", "seeds", "variation", "gap without it", "gain", "median image"]
    columns += ["least varying third", "most varying", "unconverged in training"]
    cells = [
        [
            *(f"{r.latent_dim}", r.method, f"{len(r.seeds)}", f"{r.variation:.2f}", f"{r.gap_frozen:.3f}"),
            *(f"{r.gain:.3f} ± {r.gain_error:.3f}", f"{r.gain_median:.3f}", f"{r.gain_least:.3f}"),
            *(f"{r.gain_most:.3f}", f"{r.training_unconverged:.1%}"),
        ]
        for r in found
    ]
    return [
        "",
        "What position dependence adds: the gain in the bound over the same dynamics with the metric held constant "
        "(position dependence 0), in all and in the thirds of the images whose metric varies least and most over the "
        "posterior. "
        "Variation: the median image's root mean square of log eigenvalues of the metric, over its posterior, against "
        "that at the encoder's mean.",
        "",
        *_table(columns, cells),
    ]


def _learned_table(rows: list[Row]) -> list[str]:
    """What the dynamics' parameters came to: means over seeds and transitions, masses by their range."""
    columns = ["d", "method", "ε", "εL", "masses, largest : smallest", "γ", "e^a", "κ"]
    return [
        "",
        "As learned, means over the seeds (and transitions): step size ε and εL, in units of y (in whitened "
        "coordinates π/2 is a quarter of a period); the ratio of the largest to the smallest mass of the dynamics; "
        "steps γ of the centre; weight e^a of the Fisher information in the metric; κ, how much of it depends on the "
        "position.",
        "",
        *_table(columns, [_learned_cells(row) for row in rows if any(row.learned)]),
    ]


def _learned_cells(row: Row) -> list[str]:
    def of_seeds(name: str) -> list[np.ndarray]:
        return [np.asarray(values[name]) for values in row.learned if name in values]

    def mean(name: str) -> float | None:
        found = of_seeds(name)
        return float(np.mean([values.mean() for values in found])) if found else None

    num_steps = row.num_steps
    if num_steps is None and row.method in METHODS:  # reports of before did not keep it
        num_steps = METHODS[row.method].chain_length[1]
    step = mean("step_sizes")
    masses, rounds = of_seeds("log_masses"), of_seeds("centre_steps")
    ratio = np.mean([np.exp(np.ptp(own, axis=-1)).mean() for own in masses]) if masses else None
    gammas = ", ".join(f"{gamma:.2f}" for gamma in np.mean(rounds, axis=0)) if rounds else ABSENT
    return [
        *(f"{row.latent_dim}", row.method, _or_dash(step)),
        _or_dash(step * num_steps if step is not None and num_steps else None),
        *(_or_dash(ratio), gammas, _or_dash(mean("fisher_weight")), _or_dash(mean("position_dependence"))),
    ]


def _closed(share: float) -> str:
    return "**failed**" if share < -1 else f"{share:.0%}"


def _share(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3%}"


def _or_dash(value: Any) -> str:
    return ABSENT if value is None or np.isnan(value) else f"{value:.2f}"
