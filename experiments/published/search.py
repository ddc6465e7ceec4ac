"""The same small search for every method: the learning rate, and the first step size of those that have one."""

import dataclasses
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from experiments.configs import Method, Options, TrainConfig, differences
from experiments.published.config import PublishedConfig
from experiments.published.methods import METHODS
from experiments.runs.folder import RunFolder
from experiments.runs.training import train
from experiments.support.files import read_json, write_json
from hmcvae.training import NotFiniteError

STEP = "initial_step_size"
AGAIN = "go on with the comparison by the same command"
# By what a step size is divided in every second trial.
SHORTER = 3.0


@dataclass(frozen=True)
class Setting:
    """What a trial tries. initial_step_size: None where a method has none."""

    learning_rate: float
    initial_step_size: float | None = None

    def of(self, method: Method) -> Method:
        """The method with it."""
        if self.initial_step_size is None:
            return method
        return dataclasses.replace(method, **{STEP: self.initial_step_size})


def settings(method: Method, num_trials: int, learning_rate: float) -> list[Setting]:
    """Learning rates r, 2 r, r / 2, 4 r, …; of a method with a first step size, half as many of them, each with two
    step sizes. The first is the method as it stands."""
    rates = [learning_rate * 2.0 ** ((1 if k % 2 else -1) * ((k + 1) // 2)) for k in range(num_trials)]
    step = getattr(method, STEP, None)
    if step is None:
        return [Setting(rate) for rate in rates]
    return [Setting(rates[k // 2], step / SHORTER ** (k % 2)) for k in range(num_trials)]


def run_config(
    options: PublishedConfig, name: str, seed: int, setting: Setting, num_epochs: int, folder: str
) -> TrainConfig:
    """The config of a run of the comparison, or of a trial."""
    training = Options(
        num_epochs=num_epochs,
        batch_size=options.batch_size or options.own.batch_size,
        clip_norm=100.0,
        kl_warmup_epochs=min(options.kl_warmup_epochs, num_epochs // 2),
        patience=options.patience,
        seed=seed,
        optimizer=options.optimizer,
        learning_rate=setting.learning_rate,
        schedule="cosine",
    )
    place = options.place / folder
    return options.own.config(
        setting.of(METHODS[name]),
        training,
        num_train=options.num_train,
        monitor_samples=options.monitor_samples,
        steps_per_save=options.steps_per_save,
        start_from=options.start_of(name, seed),
        data_dir=options.data_dir,
        download=options.download,
        run_dir=place,
        resume=(place / "config.json").is_file(),
    )


def trained(config: TrainConfig) -> RunFolder:
    """A run, trained to its end: not at all if it is there, or from its checkpoint if it was cut off.

    Raises:
        ValueError: if the run that is there is of another config.
    """
    run = RunFolder(config.folder)
    done = run.folder / "done.json"
    if not done.is_file():
        train(config, is_evaluated=False, advice=AGAIN)
        write_json(done, {"epochs": len(run.records()), "epochs_before": _epochs_before(config)})
        return run
    changed = differences(run.config(), config)
    if changed:
        raise ValueError(
            f"the run in {run.folder} is of another config: {'; '.join(changed)}; give another --folder"
        )
    return run


def _epochs_before(config: TrainConfig) -> int:
    """Of the run that this one goes on from, and of those before that."""
    return 0 if config.start_from is None else total_epochs(RunFolder(config.start_from))


def total_epochs(run: RunFolder) -> int:
    """Epochs of a run that is trained to its end, those of the runs that it went on from included."""
    done = read_json(run.folder / "done.json")
    return done["epochs"] + done.get("epochs_before", 0)


def search(options: PublishedConfig, name: str, num_epochs: int) -> dict[str, Any]:
    """The trials of a method with the first seed, as the record has them: {"trials": [setting and log p(x) of held-out
    images, None where it could not be trained, …], "chosen": the best setting}.

    Raises:
        ValueError: if the search that is there is another one.
    """
    tried = settings(METHODS[name], max(options.num_trials, 1), options.rate)
    if len(tried) == 1:
        return {"trials": [], "chosen": asdict(tried[0])}
    path = options.place / "search" / f"{name}.json"
    asked = {"epochs": num_epochs, "settings": [asdict(own) for own in tried]} | options.setting
    if path.is_file():
        found = read_json(path)
        if found["asked"] != asked:
            names = [own for own in {**found["asked"], **asked} if found["asked"].get(own) != asked.get(own)]
            other = "; ".join(f"{own} was {found['asked'].get(own)}, is {asked.get(own)}" for own in names)
            raise ValueError(f"the search in {path} is another one ({other}); give another --folder")
        return found
    trials = []
    for index, setting in enumerate(tried):
        place = f"search/{name}-{index}"
        try:
            run = trained(run_config(options, name, options.seeds[0], setting, num_epochs, place))
            value = held_out(run)
        except NotFiniteError:  # of a rate too high, say: a trial like any other, and the worst
            value = np.nan
        trials.append(asdict(setting) | {"log_likelihood": value if np.isfinite(value) else None})
    scores = [-np.inf if trial["log_likelihood"] is None else trial["log_likelihood"] for trial in trials]
    chosen = asdict(tried[int(np.argmax(scores))])
    record = {"asked": asked, "trials": trials, "chosen": chosen}
    write_json(path, record)
    return record


def held_out(run: RunFolder) -> float:
    """log p(x) of held-out training images at the end of a run, in nats."""
    likelihood = run.records()[-1].monitored.likelihood
    if likelihood is None:
        raise ValueError(f"the run in {run.folder} has no log p(x) of held-out images")
    return likelihood.log_likelihood
