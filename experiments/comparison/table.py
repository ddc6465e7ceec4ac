"""The table of `experiments.compare_bounds`: a row for each method, and all of them in Markdown."""

import math
from collections.abc import Sequence

import numpy as np

from experiments.configs import preset
from experiments.reporting.reports import cell, device_line, markdown_table
from experiments.support.records import EpochRecord
from hmcvae.evaluation import MIN_EFFECTIVE_SAMPLE_SIZE

WARM = "warm start"


def row(name: str, runs: list[tuple[dict, list[EpochRecord]]]) -> dict:
    """One method's figures: means over its seeds, with standard errors over the seeds."""
    own = [list(result["proposals"].values())[-1] for result, _ in runs]
    encoder = [result["proposals"]["encoder"] for result, _ in runs]
    trained = [
        result.get("trained_bound", figures["bound"]) for (result, _), figures in zip(runs, own, strict=True)
    ]
    annealed = [result["ais"] for result, _ in runs if "ais" in result]
    return {
        "method": name,
        "num_seeds": len(runs),
        "bound": _mean_and_error([value["mean"] for value in trained]),
        "log_likelihood": _mean_and_error([value["log_likelihood"]["mean"] for value in own]),
        "log_likelihood_encoder": _mean_and_error([value["log_likelihood"]["mean"] for value in encoder]),
        "ess": _mean([value["effective_sample_size"] for value in own]),
        "ess_encoder": _mean([value["effective_sample_size"] for value in encoder]),
        "low_ess": max(value["low_ess"] for value in own),
        "low_ess_encoder": max(value["low_ess"] for value in encoder),
        **_annealed_row(annealed, [value["mean"] for value in trained]),
        "unconverged": _mean([value["unconverged"] for value in own]),
        "nonfinite": _mean([value["nonfinite"] for value in own]),
        "clipped_steps": sum(records[-1].clipped_steps for _, records in runs),
        "training_unconverged": _mean([record.unconverged for _, records in runs for record in records]),
        "error_over_images": _mean([value["log_likelihood"]["error"] for value in own]),
        "skipped_steps": sum(records[-1].skipped_steps for _, records in runs),
        "active_units": _mean([result["active_units"] for result, _ in runs]),
    }


def _annealed_row(annealed: list[dict], bounds: list[float]) -> dict:
    """log p(x) by annealing, the gap, and how sure it is: the sandwich's width and the weights' effective size."""
    if not annealed:
        return {"log_likelihood_ais": None, "gap": None, "ess_ais": None, "width": None}
    return {
        "log_likelihood_ais": _mean_and_error([ais["mean"] for ais in annealed]),
        "gap": _mean_and_error([ais["mean"] - bound for ais, bound in zip(annealed, bounds, strict=True)]),
        "ess_ais": _mean([ais["effective_sample_size"] for ais in annealed]),
        "num_chains": annealed[0]["num_chains"],
        "width": _mean_and_error([ais["made"]["width"]["mean"] for ais in annealed]),
        "num_made": annealed[0]["made"]["num_images"],
    }


def _mean(values: list) -> float:
    return float(np.mean(values))


def _mean_and_error(values: list) -> dict:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return {"mean": float(np.mean(values)), "error": error, "values": [float(value) for value in values]}


def plan_epochs(options: dict, pace: dict[str, float]) -> dict[str, int]:
    """How many epochs each preset, and the warm start, gets in its seconds, given the seconds of one of each."""
    vae, epochs = plain_vae(options["presets"]), {}
    for name in options["presets"]:
        share = 1 - (options["warm_start"] if name != vae else 0)
        epochs[name] = max(1, round(share * options["seconds"] / pace[name]))
    if options["warm_start"] and vae:
        epochs[WARM] = max(1, round(options["warm_start"] * options["seconds"] / pace[vae]))
    return epochs


def plain_vae(presets: Sequence[str]) -> str | None:
    """The first preset that is a plain VAE: the one that a warm start trains."""
    return next((name for name in presets if preset(name).method.is_plain_vae), None)


def epochs_of(options: dict, rows: list[dict]) -> dict[str, int]:
    """The epochs of each preset, and of the warm start."""
    if options["seconds"]:
        pace = {name: r["seconds_per_epoch"] for name, r in zip(options["presets"], rows, strict=True)}
        return plan_epochs(options, pace)
    given = options["num_epochs"]
    return {name: given[index if len(given) > 1 else 0] for index, name in enumerate(options["presets"])}


