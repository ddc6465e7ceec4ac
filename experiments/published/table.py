"""A row for each method, and the published figures below them, in Markdown and in LaTeX."""

import math
from typing import Any

import numpy as np

from experiments.reporting.reports import bits_per_dimension, cell, device_line, markdown_table, plural

ABSENT = "-"
COLUMNS = [
    "method",
    "seeds",
    "bound",
    "log p(x), importance (ESS)",
    "log p(x), bound + gap",
    "gap",
    "sandwich",
]
COLUMNS += ["epochs", "seconds", "rate"]
# Mean effective sizes of the annealed weights: of test images, and of made ones from below and from above.
_SIZES = ("effective_sample_size", "lower_effective_sample_size", "upper_effective_sample_size")
# Of images with levels.
BITS = {"bound": "bits/dim, bound", "log_likelihood": "bits/dim, log p(x)"}


def row(name: str, label: str, pace: float, found: list[dict], search: dict) -> dict:
    """One method's figures: means over its seeds, with standard errors over them."""
    annealed = [own["ais"] for own in found if "ais" in own]

    def of(key: str) -> dict:
        return over_seeds([own[key]["mean"] for own in found])

    own: dict[str, Any] = {
        "name": name,
        "method": label,
        "num_seeds": len(found),
        "bound": of("bound"),
        "log_likelihood": of("log_likelihood"),
        "error_over_images": float(np.mean([values["log_likelihood"]["error"] for values in found])),
        "ais": None,
        "seconds_per_epoch": pace,
        "search": search,
    }
    for key in (
        "ess",
        "low_ess",
        "nonfinite",
        "active_units",
        "skipped_steps",
        "epochs",
        "epoch",
        "num_images",
    ):
        own[key] = float(np.mean([values[key] for values in found]))
    own["num_train"] = found[0]["num_train"]
    if "num_dimensions" in found[0]:
        dimensions = found[0]["num_dimensions"]
        own["bits"] = {key: bits_per_dimension(own[key]["mean"], dimensions) for key in BITS}
    if annealed:
        own["ais"] = {
            "log_likelihood": over_seeds([values["mean"] for values in annealed]),
            "gap": over_seeds([values["gap"]["mean"] for values in annealed]),
            "gap_error": float(np.mean([values["gap"]["error"] for values in annealed])),
            "width": over_seeds([values["width"]["mean"] for values in annealed]),
            "num_images": annealed[0]["num_images"],
            "num_made": annealed[0]["num_made"],
            "ess": float(np.mean([values["effective_sample_size"] for values in annealed])),
            "least_ess": min(values[size] for values in annealed for size in _SIZES),
            "nonfinite": max(values["nonfinite"] for values in annealed),
        }
    return own


