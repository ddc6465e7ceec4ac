"""The call on an accelerator: a small one on the CPU, one that goes on, and what the page of a cut one says."""

import dataclasses
import json

import pytest

from experiments.benchmarks.accelerator import run, tables
from experiments.benchmarks.accelerator.config import Config, smaller
from experiments.benchmarks.accelerator.numerics import trajectories


def test_trajectories_keep_their_energy_and_come_back():
    for row in trajectories():
        assert row["converged"] == 1.0, row
        assert 1e-6 < row["energy_error"] < 0.2, row
        assert row["left"] < 1e-2, row


@pytest.mark.slow
def test_a_call_from_end_to_end_and_one_that_goes_on(tmp_path):
    changes = {"presets": ("digits",), "chains": (2,), "seconds": 90.0}
    config = dataclasses.replace(smaller(Config()), folder=tmp_path, runs=tmp_path / "runs", **changes)
    # No timing: the time of a training is what matters here, so that one epoch at least is made.
    first = run.call(config, "the command")
    (training,) = first["trainings"]
    assert training["epochs_before"] == 0
    assert training["epochs"] > 0
    assert abs(training["bounds"]["float32"] - training["bounds"]["bfloat16"]) < 2
    assert training["seconds"] < 100
    assert [row["precision"] for row in first["log_weights"]] == ["default", "highest"]
    # On a CPU it is compared with itself.
    assert all(row["off_most"] < 1e-3 for row in first["log_weights"])
    assert {row["compute_dtype"] for row in first["epochs"]} == {"float32", "bfloat16"}
    assert all(row["images"] == 400 and row["images_per_second"] > 0 for row in first["epochs"])
    assert {row["integrator"] for row in first["chains"]} == {"leapfrog", "generalized leapfrog"}
    assert all(0.5 < row["acceptance"] <= 1 for row in first["chains"])
    page = (tmp_path / "accelerator.md").read_text()
    assert "Not measured" not in page
    second = run.call(dataclasses.replace(config, seconds=20.0), "the command")
    assert all(row["epochs_before"] == training["epochs"] for row in second["trainings"])
    assert json.loads((tmp_path / "accelerator.json").read_text()) == second


def test_a_page_of_a_call_that_was_cut_off_says_what_is_not_measured():
    environment = {
        "jax": "0",
        "device": "NVIDIA H200",
        "cpu": "x",
        "num_cpus": 1,
        "platform": "gpu",
        "load": 0.0,
    }
    parts = {key: [] for key in ("trajectories", "log_weights", "epochs", "chains", "trainings")}
    page = tables.markdown({"environment": environment, "command": "the command", **parts})
    assert page.count("Not measured: the call ended before.") == 4
    assert tables.share_of_peak(33.5e12, "NVIDIA H200") == "50.0% / 6.8%"
    assert tables.share_of_peak(1.0, "cpu") == "–"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": 0.0}, "seconds must be"),
        ({"chains": (0,)}, "chains must be"),
        ({"presets": ("mnist_vea",)}, "mnist_vea"),
    ],
)
def test_bad_settings_are_told_before_any_compute(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)
