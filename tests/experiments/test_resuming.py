"""Runs that are stopped and go on, and the state that they end with."""

import dataclasses
import signal
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from experiments.configs import Options
from experiments.runs import model as runs
from experiments.runs import training as train
from experiments.support.failures import StoppedError
from hmcvae import training
from hmcvae.training import loop
from tests.support.runs import metrics_of, tiny

LIKELIHOOD_FIGURES = ("log_likelihood", "gap", "draws", "ess")
COMPILED: dict = {}


@pytest.fixture
def finished(monkeypatch) -> list:
    """Runs without their evaluation and pictures: the states that `finish` was given. Runs of one model share what
    was compiled for it (`COMPILED`), whatever their number of epochs."""
    states: list = []
    make_epoch, make_monitor, build = loop.make_epoch, training.make_monitor, train.build
    make_optimizer = Options.optimizer  # of a constant rate in these runs

    def epoch(bound, optimizer, options, *rest):
        key = ("epoch", bound, optimizer, dataclasses.replace(options, num_epochs=1, patience=0), *rest)
        return COMPILED.get(key) or COMPILED.setdefault(key, make_epoch(bound, optimizer, options, *rest))

    def optimizer(self, num_batches):
        key = ("optimizer", self.learning_rate)
        return COMPILED.get(key) or COMPILED.setdefault(key, make_optimizer(self, num_batches))

    def monitor(*args, **options):
        return COMPILED.get(args) or COMPILED.setdefault(args, make_monitor(*args, **options))

    def model(config, dataset):
        return COMPILED.get("model") or COMPILED.setdefault("model", build(config, dataset))

    monkeypatch.setattr(loop, "make_epoch", epoch)
    monkeypatch.setattr(Options, "optimizer", optimizer)
    for module in (loop, training):
        monkeypatch.setattr(module, "make_monitor", monitor)
    monkeypatch.setattr(train, "build", model)
    monkeypatch.setattr(
        train, "finish", lambda config, run, dataset, model, state, *rest: states.append(state)
    )
    return states


class Killed(BaseException):
    pass


def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path, monkeypatch, finished):
    """Killed between the second epoch's checkpoint and its line in metrics.jsonl, of which a piece was written."""
    train.train(tiny(tmp_path / "whole"), quiet=True)
    log = runs.RunFolder.log

    def die_at_two(self, record):
        if record["epoch"] == 2:
            with self.metrics_path.open("a") as file:
                file.write('{"epoch": 2, "bou')
            raise Killed
        log(self, record)

    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(runs.RunFolder, "log", die_at_two)
        with pytest.raises(Killed):
            train.train(tiny(folder), quiet=True)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"1", "2"}
    COMPILED.clear()  # as in the process that goes on
    train.train(tiny(folder, resume=True), quiet=True)
    assert [record["epoch"] for record in metrics_of(folder)] == [1, 2, 3]
    assert metrics_of(folder) == metrics_of(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, *finished)


@pytest.mark.parametrize("when", ["in the last epoch", "while the last checkpoint is written"])
def test_a_signal_at_the_end_stops_a_run_too(when, tmp_path, monkeypatch, finished):
    """What comes after the training, an evaluation or the next training of a comparison, is not begun."""
    config, log, closing = tiny(tmp_path / "run", num_epochs=1), runs.RunFolder.log, train.closing

    def log_and_ask(self, record):
        log(self, record)
        signal.raise_signal(signal.SIGTERM)

    @contextmanager
    def close_and_ask(epochs):
        with closing(epochs):
            yield
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        if when == "in the last epoch":
            patch.setattr(runs.RunFolder, "log", log_and_ask)
        else:
            patch.setattr(train, "closing", close_and_ask)
        with pytest.raises(StoppedError, match="stopped by SIGTERM after (epoch 1|the last epoch)"):
            train.train(config, quiet=True)
    assert finished == []
    train.train(dataclasses.replace(config, resume=True), quiet=True)
    assert [int(state.epoch) for state in finished] == [1]


def test_a_run_goes_on_for_more_epochs(tmp_path, finished):
    train.train(tiny(tmp_path / "run", num_epochs=1), quiet=True)
    first = metrics_of(tmp_path / "run")
    train.train(tiny(tmp_path / "run", num_epochs=2, resume=True), quiet=True)
    assert metrics_of(tmp_path / "run")[:1] == first
    assert [record["epoch"] for record in metrics_of(tmp_path / "run")] == [1, 2]
    assert [int(state.epoch) for state in finished] == [1, 2]
    train.train(tiny(tmp_path / "run", num_epochs=2, resume=True), quiet=True)  # nothing left to train
    assert len(metrics_of(tmp_path / "run")) == 2
    jax.tree.map(np.testing.assert_array_equal, finished[2], finished[1])


def test_monitoring_log_likelihood_adds_to_the_record_and_changes_nothing_else(tmp_path, finished):
    train.train(tiny(tmp_path / "plain"), quiet=True)
    train.train(tiny(tmp_path / "monitored", monitor_samples=3), quiet=True)
    jax.tree.map(np.testing.assert_array_equal, *finished)
    records = metrics_of(tmp_path / "monitored")
    added = [{f"test_{name}": r.pop(f"test_{name}") for name in LIKELIHOOD_FIGURES} for r in records]
    assert records == metrics_of(tmp_path / "plain")
    assert [figures["test_draws"] for figures in added] == [3, 3, 3]
    assert all(figures["test_gap"] > 0 for figures in added)
    assert added[0]["test_log_likelihood"] < added[2]["test_log_likelihood"] < -20
    # A run of before goes on with it, and its first epochs stay as they were.
    train.train(tiny(tmp_path / "plain", num_epochs=4, monitor_samples=3, resume=True), quiet=True)
    assert ["test_draws" in record for record in metrics_of(tmp_path / "plain")] == [
        False,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("epochs", "recorded", "expected"),
    [([], 0, 0), ([1, 2], 2, 2), ([2, 3], 2, 2), ([1], 0, 0), ([2, 3], 1, 2), ([3], 2, 3), ([1, 2], 5, 2)],
)
def test_where_a_run_goes_on(tmp_path, epochs, recorded, expected):
    run = runs.RunFolder(tmp_path)
    run.metrics_path.write_text("".join(f'{{"epoch": {epoch}}}\n' for epoch in range(1, recorded + 1)))
    assert run.start_epoch(epochs) == expected


@pytest.mark.filterwarnings("ignore::hmcvae.training.TrainingWarning")
def test_the_best_state_on_validation_is_the_one_that_is_used(tmp_path, finished):
    """With an absurd learning rate the bound soon falls, and the newest state is not the best."""
    config = tiny(tmp_path / "run", num_validation=100, patience=2, learning_rate=1.0, num_epochs=20)
    train.train(config, quiet=True)
    values = [record["validation_bound"] for record in metrics_of(config.run_dir)]
    best = 1 + int(np.argmax(values))
    assert len(values) == best + 2 < 20
    assert [int(state.epoch) for state in finished] == [best]
    *_, params, epoch = runs.load_run(config.run_dir)
    assert epoch == best
    jax.tree.map(np.testing.assert_array_equal, params, finished[0].params)
