"""Train a model: `python -m experiments.train [--preset NAME] [--data-dir DIR] [--FIELD VALUE …]`.

Without arguments: Hamiltonian variational inference on scikit-learn's digits, which needs no download.
The run folder (see `experiments.runs.folder`) holds everything; `--resume` goes on with it, bit for bit.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from tqdm import tqdm

from experiments.configs import TrainConfig, parse
from experiments.reporting import plots
from experiments.runs.evaluation import evaluate, make_likelihood_monitor, table
from experiments.runs.folder import RunFolder
from experiments.runs.model import (
    Model,
    build,
    describe_model,
    load_data,
    monitored_images,
    start_params,
    test_examples,
)
from experiments.runs.pictures import draw_all
from experiments.support.failures import StoppedError, advised, resume_advice, stopping, told_when_stopped
from experiments.support.files import write_json
from experiments.support.processes import enter_on_first, join, mesh_of
from experiments.support.records import EpochRecord, Monitored
from hmcvae import data, training
from hmcvae._random import stream


def train(
    config: TrainConfig, *, quiet: bool = False, is_evaluated: bool = True, advice: str | None = None
) -> tuple[Path, dict]:
    """Train, evaluate and draw; returns the run folder and the evaluation, which is empty where it is not asked for.
    advice: how to go on with what was interrupted, by default as `experiments.train` does.

    Raises:
        ValueError, FileNotFoundError, FileExistsError, NotFiniteError: each with what to do; what was written stays.
    """
    mesh = mesh_of(config.devices)
    run = RunFolder(config.folder)
    training.on_first(lambda: run.check_free(config))
    dataset = load_data(config)
    model = build(config, dataset)
    training.Devices(mesh).check_batch(config.training.batch_size)
    training.check_training(dataset.train, config.training, model.preprocess, validation=dataset.validation)
    params = start_params(config, model)
    monitor = make_monitor(config, model, dataset)
    quiet = quiet or not training.is_first()
    with ExitStack() as stack:
        stack.enter_context(advised(advice or resume_advice(run.folder)))
        enter_on_first(stack, run.held())
        training.on_first(lambda: run.create(config, dataset, describe_model(config, dataset).to_json()))
        state = train_epochs(config, run, dataset, model, params, monitor, quiet, mesh)
        if not is_evaluated:
            return run.folder, {}
        state = jax.device_get(training.gathered(state))
        # By the first process alone, on its own device: the others wait.
        with told_when_stopped("after the last epoch, while the test images were looked at"):
            result = training.on_first(lambda: finish(config, run, dataset, model, state, quiet))
    return run.folder, result


def train_epochs(
    config: TrainConfig,
    run: RunFolder,
    dataset: data.Dataset,
    model: Model,
    params: Any,
    monitor: Callable[[Any, dict], dict],
    quiet: bool,
    mesh: Mesh | None = None,
) -> training.TrainState:
    """Train what is left of a run, log its epochs, and give the state to evaluate: the best on validation images where
    there are any, else the last."""
    checkpoints = run.checkpoints()
    best = run.best() if len(dataset.validation) else None
    parts = run.partial() if config.steps_per_save else None
    known = checkpoints.epochs()
    start = training.on_first(lambda: run.start_epoch(known)) if config.resume else 0
    num_done = training.on_first(lambda: len(run.trim(start)))
    if not quiet:
        held_out = f", {len(dataset.validation)} held out" if len(dataset.validation) else ""
        print(
            f"{dataset.name}: {len(dataset.train)} training images from {dataset.source}{held_out}; {model.bound.name}"
        )
        print(f"run folder: {run.folder}")
        if start:
            print(f"going on from epoch {start} to {config.training.num_epochs}")
    num_batches = len(dataset.train) // config.training.batch_size
    with stopping(signal.SIGTERM) as asked:
        epochs = training.fit(
            model.bound,
            params,
            dataset.train,
            optimizer=config.training.make_optimizer(num_batches),
            preprocess=model.preprocess,
            validation=dataset.validation,
            validation_bound=model.eval_bound,
            checkpoints=checkpoints,
            best=best,
            resume=start in known,
            resume_epoch=start if start in known else None,
            partial=parts,
            steps_per_part=config.steps_per_save or None,
            after_part=None if parts is None else lambda state: _stop_in_epoch(asked(), state),
            mesh=mesh,
            **config.training.loop,
        )
        with closing(epochs):  # which waits for what is being written
            last = _log_epochs(config, run, epochs, monitor, num_done, quiet, asked)
        _stop_if(asked(), "after the last epoch")
    like = training.init_state(
        model.params, config.training.make_optimizer(num_batches), config.training.seed
    )
    if best is not None and best.epochs():
        last = best.restore(like)
    elif last is None:  # resumed after the last epoch
        last = checkpoints.restore(like)
    for manager in (checkpoints, best, parts):
        if manager is not None:
            manager.close()
    return last


def _log_epochs(
    config: TrainConfig,
    run: RunFolder,
    epochs: Iterator[tuple[training.TrainState, dict]],
    monitor: Callable[[Any, dict], dict],
    num_done: int,
    quiet: bool,
    asked: Callable[[], int],
) -> training.TrainState | None:
    """The last state; None if no epoch was left."""
    last = None
    with tqdm(total=config.training.num_epochs, initial=num_done, unit="epoch", disable=quiet) as bar:
        for state, record in epochs:
            params = training.gathered(state.params)
            line = training.on_first(partial(_log, run, monitor, params, record))
            bar.set_postfix(_shown(EpochRecord.from_line(line)), refresh=False)
            bar.update()
            last = state
            _stop_if(asked(), f"after epoch {int(state.epoch)}")
    return last


def _stop_in_epoch(number: int, state: training.TrainState) -> None:
    _stop_if(number, f"in epoch {int(state.epoch) + 1}, after step {int(state.step)} of the run")


def _stop_if(number: int, where: str) -> None:
    """Stop all processes if one of them was asked to by that signal.

    Raises:
        StoppedError: says where.
    """
    number = max(training.from_all(number))
    if number:
        raise StoppedError(number, where)


def _log(run: RunFolder, monitor: Callable[[Any, dict], dict], params: Any, record: dict) -> dict:
    line = monitor(params, record)
    run.log(line)
    return line


def _shown(record: EpochRecord) -> dict[str, str]:
    """What the bar says of an epoch."""
    shown = {"bound": f"{record.bound:.2f}", record.monitored.split: f"{record.monitored.bound:.2f}"}
    return shown | ({"skipped": f"{record.skipped_steps}"} if record.skipped_steps else {})


def make_monitor(config: TrainConfig, model: Model, dataset: data.Dataset) -> Callable[[Any, dict], dict]:
    """`params, record -> record`: the epoch's record with the monitored images' bound, unless `fit` has put it
    there, and with config.monitor_samples their log p(x)."""
    split, monitored = monitored_images(dataset)
    key, images = stream(0, "monitored images"), jnp.asarray(monitored)
    bound_fn = training.make_monitor(model.eval_bound, model.preprocess)
    likelihood_fn = make_likelihood_monitor(config, model, key, monitored)

    def monitor(params: Any, record: dict) -> dict:
        name = f"{split}_bound"
        bound = record[name] if name in record else float(bound_fn(params, key, images))
        return record | Monitored(split, bound, likelihood_fn(params)).to_line()

    return monitor


def finish(
    config: TrainConfig,
    run: RunFolder,
    dataset: data.Dataset,
    model: Model,
    state: training.TrainState,
    quiet: bool,
) -> dict:
    """Evaluate on the test set and draw the pictures."""
    params, epoch = state.params, int(state.epoch)
    records = run.records()
    examples = test_examples(model, dataset, config.eval_images)
    result = evaluate(
        config,
        model,
        params,
        examples,
        num_samples=config.eval_samples,
        num_temperatures=config.eval_temperatures,
    )
    if not quiet:
        print(table(result))
    run.check_there()
    write_json(run.folder / "evaluation.json", result | {"epoch": epoch})
    title = f"{model.bound.name} on {dataset.name}, {len(dataset.train)} images"
    plots.bound_curves(
        model.bound.name,
        records,
        run.folder / "bound.png",
        title,
        num_skipped=min(3, len(records) // 6),
    )
    paths = [run.folder / "bound.png", *draw_all(run.folder, model, params, config.latent_dim, examples)]
    if not quiet:
        last = records[-1]
        print(
            f"steps skipped for not being finite: {last.skipped_steps}, gradients clipped: {last.clipped_steps}"
        )
        print("pictures: " + ", ".join(str(path) for path in paths))
    return result


def main() -> None:
    config = parse(sys.argv[1:])
    join(config.coordinator, config.num_processes, config.process_id)
    train(config)
