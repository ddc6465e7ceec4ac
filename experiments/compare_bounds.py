"""Train several bounds on the same nets and seeds, for the same epochs or seconds, and put them side by side:
`python -m experiments.compare_bounds --data-dir DIR`.

Every run is an ordinary run of `experiments.train` under --folder; runs that are there already are not repeated, and
one that was cut off goes on from its checkpoint. Writes NAME.json, NAME.md and NAME.png under --results.
"""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import curves
from experiments.config import (
    CHARTED,
    DYNAMIC,
    TrainConfig,
    derivatives_per_image,
    fail_cleanly,
    preset,
)
from experiments.runs import RunFolder, build, environment, load_data, write_json
from experiments.train import train
from hmcvae import training
from hmcvae._checks import check_count


@dataclass(frozen=True)
class CompareConfig:
    """Train several presets on the same seeds, and tabulate them.

    Attributes:
        presets: what to train.
        seeds: how often.
        num_epochs: one number for all of them, or one for each preset.
        seconds: of training, instead of num_epochs: each run gets as many epochs as fit into them at the pace that its
            method has when all are timed in turns, and its learning rate falls to zero along them as a half cosine.
        warm_start: share of the seconds in which a plain VAE is trained first (at the constant rate, once for each
            seed); every other method goes on from there for the rest.
        monitor_samples: draws for each of a few test images in an estimate of log p(x) after every epoch, which the
            picture then shows below the bound; 0: none. Epochs that were trained without it stay without.
        eval_samples: draws for each test image in the estimate of log p(x).
        eval_images: test images for it.
        eval_temperatures: of annealed importance sampling on them; 0: none.
        data_dir: the data's folder.
        folder: where the runs are.
        results: where the table and the picture go.
        name: theirs.
    """

    presets: tuple[str, ...] = ("mnist_vae", "mnist_iwae", "mnist_hvi1", "mnist_hvi")
    seeds: tuple[int, ...] = (0, 1, 2)
    num_epochs: tuple[int, ...] = (30,)
    seconds: float = 0.0
    warm_start: float = 0.0
    monitor_samples: int = 0
    eval_samples: int = 300
    eval_images: int = 1000
    eval_temperatures: int = 0
    data_dir: Path | None = None
    folder: Path = Path("runs/compare")
    results: Path = Path("experiments/results")
    name: str = "mnist_bounds"

    def __post_init__(self):
        if not self.presets or not self.seeds:
            raise ValueError(f"expected presets and seeds, got {self.presets} and {self.seeds}")
        if len(self.num_epochs) not in (1, len(self.presets)):
            raise ValueError(
                f"num_epochs must be one number or one for each of {len(self.presets)} presets, got {self.num_epochs}"
            )

        check_count("monitor_samples", self.monitor_samples, 0)
        if self.seconds < 0 or not 0 <= self.warm_start < 1:
            raise ValueError(
                f"expected seconds of at least 0 and warm_start in [0, 1), got {self.seconds} and {self.warm_start}"
            )
        if self.warm_start and not (self.seconds and self.plain_vae):
            raise ValueError(
                f"warm_start needs seconds, and a plain VAE among the presets; got {self.seconds} and "
                f"{self.presets}"
            )

    @property
    def plain_vae(self) -> str | None:
        """The first preset that is a plain VAE: the one that a warm start trains."""
        return next((name for name in self.presets if preset(name).method == "vae"), None)

    @property
    def starts(self) -> Path:
        """Where the runs are that the others start from, and the plan."""
        return self.folder / "plan.json"

    def epochs(self, name: str) -> int:
        """The epochs of one preset: those given, or those of the plan."""
        if self.seconds:
            return json.loads(self.starts.read_text())["epochs"][name]
        return self.num_epochs[self.presets.index(name) if len(self.num_epochs) > 1 else 0]


WARM = "warm start"

LABELS = {"vae": "VAE", "iwae": "IWAE", "hvi": "HVI", "whitened": "whitened", "rhvi": "RHVI"}


