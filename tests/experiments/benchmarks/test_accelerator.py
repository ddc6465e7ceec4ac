"""The call on an accelerator: a small one on the CPU, one that goes on, and what the page of a cut one says."""

import dataclasses
import json

import pytest

from experiments.benchmarks.accelerator import run, tables, trainings
from experiments.benchmarks.accelerator.config import Config, smaller
from experiments.benchmarks.accelerator.numerics import trajectories
from tests.support.runs import tiny


def test_trajectories_keep_their_energy_and_come_back():
    for row in trajectories():
        assert row["converged"] == 1.0, row
        assert 1e-6 < row["energy_error"] < 0.2, row
        assert row["left"] < 1e-2, row


@pytest.mark.slow
def test_a_call_checks_and_times(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "TIMINGS", 1e3)  # however slow the machine is
    config = dataclasses.replace(
        smaller(Config()), folder=tmp_path, presets=("digits_vae",), chains=(2,), seconds=1.0
    )
    report = run.call(config, "the command")
    assert [row["precision"] for row in report["log_weights"]] == ["default", "highest"]
    # On a CPU it is compared with itself.
    assert all(row["off_most"] < 1e-3 for row in report["log_weights"])
    assert [row["compute_dtype"] for row in report["epochs"]] == ["float32", "bfloat16"]
    assert all(row["images"] > 100 and row["images_per_second"] > 0 for row in report["epochs"])
    assert {row["integrator"] for row in report["chains"]} == {"leapfrog", "generalized leapfrog"}
    assert all(0.5 < row["acceptance"] <= 1 for row in report["chains"])
    assert report["trainings"] == []
    assert (tmp_path / "accelerator.md").read_text().count("Not measured") == 1
    assert json.loads((tmp_path / "accelerator.json").read_text()) == report


def test_a_training_stops_when_its_seconds_are_over_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "preset", lambda name: tiny(tmp_path / name, num_epochs=20000))
    config = dataclasses.replace(smaller(Config()), runs=tmp_path, steps_per_save=1)
    first = trainings.go_on("digits", 20.0, config)
    assert not first["is_done"]
    assert first["epochs_before"] == 0 < first["epochs"]
    assert abs(first["bounds"]["float32"] - first["bounds"]["bfloat16"]) < 2
    second = trainings.go_on("digits", 20.0, config)
    assert second["epochs_before"] == first["epochs"] < second["epochs"]
    assert second["epoch"] <= second["epochs"]


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
    assert page.count("Not measured: the call ended before.") == 5
    row = {"flops_per_second": 33.5e12, "compute_dtype": "float32"}
    assert tables.share_of_peak(row, "NVIDIA H200") == "50.0% / 6.8%"
    assert tables.share_of_peak(row | {"compute_dtype": "bfloat16"}, "NVIDIA H200") == "3.4%"
    assert tables.share_of_peak(row, "NVIDIA H100 PCIe") == tables.share_of_peak(row, "cpu") == "–"


def test_what_fails_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError("not so many")

    for name in ("log_weights", "epoch_row", "chain_rows", "go_on"):
        monkeypatch.setattr(run, name, fail)
    config = dataclasses.replace(smaller(Config()), folder=tmp_path, presets=("digits_vae",), chains=(2,))
    report = run.call(config, "the command")
    assert "error" not in report["trajectories"][0]
    assert [len(report[name]) for name in ("log_weights", "epochs", "chains", "trainings")] == [1, 2, 1, 1]
    page = (tmp_path / "accelerator.md").read_text()
    assert "- not measured, failed: digits_vae, bfloat16: MemoryError: not so many" in page
    assert page.count("not measured, failed") == 5


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
