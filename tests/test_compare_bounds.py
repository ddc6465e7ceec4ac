"""The comparison trains what is missing, keeps what is there, and writes its table and picture."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import compare_bounds
from experiments.compare_bounds import CompareConfig, compare, label, run_config
from experiments.config import preset
from experiments.runs import build, load_data, load_run, start_params
from experiments.train import train


def options(tmp_path, **changes) -> CompareConfig:
    settings = {
        "presets": ("digits_vae", "digits"),
        "seeds": (0, 1),
        "num_epochs": (1,),
        "eval_samples": 4,
        "eval_images": 10,
        "folder": tmp_path / "runs",
        "results": tmp_path / "results",
        "name": "digits_bounds",
    }
    return CompareConfig(**(settings | changes))


@pytest.mark.slow
def test_compare_writes_a_table_and_repeats_nothing(tmp_path, monkeypatch):
    rows = compare(options(tmp_path), "the command")
    assert [row["method"] for row in rows] == ["VAE", "HVI, 4 leapfrog steps"]
    assert all(row["num_seeds"] == 2 and row["seconds_per_epoch"] > 0 for row in rows)
    report = json.loads((tmp_path / "results/digits_bounds.json").read_text())
    assert len(report["rows"][0]["bound"]["values"]) == 2
    assert "the command" in (tmp_path / "results/digits_bounds.md").read_text()
    assert (tmp_path / "results/digits_bounds.png").stat().st_size > 10_000

    def refuse(_):
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(compare_bounds, "train", refuse)
    again = compare(options(tmp_path), "the command")
    assert [row["bound"] for row in again] == [row["bound"] for row in rows]


def test_labels_name_the_method_and_its_lengths():
    assert label(preset("mnist_vae")) == "VAE"
    assert label(preset("mnist_iwae")) == "IWAE, K = 5"
    assert label(preset("mnist_hvi1")) == "HVI, 1 leapfrog step"
    assert label(preset("mnist_hvi_plain")) == "HVI, 4 leapfrog steps, standard momentum"


def test_epochs_are_for_all_or_for_each(tmp_path):
    assert run_config(options(tmp_path, num_epochs=(3, 7)), "digits", 1).training.num_epochs == 7
    assert run_config(options(tmp_path), "digits", 1).training.seed == 1
    with pytest.raises(ValueError, match="one number or one for each of 2 presets, got \\(1, 2, 3\\)"):
        options(tmp_path, num_epochs=(1, 2, 3))
    with pytest.raises(ValueError, match="preset must be one of"):
        run_config(options(tmp_path, presets=("nope",)), "nope", 0)


@pytest.mark.slow
def test_at_equal_seconds_the_others_go_on_from_the_vae(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_bounds, "time_epochs", lambda *_, **__: {"digits_vae": 1.0, "digits": 2.0})
    own = options(tmp_path, seconds=4.0, warm_start=0.5, seeds=(0,), eval_temperatures=5)
    rows = compare(own, "the command")
    plan = json.loads((tmp_path / "runs/plan.json").read_text())
    assert plan["epochs"] == {"digits_vae": 4, "digits": 1, "warm start": 2}
    assert rows[0]["gap"]["mean"] == pytest.approx(
        rows[0]["log_likelihood_ais"]["mean"] - rows[0]["bound"]["mean"]
    )
    started = json.loads((tmp_path / "runs/digits-seed0/config.json").read_text())
    assert started["start_from"].endswith("warm_start-seed0")
    with pytest.raises(ValueError, match="of other seconds or another share"):
        compare(options(tmp_path, seconds=5.0, warm_start=0.5), "the command")


def test_a_run_starts_with_the_other_ones_nets_or_says_why_not(tmp_path):
    first = dataclasses.replace(
        preset("digits_vae"),
        run_dir=tmp_path / "first",
        eval_samples=2,
        eval_images=4,
        training=dataclasses.replace(preset("digits_vae").training, num_epochs=1),
    )
    train(first, quiet=True)
    trained = load_run(tmp_path / "first")[4]["vae"]
    for changes in ({"method": "whitened"}, {"method": "whitened", "metric": "fisher"}):
        config = dataclasses.replace(first, start_from=tmp_path / "first", **changes)
        model = build(config, load_data(config))
        params = start_params(config, model)
        jax.tree.map(np.testing.assert_array_equal, params["vae"]["decoder"], trained["decoder"])
        head = params["vae"]["encoder"]["params"]["GaussianHead_0"]
        expected = trained["encoder"]["params"]["GaussianHead_0"]
        np.testing.assert_array_equal(head["mean"]["kernel"], expected["mean"]["kernel"])
        is_flat = not np.any(head["log_scale"]["kernel"])
        assert is_flat == (changes.get("metric") == "fisher")
    other = dataclasses.replace(first, start_from=tmp_path / "first", latent_dim=3)
    with pytest.raises(ValueError, match="has other nets"):
        start_params(other, build(other, load_data(other)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": -1.0}, "seconds of at least 0"),
        ({"warm_start": 1.0, "seconds": 3.0}, "warm_start in"),
        ({"warm_start": 0.5}, "warm_start needs seconds"),
    ],
)
def test_bad_plans_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        options(tmp_path, **changes)


def test_a_chart_without_steps_is_called_a_gaussian():
    assert label(preset("mnist_recentred_gaussian")) == "full-covariance Gaussian (amortised, recentred × 2)"
