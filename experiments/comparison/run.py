"""Train several bounds on the same nets and seeds, for the same epochs or seconds, and put them side by side:
`python -m experiments.compare_bounds --data-dir DIR`.

Every run is an ordinary run of `experiments.train` under --folder; runs that are there already are not repeated, and
one that was cut off goes on from its checkpoint. Methods are compared by log p(x) from annealing. Writes NAME.json,
NAME.md and NAME.png into --results, by default --folder.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.comparison.table import WARM, markdown, over, plain_vae, plan_epochs, row
from experiments.configs import MAX_TEMPERATURES, PRESETS, TrainConfig, differences, preset
from experiments.reporting import curves
from experiments.reporting.reports import command_line, make_report, write_report
from experiments.runs.evaluation import EvaluateConfig, evaluate_run, evaluation_name
from experiments.runs.folder import RunFolder
from experiments.runs.pace import seconds_per_epoch
from experiments.runs.training import train
from experiments.support.checks import check_choices, check_fields, check_images, check_number, check_whole
from experiments.support.files import check_writable, read_json, with_ending, write_json
from experiments.support.records import EpochRecord
from hmcvae._checks import check_seed


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
        eval_samples: draws for each test image in the importance-weighted estimate of log p(x).
        eval_images: test images for it.
        eval_temperatures: of annealed importance sampling on them, for the reference estimate of log p(x); 0: none,
            and then methods whose proposals are of unequal quality cannot be compared in it.
        data_dir: the data's folder.
        download: let tensorflow-datasets download the data.
        folder: where the runs are.
        results: where the table and the picture go, by default the folder.
        name: theirs.
    """

    presets: tuple[str, ...] = ("mnist_vae", "mnist_iwae", "mnist_hvi1", "mnist_hvi")
    seeds: tuple[int, ...] = (0, 1, 2)
    num_epochs: tuple[int, ...] = (30,)
    seconds: float = 0.0
    warm_start: float = 0.0
    monitor_samples: int = 0
    eval_samples: int = 300
    eval_images: int = 200
    eval_temperatures: int = 300
    data_dir: Path | None = None
    download: bool = False
    folder: Path = Path("runs/compare")
    results: Path | None = None
    name: str = "mnist_bounds"

    def __post_init__(self):
        if not self.presets or not self.seeds:
            raise ValueError(f"expected presets and seeds, got {self.presets} and {self.seeds}")
        check_choices("presets", self.presets, PRESETS)
        check_fields(
            self,
            {
                "seeds": check_seed,
                "num_epochs": check_whole(1),
                "seconds": check_number(0),
                "warm_start": check_number(0, 1),
                "monitor_samples": check_whole(0),
                "eval_samples": check_whole(1),
                "eval_images": check_images(),
                "eval_temperatures": check_whole(0, MAX_TEMPERATURES),
            },
        )
        if len(self.num_epochs) not in (1, len(self.presets)):
            raise ValueError(
                f"num_epochs must be one number or one for each of {len(self.presets)} presets, got {self.num_epochs}"
            )
        if self.warm_start == 1:
            raise ValueError("warm_start must be below 1, or nothing is left for the methods; got 1")
        if self.warm_start and not (self.seconds and self.plain_vae):
            raise ValueError(
                f"warm_start needs seconds, and a plain VAE among the presets; got {self.seconds} and "
                f"{self.presets}"
            )

    @property
    def plain_vae(self) -> str | None:
        """See `comparison.table.plain_vae`."""
        return plain_vae(self.presets)

    @property
    def plan_path(self) -> Path:
        """Where the epochs stand that fit into the seconds, see `make_plan`."""
        return self.folder / "plan.json"

    def epochs(self, name: str) -> int:
        """The epochs of one preset: those given, or those of the plan."""
        if self.seconds:
            return read_json(self.plan_path)["epochs"][name]
        return self.num_epochs[self.presets.index(name) if len(self.num_epochs) > 1 else 0]


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
        download=options.download,
        monitor_samples=options.monitor_samples,
        eval_samples=options.eval_samples,
        eval_images=options.eval_images,
        # What the others start from is in no row.
        eval_temperatures=0 if name == WARM else options.eval_temperatures,
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
    path = options.plan_path
    before = read_json(path) if path.is_file() else None
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
    pace = seconds_per_epoch(_timed(options), num_images=6000)
    epochs = plan_epochs(dataclasses.asdict(options), pace)
    options.folder.mkdir(parents=True, exist_ok=True)
    write_json(path, own | {"epochs": epochs, "seconds_per_epoch": pace})


