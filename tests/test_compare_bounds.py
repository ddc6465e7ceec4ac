"""The comparison trains what is missing, keeps what is there, and writes its table and picture."""

import json

import pytest

from experiments import compare_bounds
from experiments.compare_bounds import CompareConfig, compare, label, run_config
from experiments.config import preset


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
