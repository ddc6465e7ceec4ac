"""Train several bounds on the same nets, seeds and epochs, and put them side by side:
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

import jax
import jax.numpy as jnp
import numpy as np

from experiments import plots
from experiments.config import CHARTED, DYNAMIC, TrainConfig, fail_cleanly, preset
from experiments.runs import RunFolder, build, environment, load_data, write_json
from experiments.train import train
from hmcvae import training


@dataclass(frozen=True)
class CompareConfig:
    """Train several presets on the same seeds, and tabulate them.

    Attributes:
        presets: what to train.
        seeds: how often.
        num_epochs: one number for all of them, or one for each preset.
        eval_samples: draws for each test image in the estimate of log p(x).
        eval_images: test images for it.
        data_dir: the data's folder.
        folder: where the runs are.
        results: where the table and the picture go.
        name: theirs.
    """

    presets: tuple[str, ...] = ("mnist_vae", "mnist_iwae", "mnist_hvi1", "mnist_hvi")
    seeds: tuple[int, ...] = (0, 1, 2)
    num_epochs: tuple[int, ...] = (30,)
    eval_samples: int = 300
    eval_images: int = 1000
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

    def epochs(self, name: str) -> int:
        """The epochs of one preset."""
        return self.num_epochs[self.presets.index(name) if len(self.num_epochs) > 1 else 0]


LABELS = {"vae": "VAE", "iwae": "IWAE", "hvi": "HVI", "whitened": "whitened", "rhvi": "RHVI"}


def label(config: TrainConfig) -> str:
    """The method as a table names it."""
    name = LABELS[config.method]
    if config.method in CHARTED:
        name += f" ({config.metric}"
        name += f", recentred × {config.num_recentrings})" if config.num_recentrings else ")"
    if config.method in DYNAMIC:
        steps = f"{config.num_steps} leapfrog step" + ("s" if config.num_steps != 1 else "")
        name += f", {steps}" + (f" × {config.num_transitions}" if config.num_transitions > 1 else "")
        name += ", annealed" if config.annealed else ""
        name += "" if config.learned_momentum else ", standard momentum"
    return name + (f", K = {config.num_samples}" if config.num_samples > 1 else "")


def run_config(options: CompareConfig, name: str, seed: int) -> TrainConfig:
    """The config of one run of the comparison."""
    base = preset(name)
    train_options = dataclasses.replace(base.training, num_epochs=options.epochs(name), seed=seed)
    folder = options.folder / f"{name}-seed{seed}"
    return dataclasses.replace(
        base,
        training=train_options,
        data_dir=options.data_dir,
        eval_samples=options.eval_samples,
        eval_images=options.eval_images,
        run_dir=folder,
        resume=(folder / "config.json").is_file(),
    )


def run_one(config: TrainConfig) -> tuple[dict, list[dict]]:
    """(evaluation, records) of a run, trained now unless it is there whole."""
    run = RunFolder(config.folder)
    records, path = run.records(), config.folder / "evaluation.json"
    is_done = path.is_file() and records and records[-1]["epoch"] == config.training.num_epochs
    if is_done:
        result = json.loads(path.read_text())
        is_done = result["num_samples"] == config.eval_samples and result["num_images"] == config.eval_images
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
    return {
        "method": name,
        "num_seeds": len(runs),
        "bound": _mean_and_error([value["mean"] for value in trained]),
        "log_likelihood": _mean_and_error([value["log_likelihood"]["mean"] for value in own]),
        "log_likelihood_encoder": _mean_and_error([value["log_likelihood"]["mean"] for value in encoder]),
        "error_over_images": float(np.mean([value["log_likelihood"]["error"] for value in own])),
        "skipped_steps": sum(records[-1]["skipped_steps"] for _, records in runs),
        "active_units": float(np.mean([result["active_units"] for result, _ in runs])),
    }


def time_epochs(options: CompareConfig, num_rounds: int = 3) -> dict[str, float]:
    """Seconds of an epoch by preset, the fastest of some rounds. Every round times each method once, so that
    whatever else the machine does falls on all of them; the trainings' own clocks ran at different times."""
    prepared = {}
    for name in options.presets:
        config = run_config(options, name, options.seeds[0])
        dataset = load_data(config)
        model = build(config, dataset)
        optimizer = training.make_optimizer(config.training, len(dataset.train) // config.training.batch_size)
        epoch = training.make_epoch(
            model.bound, optimizer, config.training, dataset.max_value, model.binarize
        )
        state = training.init_state(model.params, optimizer, 0)
        images = jnp.asarray(dataset.train)
        jax.block_until_ready(epoch(state, images))
        prepared[name] = (epoch, state, images)
    seconds: dict[str, list[float]] = {name: [] for name in prepared}
    for _ in range(num_rounds):
        for name, (epoch, state, images) in prepared.items():
            start = time.perf_counter()
            jax.block_until_ready(epoch(state, images))
            seconds[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in seconds.items()}


def _mean_and_error(values: list) -> dict:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return {"mean": float(np.mean(values)), "error": error, "values": [float(value) for value in values]}


def markdown(rows: list[dict], options: CompareConfig, command: str, machine: dict) -> str:
    """The table, with what one needs to repeat it."""
    lines = [
        "| method | bound | log p(x), own proposal | log p(x), encoder | seconds an epoch | active units |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        cells = [_figure(r[key]) for key in ("bound", "log_likelihood", "log_likelihood_encoder")]
        cells += [f"{r['seconds_per_epoch']:.2f}", f"{r['active_units']:.1f}"]
        lines.append(f"| {r['method']} | " + " | ".join(cells) + " |")
    image_error = np.mean([r["error_over_images"] for r in rows])
    epochs = ", ".join(str(options.epochs(name)) for name in options.presets)
    lines += [
        "",
        f"Nats; {_over(options.seeds, 'means ± standard errors')}. "
        f"Epochs: {epochs}. Test figures on {options.eval_images} evenly chosen test images, the same for all "
        f"(the images themselves add a standard error of about {image_error:.1f} that all rows share); "
        f"log p(x) by importance weighting with {options.eval_samples} draws an image, from the trained bound's own "
        "chain or from its encoder alone. Seconds: the fastest of three epochs of each, timed in turns.",
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
    rows, curves = [], {}
    for name in options.presets:
        runs = [run_one(run_config(options, name, seed)) for seed in options.seeds]
        method = label(preset(name))
        rows.append(row(method, runs))
        curves[name] = _mean_records([records for _, records in runs])
    seconds = time_epochs(options)
    for name, values in zip(options.presets, rows, strict=True):
        values["seconds_per_epoch"] = seconds[name]
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
    # One clock for all: the trainings ran at different times, beside whatever else the machine did.
    clocked = {
        label(preset(name)): [record | {"seconds": seconds[name]} for record in records]
        for name, records in curves.items()
    }
    title = f"{preset(options.presets[0]).dataset}: {_over(options.seeds, 'mean')}"
    shown_from = min(options.num_epochs) // 6
    clock = "seconds of training, at the fastest epoch's pace"
    plots.bound_curves(clocked, "test", stem.with_suffix(".png"), title, shown_from, clock)
    return rows


def _mean_records(runs: list[list[dict]]) -> list[dict]:
    """Epoch by epoch, the means over the seeds."""
    keys = ("epoch", "seconds", "bound", "test_bound")
    return [
        {key: float(np.mean([r[key] for r in group])) for key in keys} for group in zip(*runs, strict=True)
    ]


def main() -> None:
    import tyro

    options = tyro.cli(CompareConfig, prog="python -m experiments.compare_bounds")
    command = "python -m experiments.compare_bounds " + " ".join(sys.argv[1:])
    compare(options, command.strip())
    print((options.results / options.name).with_suffix(".md").read_text())


if __name__ == "__main__":
    fail_cleanly(main)