def label(config: TrainConfig) -> str:
    """The method as a table names it."""
    name = LABELS[config.method]
    if config.method in CHARTED:
        name += f" ({config.metric}"
        name += f", {'random ' if config.random_directions else ''}rank {config.rank}" if config.rank else ""
        name += ", distilled" if config.distillation else ""
        name += f", recentred × {config.num_recentrings})" if config.num_recentrings else ")"
    if config.method in CHARTED and config.num_transitions == 0:
        name = name.replace("whitened", "full-covariance Gaussian").replace(
            "RHVI", "full-covariance Gaussian"
        )
    elif config.method in DYNAMIC:
        steps = f"{config.num_steps} leapfrog step" + ("s" if config.num_steps != 1 else "")
        name += f", {steps}" + (f" × {config.num_transitions}" if config.num_transitions > 1 else "")
        name += ", annealed" if config.annealed else ""
        name += "" if config.learned_momentum else ", standard momentum"
    return name + (f", K = {config.num_samples}" if config.num_samples > 1 else "")


def run_config(options: CompareConfig, name: str, seed: int) -> TrainConfig:
    """The config of one run of the comparison."""
    base = preset((options.plain_vae or "") if name == WARM else name)
    is_first = name == WARM or (options.warm_start and name == options.plain_vae)
    schedule = "cosine" if options.seconds and name != WARM else base.training.schedule
    train_options = dataclasses.replace(
        base.training, num_epochs=options.epochs(name), seed=seed, schedule=schedule
    )
    folder = options.folder / f"{name.replace(' ', '_')}-seed{seed}"
    start = options.folder / f"{WARM.replace(' ', '_')}-seed{seed}"
    return dataclasses.replace(
        base,
        training=train_options,
        data_dir=options.data_dir,
        monitor_samples=options.monitor_samples,
        eval_samples=options.eval_samples,
        eval_images=options.eval_images,
        eval_temperatures=options.eval_temperatures,
        start_from=start if options.warm_start and not is_first else None,
        run_dir=folder,
        resume=(folder / "config.json").is_file(),
    )


def make_plan(options: CompareConfig) -> None:
    """Write how many epochs each method gets in its seconds, unless that was done before.

    Raises:
        ValueError: if it was done with other seconds or another share, or without one of the presets.
    """
    own = {"seconds": options.seconds, "warm_start": options.warm_start}
    path = options.starts
    before = json.loads(path.read_text()) if path.is_file() else None
    if before is not None:
        if {key: before[key] for key in own} != own:
            raise ValueError(
                f"the plan in {path} is of other seconds or another share: {before}; expected {own}"
            )
        missing = set(options.presets) - set(before["epochs"])
        if missing:
            raise ValueError(
                f"the plan in {path} has no pace of {', '.join(sorted(missing))}: all methods are timed in turns, so "
                "give all presets, and another --folder"
            )
        return
    pace = time_epochs(options, num_images=6000)
    epochs = {}
    for name in options.presets:
        share = 1 - (options.warm_start if name != options.plain_vae else 0)
        epochs[name] = max(1, round(share * options.seconds / pace[name]))
    if options.warm_start and options.plain_vae:
        epochs[WARM] = max(1, round(options.warm_start * options.seconds / pace[options.plain_vae]))
    options.folder.mkdir(parents=True, exist_ok=True)
    write_json(path, own | {"epochs": epochs, "seconds_per_epoch": pace})


def run_one(config: TrainConfig) -> tuple[dict, list[dict]]:
    """(evaluation, records) of a run, trained now unless it is there whole."""
    run = RunFolder(config.folder)
    records, path = run.records(), config.folder / "evaluation.json"
    is_done = path.is_file() and records and records[-1]["epoch"] == config.training.num_epochs
    if is_done:
        result = json.loads(path.read_text())
        is_done = result["num_samples"] == config.eval_samples and result["num_images"] == config.eval_images
        is_done = is_done and result.get("ais", {}).get("num_temperatures", 0) == config.eval_temperatures
    if not is_done:
        _, result = train(config)
        records = run.records()
    return result, records


def row(name: str, runs: list[tuple[dict, list[dict]]]) -> dict:
    """One method's figures: means over its seeds, with standard errors over the seeds."""
    own = [list(result["proposals"].values())[-1] for result, _ in runs]
    encoder = [result["proposals"]["encoder"] for result, _ in runs]
    trained = [
        result.get("trained_bound", figures["bound"]) for (result, _), figures in zip(runs, own, strict=True)
    ]
    annealed = [result["ais"]["mean"] for result, _ in runs if "ais" in result]
    return {
        "method": name,
        "num_seeds": len(runs),
        "bound": _mean_and_error([value["mean"] for value in trained]),
        "log_likelihood": _mean_and_error([value["log_likelihood"]["mean"] for value in own]),
        "log_likelihood_encoder": _mean_and_error([value["log_likelihood"]["mean"] for value in encoder]),
        "log_likelihood_ais": _mean_and_error(annealed) if annealed else None,
        "gap": _mean_and_error([a - t["mean"] for a, t in zip(annealed, trained, strict=True)])
        if annealed
        else None,
        "unconverged": float(np.mean([value["unconverged"] for value in own])),
        "nonfinite": float(np.mean([value["nonfinite"] for value in own])),
        "clipped_steps": sum(records[-1]["clipped_steps"] for _, records in runs),
        "training_unconverged": float(np.mean([r["unconverged"] for _, records in runs for r in records])),
        "error_over_images": float(np.mean([value["log_likelihood"]["error"] for value in own])),
        "skipped_steps": sum(records[-1]["skipped_steps"] for _, records in runs),
        "active_units": float(np.mean([result["active_units"] for result, _ in runs])),
    }


