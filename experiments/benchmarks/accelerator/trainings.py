"""Trainings of the presets, from their last checkpoints to where their seconds are over."""

import dataclasses
import os
import signal
import threading
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.accelerator.config import Config
from experiments.benchmarks.accelerator.models import loaded
from experiments.configs import preset
from experiments.runs.folder import RunFolder
from experiments.runs.model import load_run, test_examples
from experiments.runs.training import train
from experiments.support.failures import StoppedError
from experiments.support.timing import Stopwatch

NUM_EVALUATED = 1000


def go_on(name: str, seconds: float, config: Config) -> dict[str, Any]:
    """Train for so many seconds, compilation with them, or to the end: it is asked to stop as by a signal from outside,
    and stops at its next whole step of `steps_per_save`. Then the bound of its last whole epoch, in both dtypes."""
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
            is_done = False
        finally:
            ended.set()
    records = RunFolder(folder).records()
    row = {"preset": name, "epochs_before": before, "epochs": len(records), "is_done": is_done}
    row |= {"seconds": watch.elapsed.seconds, "bounds": {}, "log_likelihood": None}
    if records:
        row["bounds"] = bounds_of(name, config)
        likelihood = records[-1].monitored.likelihood
        row["log_likelihood"] = None if likelihood is None else likelihood.log_likelihood
    return row


def _ask_to_stop(seconds: float, ended: threading.Event) -> None:
    """After so many seconds, and not before the training listens: until then the signal would end the process."""
    ended.wait(seconds)
    while not ended.is_set():
        if callable(signal.getsignal(signal.SIGTERM)):
            os.kill(os.getpid(), signal.SIGTERM)
            return
        ended.wait(0.2)


def bounds_of(name: str, config: Config) -> dict[str, float]:
    """The mean bound of test images, the same draws by layers in each dtype: what bfloat16 costs."""
    params = load_run(config.runs / name, data_dir=config.data_dir)[3]
    found = {}
    for dtype in ("float32", "bfloat16"):
        _, dataset, model = loaded(name, config, compute_dtype=dtype)
        examples = test_examples(model, dataset, min(NUM_EVALUATED, len(dataset.test)))
        keys = jax.random.split(jax.random.key(0), len(examples))
        values = jax.jit(jax.vmap(lambda key, x, own=model: own.eval_bound(params, key, x)[0]))(
            keys, examples
        )
        found[dtype] = float(jnp.mean(values))
    return found