def total_seconds(report: dict) -> dict[str, float]:
    """Seconds of training of each preset, the warm start's among them."""
    options, rows = BEFORE | report["config"], report["rows"]
    epochs, vae = epochs_of(options, rows), plain_vae(options["presets"])
    pace = {name: r["seconds_per_epoch"] for name, r in zip(options["presets"], rows, strict=True)}
    warm = epochs.get(WARM, 0) * pace.get(vae or "", 0.0)
    return {name: epochs[name] * pace[name] + (warm if name != vae else 0.0) for name in pace}


# Options and figures that comparisons of before did not have.
BEFORE = {"seconds": 0.0, "warm_start": 0.0, "monitor_samples": 0, "eval_temperatures": 0}
ABSENT = "-"


def markdown(report: dict) -> str:
    """The table, with what one needs to repeat it."""
    options, rows = BEFORE | report["config"], report["rows"]
    epochs = epochs_of(options, rows)
    named = list(zip(options["presets"], rows, strict=True))
    has_ais = all(r.get("log_likelihood_ais") for r in rows)
    seconds = total_seconds(report)
    columns = ["method", "bound"]
    columns += ["log p(x), annealing (ESS)", "gap", "sandwich's width"] if has_ais else []
    columns += [
        "log p(x) by importance, own proposal (ESS)",
        "by importance, encoder (ESS)",
        "seconds an epoch",
    ]
    columns += ["seconds", "active units", "unconverged", "in training", "skipped steps"]
    cells = [
        [
            *(r["method"], _figure(r["bound"])),
            *(_annealed_cells(r) if has_ais else []),
            _with_ess(r["log_likelihood"], r.get("ess")),
            _with_ess(r["log_likelihood_encoder"], r.get("ess_encoder")),
            *(f"{r['seconds_per_epoch']:.2f}", f"{seconds[preset_name]:.0f}", f"{r['active_units']:.1f}"),
            *(_share(r.get("unconverged")), _share(r.get("training_unconverged")), f"{r['skipped_steps']}"),
        ]
        for preset_name, r in named
    ]
    lines = markdown_table(columns, cells, num_words=len(columns))
    notes = " ".join(_notes(options, rows, epochs, has_ais))
    return "\n".join([*lines, "", notes, "", _made_by(report)]) + "\n"


def _annealed_cells(r: dict) -> list[str]:
    width = _figure(r["width"]) if r.get("width") else ABSENT
    return [_with_ess(r["log_likelihood_ais"], r.get("ess_ais"), 1), _figure(r["gap"]), width]


def _made_by(report: dict) -> str:
    return f"Device: {device_line(report['environment'])}. Command: `{report['command']}`"


def _notes(options: dict, rows: list[dict], epochs: dict[str, int], has_ais: bool) -> list[str]:
    vae = plain_vae(options["presets"])
    given = ", ".join(str(epochs[name]) for name in options["presets"])
    if options["warm_start"] and vae:
        given += f" (all but {preset(vae).method.label} after {epochs[WARM]} of it)"
    image_error = np.mean([r["error_over_images"] for r in rows])
    notes = [
        f"Nats; {over(options['seeds'], 'means ± standard errors')}. Epochs: {given}.",
        f"Test figures on {options['eval_images']} evenly chosen test images, the same for all (the images themselves "
        f"add a standard error of about {image_error:.1f} that all rows share).",
    ]
    if has_ais:
        chains = rows[0].get("num_chains", 8)
        notes.append(
            f"log p(x), annealing: {options['eval_temperatures']} temperatures, {chains} chains, a lower bound in the "
            "mean, and what methods are compared by; in brackets the effective size of the chains' weights; the gap is "
            "it minus the bound."
        )
        notes.append(
            f"The sandwich: on {rows[0]['num_made']} images that each model made, the upper estimate minus the lower."
            if rows[0].get("width")
            else "No sandwich was made."
        )
    notes.append(
        f"log p(x) by importance: {options['eval_samples']} draws an image, from the trained bound's own chain or from "
        "its encoder alone; in brackets the effective size of the weights"
        + ("." if rows[0].get("ess") else ", which was not kept here (-).")
    )
    notes += caution(rows)
    notes.append(
        "Seconds: the fastest of three epochs of each, timed in turns"
        + (
            f" (of 6,000 images); whole epochs nearest to {options['seconds']:.0f}."
            if options["seconds"]
            else "."
        )
    )
    notes.append(
        "Unconverged: share of the draws with an implicit solve that was not, in evaluation and in training"
        + ("." if all("training_unconverged" in r for r in rows) else " (-: not kept).")
    )
    return notes


