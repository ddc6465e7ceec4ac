"""Trainings of the presets, from their last checkpoints to where their seconds are over."""

import dataclasses
import os
import signal
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.accelerator.config import Config
from experiments.benchmarks.accelerator.epochs import DTYPES
from experiments.configs import preset
from experiments.runs.folder import RunFolder
from experiments.runs.model import build, find_data, load_run, test_examples
from experiments.runs.training import train
from experiments.support.failures import StoppedError
from experiments.support.timing import Stopwatch

NUM_EVALUATED = 1000


def go_on(name: str, seconds: float, config: Config) -> dict[str, Any]:
    """Train for so many seconds, compilation with them, or to the end: it is asked to stop as by a signal from outside,
    and stops at its next whole step of `steps_per_save`. Then the bound of the epoch that is kept, the best on
    validation images if there are any, in both dtypes, and log p(x) as the run watched it after that epoch."""
    folder = config.runs / name
    chosen = dataclasses.replace(
        preset(name),
        data_dir=config.data_dir,
        run_dir=folder,
        steps_per_save=config.steps_per_save,
        resume=(folder / "config.json").is_file(),
    )
    before = len(RunFolder(folder).records()) if chosen.resume else 0
    ended = threading.Event()
    timer = threading.Thread(target=_ask_to_stop, args=(seconds, ended), daemon=True)
    is_done = True
    with Stopwatch() as watch:
        timer.start()
        try:
            train(chosen, quiet=True, is_evaluated=False)
        except StoppedError:
            is_done = len(RunFolder(folder).records()) == chosen.training.num_epochs
        finally:
            ended.set()
    records = RunFolder(folder).records()
    row = {"preset": name, "epochs_before": before, "epochs": len(records), "is_done": is_done}
    row |= {"seconds": watch.elapsed.seconds}
    return row | (_kept(folder, config) if records else {"epoch": None, "bounds": {}, "log_likelihood": None})


def _ask_to_stop(seconds: float, ended: threading.Event) -> None:
    """After so many seconds, and not before the training listens: until then the signal would end the process."""
    ended.wait(seconds)
    while not ended.is_set():
        if callable(signal.getsignal(signal.SIGTERM)):
            os.kill(os.getpid(), signal.SIGTERM)
            return
        ended.wait(0.2)


def _kept(folder: Path, config: Config) -> dict[str, Any]:
    """Of the parameters that are kept: the mean bound of test images, the same draws by layers in each dtype, which is
    what bfloat16 costs."""
    run, chosen, _, params, epoch = load_run(folder, data_dir=config.data_dir)
    dataset = find_data(chosen, config.data_dir)
    found = {}
    for dtype in DTYPES:
        model = build(dataclasses.replace(chosen, compute_dtype=dtype), dataset)
        examples = test_examples(model, dataset, min(NUM_EVALUATED, len(dataset.test)))
        keys = jax.random.split(jax.random.key(0), len(examples))
        values = jax.jit(jax.vmap(lambda key, x, own=model: own.eval_bound(params, key, x)[0]))(
            keys, examples
        )
        found[dtype] = float(jnp.mean(values))
    likelihood = run.records()[epoch - 1].monitored.likelihood
    log_likelihood = None if likelihood is None else likelihood.log_likelihood
    return {"epoch": epoch, "bounds": found, "log_likelihood": log_likelihood}