def run_one(config: TrainConfig) -> tuple[dict, list[EpochRecord]]:
    """(evaluation, records) of a run: trained now unless it is there whole, and evaluated now unless that was done with
    these settings.

    Raises:
        ValueError: if the run that is there is of another config.
    """
    run = RunFolder(config.folder)
    records = run.records()
    if not records or records[-1].epoch != config.training.num_epochs:
        _, result = train(config)
        return result, run.records()
    # Folders may be moved, and what a run started with goes with them.
    changed = [line for line in differences(run.config(), config) if not line.startswith("start_from: ")]
    if changed:
        raise ValueError(
            f"the run in {run.folder} is of another config: {'; '.join(changed)}; give another --folder"
        )
    options = EvaluateConfig(
        run.folder,
        num_samples=config.eval_samples,
        num_images=config.eval_images,
        num_temperatures=config.eval_temperatures,
        data_dir=config.data_dir,
        download=config.download,
    )
    name = evaluation_name(options, records[-1].epoch, config.eval_images)
    for path in (run.folder / "evaluation.json", run.folder / name):
        if path.is_file() and _is_of(read_json(path), config):
            return read_json(path), records
    return evaluate_run(options), records


def _is_of(result: dict, config: TrainConfig) -> bool:
    """Whether an evaluation is of these settings, and has all that the table shows."""
    ais = result.get("ais", {})
    return (
        result["num_samples"] == config.eval_samples
        and result["num_images"] == config.eval_images
        and ais.get("num_temperatures", 0) == config.eval_temperatures
        and ("made" in ais or not config.eval_temperatures)
        and all("low_ess" in figures for figures in result["proposals"].values())
    )


def _timed(options: CompareConfig) -> dict[str, TrainConfig]:
    return {
        name: dataclasses.replace(preset(name), data_dir=options.data_dir, download=options.download)
        for name in options.presets
    }


def compare(options: CompareConfig, command: str) -> list[dict]:
    """Train and evaluate what is missing, and write the table and the picture."""
    results = options.results or options.folder
    check_writable(results)
    if options.seconds:
        make_plan(options)
    # Seed by seed: a comparison that is cut off is then one of fewer seeds.
    found: dict[tuple[str, int], Any] = {}
    for seed in options.seeds:
        for name in ((WARM,) if options.warm_start else ()) + options.presets:
            found[name, seed] = run_one(run_config(options, name, seed))
    rows = [
        row(preset(name).method.label, [found[name, seed] for seed in options.seeds])
        for name in options.presets
    ]
    plan = read_json(options.plan_path) if options.seconds else None
    seconds = plan["seconds_per_epoch"] if plan else seconds_per_epoch(_timed(options))
    for name, values in zip(options.presets, rows, strict=True):
        values["seconds_per_epoch"] = seconds[name]
        values["seconds"] = options.epochs(name) * seconds[name]
        if options.warm_start and name != options.plain_vae:
            values["seconds"] += options.epochs(WARM) * seconds[options.plain_vae or ""]
    stem = results / options.name
    write_report(stem, make_report(command, options, {"rows": rows}), markdown)
    records = {key: own for key, (_, own) in found.items()}
    _draw(options, records, seconds, with_ending(stem, ".png"))
    return rows


def _draw(
    options: CompareConfig,
    records: dict[tuple[str, int], list[EpochRecord]],
    seconds: dict[str, float],
    path: Path,
) -> None:
    """The curves of all methods, from the records of each (preset, seed) and the seconds of an epoch."""
    quantities = curves.quantities(list(records.values()))
    if options.monitor_samples and len(quantities) == 1:
        print("log p(x) is not drawn: not every run has it for all of its epochs")

    def make(name: str) -> curves.Curve:
        # One clock for all: the trainings ran at different times, beside whatever else the machine did.
        base = (options.plain_vae or "") if name == WARM else name
        runs = [records[name, seed] for seed in options.seeds]
        return curves.make_curve(runs, quantities, seconds[base], preset(base).derivatives_per_image)

    found = {name: make(name) for name in options.presets}
    if options.warm_start:
        before = make(WARM)
        found |= {name: curves.after(before, found[name]) for name in found if name != options.plain_vae}
    title = f"{preset(options.presets[0]).dataset}: {over(options.seeds, 'mean')}"
    title += ", with bands of ± one standard error over them" if len(options.seeds) > 1 else ""
    if options.warm_start and options.plain_vae:
        vae = preset(options.plain_vae).method.label
        title += f"\nall but {vae} go on from a {vae} of {options.warm_start * options.seconds:.3g} seconds"
    names = [preset(name).method.label for name in found]
    shown = [
        own if names.count(own) == 1 else f"{own} ({name})" for own, name in zip(names, found, strict=True)
    ]
    curves.draw(dict(zip(shown, found.values(), strict=True)), path, title)


def main() -> None:
    import tyro

    options = tyro.cli(CompareConfig, prog="python -m experiments.compare_bounds")
    compare(options, command_line("compare_bounds", options.data_dir))
    print(with_ending((options.results or options.folder) / options.name, ".md").read_text())