def over_seeds(values: list[float]) -> dict:
    """Their mean, its standard error (None for one seed, which has none), and themselves."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "error": error, "values": [float(value) for value in values]}


def figure(value: dict | None) -> str:
    """mean ± error, the mean alone of a single seed, or that it was not measured."""
    if value is None:
        return ABSENT
    return f"{value['mean']:.2f}" + (f" ± {value['error']:.2f}" if value["error"] is not None else "")


def with_gap(own: dict) -> dict | None:
    """log p(x) of all images: the bound of all plus the gap of those that were annealed.

    The mean by annealing itself is of these alone, and some images are by tens of nats more likely than others; the gap
    hardly depends on which they are."""
    if own["ais"] is None:
        return None
    pairs = zip(own["bound"]["values"], own["ais"]["gap"]["values"], strict=False)
    return over_seeds([bound + gap for bound, gap in pairs])


def _annealed_cells(own: dict) -> list[str]:
    gap = None if own["ais"] is None else own["ais"]["gap"]
    return [figure(with_gap(own)), figure(gap)]


def _cells(own: dict) -> list[str]:
    chosen = own["search"]["chosen"]
    step = chosen["initial_step_size"]
    return [
        *(own["method"], f"{own['num_seeds']}", figure(own["bound"])),
        f"{figure(own['log_likelihood'])} ({own['ess']:.0f})",
        *_annealed_cells(own),
        figure(None if own["ais"] is None else own["ais"]["width"]),
        *(f"{own['epochs']:.0f}", f"{own['epochs'] * own['seconds_per_epoch']:.0f}"),
        f"{chosen['learning_rate']:g}" + (f", ε {step:.2g}" if step is not None else ""),
        *_bits(own),
    ]


def _bits(own: dict) -> list[str]:
    return [f"{own['bits'][key]:.3f}" for key in BITS] if "bits" in own else []


def _published_cells(own: dict) -> list[str]:
    return [
        *(own["method"], cell(own["bound"], ".2f", ABSENT), cell(own["log_likelihood"], ".2f", ABSENT)),
        *(own["how"], own["source"], own["differs"]),
    ]


def markdown(report: dict) -> str:
    """The page: our rows, the published ones, and how both came about."""
    options, rows, net = report["config"], report["rows"], report["net"]
    options = options | {name: report.get(name) for name in ("start_from", "start_method")}
    lines = [f"{net['summary']} ({net['source']}). Nats on the test set.", ""]
    columns = COLUMNS + list(BITS.values()) * any("bits" in own for own in rows)
    lines += markdown_table(columns, [_cells(own) for own in rows])
    lines += ["", " ".join(notes(options, rows)) if rows else "No method has been trained.", ""]
    lines += [
        line
        for own in report["failed"]
        for line in (f"**Failed**: {own['method']}, seed {own['seed']}: {own['why']}", "")
    ]
    missing = [f"{own['method']}, seed {own['seed']}" for own in report.get("missing", [])]
    lines += [f"**Not yet**: {'; '.join(missing)}.", ""] if missing else []
    if report["published"]:
        columns = ["published", "bound", "log p(x)", "estimator", "source", "what differs"]
        lines += markdown_table(columns, [_published_cells(own) for own in report["published"]], len(columns))
        lines += ["", "Published figures are quoted from their sources; none was run here.", ""]
    else:
        lines += ["No figures are published on this net.", ""]
    own_rows = [own for own in rows if not own["name"].endswith("-before")]
    names = "; ".join(f"`{own['name']}`: {own['method']}" for own in own_rows)
    lines += [f"By name: {names}.", ""] if names else []
    lines += [f"`{report['command']}`, {device_line(report['environment'])}."]
    return "\n".join(lines) + "\n"


def short_table(report: dict) -> str:
    """Our rows among the published ones, from the lowest log p(x) to the highest, and how ours came about."""
    options, rows, machine = report["config"], report["rows"], report["environment"]
    is_cpu = machine["device"] == "cpu"
    place = plural(machine["num_cpus"], "CPU core") if is_cpu else machine["device"]
    found = []
    for own in rows:
        minutes = own["epochs"] * own["seconds_per_epoch"] / 60
        how = f"{options['eval_samples']} importance samples"
        how += "" if own["num_images"] == 10000 else f", {own['num_images']:.0f} images"
        trained = f"{own['epochs']:.0f} epochs, {minutes:.0f} minutes on {place}"
        value = figure(own["log_likelihood"])
        cells = [f"**{own['method']}**", figure(own["bound"]), f"**{value}**", how, trained, "here"]
        mean = own["log_likelihood"]["mean"]
        found.append((-math.inf if math.isnan(mean) else mean, cells))
    for own in report["published"]:
        if own["log_likelihood"] is not None:
            cells = _published_cells(own)
            cells[4], cells[5] = cells[5], cells[4]
            found.append((own["log_likelihood"], cells))
    columns = ["method", "bound", "log p(x)", "estimator", "training", "by"]
    cells = [own for _, own in sorted(found, key=lambda pair: pair[0])]
    lines = markdown_table(columns, cells, len(columns))
    if rows:
        sentences = [
            f"Ours by {_optimizer(options)}, the parameters the best on held-out training images; the images add a "
            f"standard error of about {rows[0]['error_over_images']:.2f} to our log p(x).",
            *_caution(rows),
            "Published figures are quoted from their sources, not run here.",
        ]
        lines += ["", " ".join(sentences)]
    return "\n".join(lines) + "\n"


def _optimizer(options: dict) -> str:
    return options.get("optimizer", "adam").capitalize()


def _caution(rows: list[dict]) -> list[str]:
    """A sentence of images with few effective draws, if there are any."""
    worst = max(rows, key=lambda own: own["low_ess"])
    if not worst["low_ess"] > 0:
        return []
    return [
        f"**Caution**: up to {worst['low_ess']:.0%} of the images ({worst['method']}) have fewer than 100 effective "
        "draws, where importance sampling is too low by an unknown amount."
    ]


def notes(options: dict, rows: list[dict]) -> list[str]:
    """How our rows came about, in sentences."""
    first = rows[0]
    spent = f"{options['num_epochs']} epochs" if options["num_epochs"] else f"{options['seconds']:g} seconds"
    images = f" on {first['num_train']:,} images" if "num_train" in first else ""
    found = [
        f"Each method was trained for {spent}{images}, {_optimizer(options)}'s rate falling to zero as a half cosine; "
        "the parameters kept are the best on held-out training images.",
        "Seconds: epochs times the fastest of three timed in turns with the other methods'.",
        f"log p(x), importance: {options['eval_samples']} draws of the method's own posterior (of a chain, where it "
        f"starts) for each of {first['num_images']:.0f} images, in brackets the mean effective number of draws; "
        f"the images add a standard error of about {first['error_over_images']:.2f} that all rows share.",
    ]
    if options["start_method"]:
        found.append(
            f"All went on from the end of {options['start_method']} in {options['start_from']}; its row is the first, "
            "and the epochs and seconds of the others are those that followed."
        )
    elif options["start_from"]:
        start = options["start_from"]
        found.append(
            f"It went on from the end of its run in {start}, whose epochs and seconds are counted in."
        )
    if options["num_trials"] > 1:
        found.append(
            f"Rate (and first step size ε): the best of {plural(options['num_trials'], 'trial')} of "
            f"{_trials(options, rows)}, by log p(x) of held-out training images."
        )
    else:
        found.append("No rate was searched for.")
    if first["ais"]:
        found += [_annealing(options, rows), *_annealing_cautions(options, rows)]
    return [*found, *_caution(rows)]


def _trials(options: dict, rows: list[dict]) -> str:
    """How long they were: whole epochs, so of short trainings not the share that was asked for."""
    lengths = sorted({own["search"]["asked"]["epochs"] for own in rows if "asked" in own["search"]})
    share = f"{options['trial_share']:.0%} of that length"
    if not lengths:
        return share
    count = plural(lengths[-1], "epoch")
    return f"{share}, in whole epochs {count if len(lengths) == 1 else f'{lengths[0]} to {count}'}"


def _annealing(options: dict, rows: list[dict]) -> str:
    """What the gap and the sandwich are, and how well the gap is known."""
    first = rows[0]["ais"]
    errors = [own["ais"]["gap_error"] for own in rows if own["ais"] and "gap_error" in own["ais"]]
    error = f", which leave it a standard error of up to {max(errors):.2f}" if errors else ""
    how = f"{options['ais_temperatures']} temperatures, {options['ais_chains']} chains"
    return (
        f"The gap: log p(x) by annealing ({how}; a lower bound in the mean) minus the bound, on the same "
        f"{first['num_images']} of the images{error}; bound + gap: the bound of all images plus the gap of these. The "
        f"sandwich: on {first['num_made']} images that each model made, the estimate from above minus that from below."
    )


def _annealing_cautions(options: dict, rows: list[dict]) -> list[str]:
    """Of weights that one chain carries, in any of the three estimates, or that are not finite; both were not always
    kept."""
    annealed, num_chains = [own["ais"] for own in rows if own["ais"]], options["ais_chains"]
    least = min((ais["least_ess"] for ais in annealed if "least_ess" in ais), default=num_chains)
    share = max((ais["nonfinite"] for ais in annealed if "nonfinite" in ais), default=0.0)
    found = []
    if not least >= num_chains / 2:
        found.append(
            f"**Caution**: annealed weights have an effective size of only {least:.1f} of {num_chains} chains: take "
            "more temperatures."
        )
    if share > 0:
        found.append(f"**Caution**: up to {share:.2%} of the annealed weights are not finite.")
    return found


def latex(report: dict) -> str:
    """Both tables as one LaTeX tabular (booktabs): our rows above the rule, the published below."""
    rows = report["rows"]
    columns = ["method", "bound", r"$\log p(x)$, importance", r"$\log p(x)$, annealing or bound + gap", "gap"]
    columns += ["bits/dim, bound", r"bits/dim, $\log p(x)$"] * any("bits" in own for own in rows)
    lines = [
        f"% {report['command']}",
        rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"\toprule",
        _line(columns),
        r"\midrule",
    ]
    for own in rows:
        cells = [figure(own["bound"]), figure(own["log_likelihood"]), *_annealed_cells(own), *_bits(own)]
        lines.append(_line([_escaped(own["method"]), *map(_math, cells)]))
    if report["published"]:
        lines.append(r"\midrule")
    for own in report["published"]:
        values = [cell(own[key], ".2f", ABSENT) for key in ("bound", "log_likelihood")]
        is_annealed = own["how"].startswith("AIS")
        placed = [ABSENT, values[1]] if is_annealed else [values[1], ABSENT]
        absent = [ABSENT] * (len(columns) - 4)
        name = _escaped(f"{own['method']} ({own['source']})")
        lines.append(_line([name, *map(_math, (values[0], *placed, *absent))]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escaped(name: str) -> str:
    return name.replace("&", r"\&").replace("×", r"$\times$").replace("±", r"$\pm$").replace("η", r"$\eta$")


def _math(text: str) -> str:
    return "--" if text == ABSENT else f"${text.replace('±', chr(92) + 'pm')}$"