def caution(rows: list[dict]) -> list[str]:
    """A warning where some images' importance weights are too uneven, or it is not known of how many."""
    shares = [row.get(name) for row in rows for name in ("low_ess", "low_ess_encoder")]
    known = [share for share in shares if share is not None]
    few = f"fewer than {MIN_EFFECTIVE_SAMPLE_SIZE:.0f} effective draws"
    if len(known) < len(shares):
        how_many = f"the share of images with {few} was not kept"
    elif max(known) > 0:
        how_many = f"up to {max(known):.0%} of the images have {few}"
    else:
        return []
    return [
        f"**Caution**: {how_many}; of such images an importance-weighted log p(x) is too low, and more so for a worse "
        "proposal: rows are not to be compared by it."
    ]


def _with_ess(value: dict, ess: float | None, digits: int = 0) -> str:
    return f"{_figure(value)} ({cell(ess, f'.{digits}f', ABSENT)})"


def _share(value: float | None) -> str:
    return cell(value, ".3%", ABSENT)


def _figure(value: dict) -> str:
    """mean ± error, or the mean alone of a single seed."""
    return f"{value['mean']:.2f}" + ("" if math.isnan(value["error"]) else f" ± {value['error']:.2f}")


def over(seeds: Sequence[int], what: str) -> str:
    """What a figure of these seeds is."""
    if len(seeds) == 1:
        return f"one seed ({seeds[0]})"
    return f"{what} over {len(seeds)} seeds ({', '.join(map(str, seeds))})"


def short_table(report: dict) -> str:
    """The table as a page shows it: without what is the same for all rows."""
    options, rows = BEFORE | report["config"], report["rows"]
    has_ais = all(r.get("log_likelihood_ais") for r in rows)
    of = f"own proposal (ESS of {options['eval_samples']})"
    if has_ais:
        chains = rows[0].get("num_chains", 8)
        heads = ["bound", f"log p(x), annealing (ESS of {chains})", "gap", "sandwich's width"]
        heads += [f"log p(x) by importance, {of}"]
    else:
        heads = ["bound", f"log p(x) by importance, {of}", "by importance, encoder (ESS)"]
    columns = ["method", *heads, "seconds an epoch", "active units"]
    cells = [
        [
            *(r["method"], _figure(r["bound"])),
            *(_annealed_cells(r) if has_ais else []),
            _with_ess(r["log_likelihood"], r.get("ess")),
            *([] if has_ais else [_with_ess(r["log_likelihood_encoder"], r.get("ess_encoder"))]),
            *(f"{r['seconds_per_epoch']:.2f}", f"{r['active_units']:.1f}"),
        ]
        for r in rows
    ]
    lines = markdown_table(columns, cells, num_words=len(columns))
    notes = _notes(options, rows, epochs_of(options, rows), has_ais)[:-1]  # the last is of columns left out
    return "\n".join([*lines, "", " ".join(notes), "", _made_by(report)]) + "\n"


def prose(report: dict) -> str:
    """What four leapfrog steps are worth against epochs, with the learned momentum and without. log p(x) is told where
    annealing gives a reference estimate."""
    rows = {r["method"]: r for r in report["rows"]}
    key = "log_likelihood_ais" if all(r.get("log_likelihood_ais") for r in rows.values()) else None

    def gain(method: str) -> str:
        bound = rows[method]["bound"]["mean"] - rows["VAE"]["bound"]["mean"]
        if key is None:
            return f"{bound:.1f} nats of the bound"
        likelihood = rows[method][key]["mean"] - rows["VAE"][key]["mean"]
        return f"{bound:.1f} nats of the bound and {likelihood:.1f} of log p(x)"

    hvi = "HVI, 4 leapfrog steps"
    lines = [
        f"Against epochs, four leapfrog steps are worth {gain(hvi)} over the VAE. The momentum model matters: with the "
        "standard momentum q(v) = N(0, M) in place of a learned q(v | x, z) the same four steps are worth "
        f"{gain(f'{hvi}, standard momentum')}.",
        "Against seconds the VAE is ahead for as long as these runs last, since one of its epochs costs a quarter.",
    ]
    if key is None:
        lines.append(
            "How much of log p(x) they are worth is not said: by importance weights it is too low, and more so for "
            "the VAE."
        )
    return "\n".join(lines) + "\n"
