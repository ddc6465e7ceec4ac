"""Run folders that were cut off, damaged, removed, locked or moved."""

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.configs import Options
from experiments.runs import evaluation as evaluate
from experiments.runs import model as runs
from experiments.runs import pictures as generate
from experiments.runs import training as train
from experiments.runs.evaluation import EvaluateConfig
from experiments.runs.folder import RunFolder
from experiments.runs.pictures import GenerateConfig
from experiments.support import failures, files
from hmcvae import data
from tests.support.runs import TINY, tiny, write_cifar


@pytest.fixture
def without_end(monkeypatch):
    """Runs without their evaluation and pictures."""
    monkeypatch.setattr(train, "finish", lambda *_: {})


# What a crash leaves behind.


def test_a_folder_whose_config_was_never_written_is_free(tmp_path):
    for name in ("config.tmp", "environment.json", "environment.tmp", files.LOCK):
        (tmp_path / name).write_text("{")
    RunFolder(tmp_path).check_free(tiny(tmp_path))
    with pytest.raises(FileNotFoundError, match="config.json is not there; start it without --resume"):
        RunFolder(tmp_path).check_free(tiny(tmp_path, resume=True))


def test_a_folder_of_something_else_is_never_said_to_be_resumable(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        FileExistsError, match="it holds no run .no config.json., so choose another"
    ) as caught:
        RunFolder(tmp_path).check_free(tiny(tmp_path))
    assert "--resume" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="config.json is not there$"):
        RunFolder(tmp_path).check_free(tiny(tmp_path, resume=True))


