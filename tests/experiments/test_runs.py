"""The experiments: one whole run from its command line to its pictures, and the commands on its folder."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.configs import Elbo, FullCovariance, to_json
from experiments.runs import evaluation as evaluate
from experiments.runs import model as runs
from experiments.runs import pictures as generate
from experiments.runs import training as train
from tests.support.runs import HVI, assert_picture, files_of, metrics_of, tiny

PICTURES = {"bound", "samples", "reconstructions", "interpolations", "manifold"}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> tuple[Path, dict]:
    """(folder, result) of Hamiltonian variational inference on the digits; nobody writes into the folder."""
    folder = tmp_path_factory.mktemp("runs") / "deep" / "run"
    config = tiny(folder, method=HVI, num_epochs=2)
    path, result = train.train(config, quiet=True)
    assert path == folder
    return folder, result


@pytest.fixture
def copied_run(whole_run, tmp_path) -> Path:
    return Path(shutil.copytree(whole_run[0], tmp_path / "run"))


def test_a_run_folder_holds_everything(whole_run):
    folder, result = whole_run
    config = runs.RunFolder(folder).config()
    assert to_json(config) == to_json(tiny(folder, method=HVI, num_epochs=2))
    records = metrics_of(folder)
    assert [record["epoch"] for record in records] == [1, 2]
    assert all(-60 < record["bound"] < -40 and -60 < record["test_bound"] < -40 for record in records)
    assert records[1]["test_bound"] > records[0]["test_bound"]
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["jax"] == jax.__version__
    assert environment["data"]["source"] == "scikit-learn digits"
    assert {int(path.name) for path in (folder / "checkpoints").iterdir()} == {1, 2}
    assert not (folder / "best").exists()
    for name in PICTURES:
        assert_picture(folder / f"{name}.png")
    (events,) = (folder / "tensorboard").iterdir()
    assert b"test_bound" in events.read_bytes()
    assert json.loads((folder / "evaluation.json").read_text()) == result | {"epoch": 2}
    assert not list(folder.rglob("*.tmp"))


def test_a_runs_evaluation_has_both_proposals(whole_run):
    _, result = whole_run
    assert set(result["proposals"]) == {"encoder", "hvi"}
    assert (result["num_images"], result["num_samples"], result["latent_dim"]) == (12, 3, 2)
    for figures in result["proposals"].values():
        assert figures["log_likelihood"]["mean"] > figures["bound"]["mean"]
        assert figures["bound"]["error"] > 0
        assert (figures["nonfinite"], figures["unconverged"]) == (0.0, 0.0)
    lines = evaluate.table(result).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["proposal", "encoder", "hvi", "caution:", "caution:"]
    assert "100% of the images have fewer than 100 effective draws of proposal encoder" in lines[4]
    assert lines[4].endswith("take more draws")
    # A few easy images carry a mean, and no share.
    for figures in result["proposals"].values():
        easy = result | {
            "proposals": {"encoder": figures | {"effective_sample_size": 900.0, "low_ess": 0.02}}
        }
        assert "caution: 2% of the images" in evaluate.table(easy)
        assert "caution" not in evaluate.table(
            {**easy, "proposals": {"encoder": figures | {"effective_sample_size": 101.0, "low_ess": 0.0}}}
        )
    bound = result["proposals"]["hvi"]["bound"]
    assert f"{bound['mean']:.2f} ± {bound['error']:.2f}" in lines[3]


def test_bits_per_dimension_are_told_of_levels_alone(whole_run):
    """Of a density they would depend on the unit of the pixels, colours or not."""
    _, result = whole_run
    assert "num_dimensions" not in result
    nats = max(figures["log_likelihood"]["mean"] for figures in result["proposals"].values())
    told = evaluate.table(result | {"num_dimensions": 64})
    assert f"{-nats / 64 / np.log(2):.3f} bits per dimension, by importance weighting" in told
    for likelihood in ("bernoulli", "gaussian", "discretised_logistic"):
        config = dataclasses.replace(tiny(Path("unused")), likelihood=likelihood)
        assert config.has_levels == (likelihood == "discretised_logistic")


@pytest.mark.slow
def test_evaluation_of_a_k_sample_bound_has_the_bound_that_was_trained():
    """The 4-sample bound lies above the bound of one draw, and is not the many-draw estimate."""
    config = tiny(Path("unused"), method=Elbo(num_samples=4))
    dataset = runs.load_data(config)
    model = runs.build(config, dataset)
    examples = runs.test_examples(model, dataset, 12)
    result = evaluate.evaluate(config, model, model.params, examples, num_samples=200)
    encoder = result["proposals"]["encoder"]
    assert encoder["bound"]["mean"] < result["trained_bound"]["mean"] < encoder["log_likelihood"]["mean"]


@pytest.mark.slow
def test_annealing_comes_with_its_sandwich_and_the_size_of_its_weights():
    """In the coordinates that were trained, on test images and on as many made ones as there are quarters of them."""
    config = tiny(
        Path("unused"), method=dataclasses.replace(HVI, posterior=FullCovariance(num_centre_steps=1))
    )
    dataset = runs.load_data(config)
    model = runs.build(config, dataset)
    examples = runs.test_examples(model, dataset, 12)
    result = evaluate.evaluate(
        config, model, model.params, examples, num_samples=200, num_temperatures=200, num_chains=4
    )
    ais, made = result["ais"], result["ais"]["made"]
    assert 1 <= ais["effective_sample_size"] <= 4
    assert (made["num_images"], ais["num_temperatures"], ais["num_chains"]) == (3, 200, 4)
    assert made["width"]["mean"] == pytest.approx(made["upper"]["mean"] - made["lower"]["mean"], abs=1e-9)
    # With 20 temperatures the width is 0.5; it falls as one over their number.
    assert abs(made["width"]["mean"]) < 0.2
    # Both are from below, and these importance weights are the worse ones.
    assert ais["mean"] > result["proposals"]["encoder"]["log_likelihood"]["mean"] - 0.1
    assert f"a width of {made['width']['mean']:.2f}" in evaluate.table(result)


def test_evaluate_goes_over_a_run(copied_run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", str(copied_run), "--num-samples", "4", "--num-images", "6"])
    before = (copied_run / "evaluation.json").read_text()
    evaluate.main()
    assert (copied_run / "evaluation.json").read_text() == before, (
        "the training's evaluation was written over"
    )
    result = json.loads((copied_run / "evaluation-epoch2-k4-n6-seed0.json").read_text())
    assert (result["num_images"], result["num_samples"], result["epoch"]) == (6, 4, 2)
    assert f"epoch 2 of {copied_run}" in capsys.readouterr().out


def test_generate_draws_the_pictures_of_a_run(copied_run, monkeypatch, capsys):
    for path in copied_run.glob("*.png"):
        path.unlink()
    monkeypatch.setattr(sys, "argv", ["generate", str(copied_run), "--num-samples", "20"])
    generate.main()
    for name in PICTURES - {"bound"}:
        assert_picture(copied_run / f"{name}.png")
    assert str(copied_run / "manifold.png") in capsys.readouterr().out


def test_a_run_folder_that_exists_is_not_touched(copied_run):
    before = files_of(copied_run)
    with pytest.raises(
        FileExistsError, match=f"{copied_run} exists and is not empty; go on with it by --resume"
    ):
        train.train(tiny(copied_run, method=HVI), quiet=True)
    assert files_of(copied_run) == before
    file = copied_run / "config.json"
    with pytest.raises(FileExistsError, match=r"config.json exists"):
        train.train(tiny(file), quiet=True)
    assert files_of(copied_run) == before


def test_a_run_of_another_config_is_not_resumed(copied_run):
    before = files_of(copied_run)
    other = tiny(copied_run, resume=True, latent_dim=3, learning_rate=0.5, eval_samples=7, num_epochs=9)
    with pytest.raises(ValueError, match="has another config") as caught:
        train.train(other, quiet=True)
    listed = str(caught.value).split(": ", 1)[1].split("; ")
    assert listed == ["latent_dim: 2 -> 3", "method: Hvi -> Elbo", "learning_rate: 0.001 -> 0.5"]
    assert files_of(copied_run) == before


def test_a_run_on_other_images_is_not_resumed(copied_run):
    """tensorflow-datasets shuffles what the idx files have in order: another run, though of the same set."""
    config = runs.RunFolder(copied_run).config()
    dataset = runs.load_data(config)
    resumed = dataclasses.replace(config, resume=True)
    runs.RunFolder(copied_run).create(resumed, dataset, {})
    before = files_of(copied_run)
    turned = dataset._replace(train=dataset.train[::-1].copy(), source="elsewhere")
    with pytest.raises(ValueError, match="expected those from scikit-learn digits, got elsewhere"):
        runs.RunFolder(copied_run).create(resumed, turned, {})
    assert files_of(copied_run) == before


def test_a_folder_without_a_run_is_named(tmp_path):
    for action in (
        lambda: runs.load_run(tmp_path),
        lambda: train.train(tiny(tmp_path, resume=True), quiet=True),
    ):
        with pytest.raises(FileNotFoundError, match=f"no run in {tmp_path}"):
            action()
    assert not list(tmp_path.iterdir())


def test_a_config_that_cannot_be_read_is_named(copied_run):
    path = copied_run / "config.json"
    for text, message in (("{", "cannot be read as a config"), ('{"a": 1}', "must have the fields")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message) as caught:
            runs.RunFolder(copied_run).config()
        assert str(path) in str(caught.value)


def test_a_corrupted_checkpoint_stops_a_resumed_run_and_nothing_is_lost(copied_run):
    (copied_run / "checkpoints" / "2" / "state" / "_METADATA").write_text("{")
    before = files_of(copied_run)
    config = dataclasses.replace(runs.RunFolder(copied_run).config(), run_dir=copied_run, resume=True)
    with pytest.raises(ValueError, match="checkpoints/2 is corrupted: .* away to go on from epoch 1"):
        train.train(config, quiet=True)
    after = files_of(copied_run)
    assert json.loads(after.pop("config.json"))["resume"] is True
    before.pop("config.json")
    assert after == before


def test_a_run_without_a_best_state_is_loaded_from_its_newest(copied_run):
    (copied_run / "best").mkdir()
    *_, epoch = runs.load_run(copied_run)
    assert epoch == 2