def time_epochs(options: CompareConfig, num_rounds: int = 3, num_images: int = 0) -> dict[str, float]:
    """Seconds of an epoch by preset, the fastest of some rounds. Every round times each method once, so that
    whatever else the machine does falls on all of them; the trainings' own clocks ran at different times.
    With num_images, the epochs timed are of so many and the seconds in proportion."""
    prepared, factors = {}, {}
    for name in options.presets:
        config = dataclasses.replace(preset(name), data_dir=options.data_dir)
        dataset = load_data(config)
        model = build(config, dataset)
        optimizer = training.make_optimizer(config.training, len(dataset.train) // config.training.batch_size)
        epoch = training.make_epoch(
            model.bound, optimizer, config.training, dataset.max_value, model.binarize
        )
        state = training.init_state(model.params, optimizer, 0)
        images = jnp.asarray(dataset.train[: num_images or None])
        factors[name] = len(dataset.train) / len(images)
        jax.block_until_ready(epoch(state, images))
        prepared[name] = (epoch, state, images)
    seconds: dict[str, list[float]] = {name: [] for name in prepared}
    for _ in range(num_rounds):
        for name, (epoch, state, images) in prepared.items():
            start = time.perf_counter()
            jax.block_until_ready(epoch(state, images))
            seconds[name].append(time.perf_counter() - start)
    return {name: factors[name] * min(values) for name, values in seconds.items()}


def _mean_and_error(values: list) -> dict:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return {"mean": float(np.mean(values)), "error": error, "values": [float(value) for value in values]}


def _columns(has_ais: bool) -> tuple[str, ...]:
    ais = ("log_likelihood_ais", "gap") if has_ais else ()
    return ("bound", *ais, "log_likelihood", "log_likelihood_encoder")


def markdown(rows: list[dict], options: CompareConfig, command: str, machine: dict) -> str:
    """The table, with what one needs to repeat it."""
    has_ais = all(r["log_likelihood_ais"] for r in rows)
    extra = "log p(x), annealing | gap | " if has_ais else ""
    lines = [
        f"| method | bound | {extra}log p(x), own proposal | log p(x), encoder | seconds an epoch | seconds | "
        "active units | unconverged | in training | skipped steps |",
        "|---|---|---|---|---|---|---|---|---|---|" + ("---|---|" if has_ais else ""),
    ]
    for r in rows:
        cells = [_figure(r[key]) for key in _columns(has_ais)]
        cells += [f"{r['seconds_per_epoch']:.2f}", f"{r['seconds']:.0f}", f"{r['active_units']:.1f}"]
        cells += [f"{r['unconverged']:.3%}", f"{r['training_unconverged']:.3%}", f"{r['skipped_steps']}"]
        lines.append(f"| {r['method']} | " + " | ".join(cells) + " |")
    image_error = np.mean([r["error_over_images"] for r in rows])
    epochs = ", ".join(str(options.epochs(name)) for name in options.presets)
    if options.warm_start and options.plain_vae:
        epochs += f" (all but {label(preset(options.plain_vae))} after {options.epochs(WARM)} of it)"
    lines += [
        "",
        f"Nats; {_over(options.seeds, 'means ± standard errors')}. "
        f"Epochs: {epochs}. Test figures on {options.eval_images} evenly chosen test images, the same for all "
        f"(the images themselves add a standard error of about {image_error:.1f} that all rows share); "
        f"log p(x) by importance weighting with {options.eval_samples} draws an image, from the trained bound's own "
        "chain or from its encoder alone. "
        + (
            f"log p(x), annealing: {options.eval_temperatures} temperatures, 8 chains; the gap is it minus the bound. "
            if has_ais
            else ""
        )
        + "Seconds: the fastest of three epochs of each, timed in turns"
        + (f" (of 6,000 images); whole epochs nearest to {options.seconds:.0f}." if options.seconds else ".")
        + " Unconverged: share of the draws with an implicit solve that was not, in evaluation and in training.",
        "",
        f"Device: {machine['device']} ({machine['num_cpus']} cores), JAX {machine['jax']}. Command: `{command}`",
    ]
    return "\n".join(lines) + "\n"


def _figure(value: dict) -> str:
    """mean ± error, or the mean alone of a single seed."""
    return f"{value['mean']:.2f}" + ("" if math.isnan(value["error"]) else f" ± {value['error']:.2f}")


def _over(seeds: Sequence[int], what: str) -> str:
    if len(seeds) == 1:
        return f"one seed ({seeds[0]})"
    return f"{what} over {len(seeds)} seeds ({', '.join(map(str, seeds))})"


def compare(options: CompareConfig, command: str) -> list[dict]:
    """Train what is missing, and write the table and the picture."""
    if options.seconds:
        make_plan(options)
    # Seed by seed: a comparison that is cut off is then one of fewer seeds.
    found: dict[tuple[str, int], Any] = {}
    for seed in options.seeds:
        for name in ((WARM,) if options.warm_start else ()) + options.presets:
            found[name, seed] = run_one(run_config(options, name, seed))
    rows = [
        row(label(preset(name)), [found[name, seed] for seed in options.seeds]) for name in options.presets
    ]
    plan = json.loads(options.starts.read_text()) if options.seconds else None
    seconds = plan["seconds_per_epoch"] if plan else time_epochs(options)
    for name, values in zip(options.presets, rows, strict=True):
        values["seconds_per_epoch"] = seconds[name]
        values["seconds"] = options.epochs(name) * seconds[name]
        if options.warm_start and name != options.plain_vae:
            values["seconds"] += options.epochs(WARM) * seconds[options.plain_vae or ""]
    options.results.mkdir(parents=True, exist_ok=True)
    machine = environment()
    stem = options.results / options.name
    report = {
        "command": command,
        "environment": machine,
        "options": dataclasses.asdict(options),
        "rows": rows,
    }
    write_json(stem.with_suffix(".json"), json.loads(json.dumps(report, default=str)))
    stem.with_suffix(".md").write_text(markdown(rows, options, command, machine))
    records = {key: own for key, (_, own) in found.items()}
    _draw(options, records, seconds, stem.with_suffix(".png"))
    return rows


def _draw(
    options: CompareConfig, records: dict[tuple[str, int], list[dict]], seconds: dict[str, float], path: Path
) -> None:
    """The curves of all methods, from the records of each (preset, seed) and the seconds of an epoch."""
    quantities = curves.quantities(list(records.values()))
    if options.monitor_samples and len(quantities) == 1:
        print("log p(x) is not drawn: not every run has it for all of its epochs")

    def make(name: str) -> curves.Curve:
        # One clock for all: the trainings ran at different times, beside whatever else the machine did.
        base = (options.plain_vae or "") if name == WARM else name
        runs = [records[name, seed] for seed in options.seeds]
        return curves.make_curve(runs, quantities, seconds[base], derivatives_per_image(preset(base)))

    found = {name: make(name) for name in options.presets}
    if options.warm_start:
        before = make(WARM)
        found |= {name: curves.after(before, found[name]) for name in found if name != options.plain_vae}
    title = f"{preset(options.presets[0]).dataset}: {_over(options.seeds, 'mean')}"
    title += ", with bands of ± one standard error over them" if len(options.seeds) > 1 else ""
    if options.warm_start and options.plain_vae:
        vae = label(preset(options.plain_vae))
        title += f"\nall but {vae} go on from a {vae} of {options.warm_start * options.seconds:.3g} seconds"
    names = [label(preset(name)) for name in found]
    shown = [
        own if names.count(own) == 1 else f"{own} ({name})" for own, name in zip(names, found, strict=True)
    ]
    curves.draw(dict(zip(shown, found.values(), strict=True)), path, title)


def main() -> None:
    import tyro

    options = tyro.cli(CompareConfig, prog="python -m experiments.compare_bounds")
    command = "python -m experiments.compare_bounds " + " ".join(sys.argv[1:])
    compare(options, command.strip())
    print((options.results / options.name).with_suffix(".md").read_text())


if __name__ == "__main__":
    fail_cleanly(main)