def test_the_config_is_written_last(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr("experiments.runs.folder.write_json", lambda path, _: order.append(path.name))
    RunFolder(tmp_path / "run").create(tiny(tmp_path / "run"), runs.load_data(TINY), {})
    assert order == ["environment.json", "model.json", "config.json"]


GOOD = '{"epoch": 1, "bound": -2.0}\n'


@pytest.mark.parametrize("end", ["", '{"epoch": 2, "bou', "[1]\n", '{"bound": 2}\n', "\x00\x00"])
def test_a_last_line_that_was_cut_short_is_left_out(tmp_path, end):
    path = tmp_path / "metrics.jsonl"
    path.write_text(GOOD + end)
    assert files.read_records(path) == [{"epoch": 1, "bound": -2.0}]
    assert files.read_records(tmp_path / "none") == []


@pytest.mark.parametrize(
    "line", [b'{"epoch": 2, "bou', b"7", b'{"bound": 2}', b'{"epoch": "2"}', b"\xff\xfe", b""]
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(GOOD.encode() + line + b"\n" + GOOD.encode())
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2 is damaged"):
        RunFolder(tmp_path).records()


@pytest.mark.parametrize("text", ["{", "[]", "", '{"data": 3}', '{"data": {"source": "x"}}'])
def test_a_damaged_environment_is_named(tmp_path, text):
    (tmp_path / "environment.json").write_text(text)
    with pytest.raises(ValueError, match=r"environment.json is damaged"):
        RunFolder(tmp_path).environment()


# Runs that lose their folder, or find it taken.


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_a_run_whose_folder_is_removed_stops(tmp_path, monkeypatch, without_end, is_made_anew):
    folder, log = tmp_path / "run", RunFolder.log

    def remove(self, record):
        log(self, record)
        while folder.exists():  # a checkpoint is being written there meanwhile
            shutil.rmtree(folder, ignore_errors=True)
        if is_made_anew:
            folder.mkdir()
            (folder / "config.json").write_text("{}")

    monkeypatch.setattr(RunFolder, "log", remove)
    with pytest.raises(FileNotFoundError, match="was removed or replaced while the run was training"):
        train.train(tiny(folder), quiet=True)
    assert sorted(path.name for path in folder.glob("*")) == (["config.json"] if is_made_anew else [])


def test_one_process_works_in_a_folder(tmp_path, without_end):
    folder = tmp_path / "run"
    with files.locked(folder) as is_ours:
        assert is_ours()
        with pytest.raises(
            FileExistsError, match=f"another process is at work in {folder} .pid {os.getpid()} on "
        ):
            train.train(tiny(folder, num_epochs=1), quiet=True)
        assert [path.name for path in folder.iterdir()] == [files.LOCK]
    # A lock that a dead process left is none.
    (folder / files.LOCK).write_text("pid 1 on elsewhere\n")
    train.train(tiny(folder, num_epochs=1), quiet=True)
    with files.locked(folder), pytest.raises(FileExistsError, match="another process"):
        train.train(tiny(folder, num_epochs=2, resume=True), quiet=True)


# A trained model, and where its data are.


@pytest.fixture(scope="module")
def colour_run(tmp_path_factory) -> tuple[Path, Path]:
    """(folder with the run and the data): a run on a few made-up images in colour."""
    folder = tmp_path_factory.mktemp("colour")
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    config = write_cifar(folder, images)
    config = dataclasses.replace(config, eval_images=4, training=Options(num_epochs=1, batch_size=3))
    patch = pytest.MonkeyPatch()
    patch.setattr(train, "finish", lambda *_: {})
    train.train(config, quiet=True)
    patch.undo()
    (folder / "moved").mkdir()
    (folder / "cifar10.npz").rename(folder / "moved" / "cifar10.npz")
    return config.folder, folder / "moved"


def test_a_model_is_loaded_without_its_data(colour_run, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: pytest.fail("the data were read"))
    *_, model, params, epoch = runs.load_run(colour_run[0])
    assert epoch == 1
    pictures = generate.samples(model, params, 2, jax.random.key(0), 3)
    assert pictures.shape == (3, 32, 32, 3)


def test_moved_data_are_found_by_flag_or_variable(colour_run, monkeypatch, tmp_path):
    folder, moved = colour_run
    options = EvaluateConfig(folder, num_samples=2, num_images=4, output=tmp_path)
    monkeypatch.delenv(data.DATA_DIR_VARIABLE, raising=False)
    with pytest.raises(FileNotFoundError, match=r"--data-dir(.|\n)*--download"):
        evaluate.evaluate_run(options)
    assert {"data_dir", "download"} <= {f.name for f in dataclasses.fields(EvaluateConfig)}
    assert {"data_dir", "download"} <= {f.name for f in dataclasses.fields(GenerateConfig)}
    by_flag = evaluate.evaluate_run(dataclasses.replace(options, data_dir=moved))
    monkeypatch.setenv(data.DATA_DIR_VARIABLE, str(moved))
    by_variable = evaluate.evaluate_run(options)
    for result in (by_flag, by_variable):
        for figures in result["proposals"].values():
            del figures["seconds"]
    assert by_flag == by_variable
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation-epoch1-k2-n4-seed0.json"]


def test_a_run_of_before_is_loaded_with_its_data(colour_run, tmp_path):
    folder = shutil.copytree(colour_run[0], tmp_path / "run")
    values = json.loads((folder / "environment.json").read_text())
    del values["data"]["image_shape"], values["data"]["max_value"]
    (folder / "environment.json").write_text(json.dumps(values))
    *_, epoch = runs.load_run(folder, data_dir=colour_run[1])
    assert epoch == 1


def test_an_evaluation_that_cannot_be_written_is_refused_first(colour_run, monkeypatch, tmp_path, capsys):
    folder, moved = colour_run

    def refuse(_):
        raise OSError(errno.EROFS, "Read-only file system", str(folder))

    options = EvaluateConfig(folder, num_samples=2, num_images=4, data_dir=moved, output=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "check_writable", refuse)
        patch.setattr(evaluate, "evaluate", lambda *_, **__: pytest.fail("computed first"))
        with pytest.raises(
            SystemExit, match="Read-only file system.*; give a folder for the figures by --output"
        ):
            failures.fail_cleanly(lambda: evaluate.evaluate_run(options))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "here")

    monkeypatch.setattr(evaluate, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        evaluate.evaluate_run(options)
    assert "log p(x) ≥" in capsys.readouterr().out, "what was computed is lost"
