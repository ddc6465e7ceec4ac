"""The benchmark of the bounds: every contestant in one run, ratios from the same rounds."""

import json

import numpy as np
import pytest

from experiments import bench_bounds
from experiments.bench_bounds import OURS, Config
from experiments.bench_training import made_up, smaller


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    config = smaller(Config(folder=folder, quick=True))
    return folder, bench_bounds.run(config, made_up(config.num_images), "command")


def test_every_bound_has_a_row_with_its_cost(report):
    folder, made = report
    ours = [row for row in made["rows"] if row["library"] == "hmcvae"]
    assert [row["model"] for row in ours] == list(OURS)
    for row in ours:
        assert row["seconds"] > 0
        assert row["gflop"] > 0
        assert row["temporary_mib"] > 0
    assert json.loads((folder / "bench_bounds.json").read_text())["rows"]
    assert {path.suffix for path in folder.iterdir()} == {".json", ".md", ".png"}


def test_dynamics_and_metrics_cost_operations(report):
    flops = {row["model"]: row["gflop"] for row in report[1]["rows"] if row["library"] == "hmcvae"}
    assert flops["VAE"] < flops["HVI"] < flops["Fisher"] < flops["RHVI"]
    assert flops["Fisher"] < flops["Fisher recentred"]


def test_parts_are_sums_of_what_is_needed():
    seconds = {"VAE": 1.0, "HVI": 4.0, "full Gaussian": 1.5, "Fisher Gaussian": 6.0, "RHVI's parts": 29.0}
    assert bench_bounds.parts(seconds) == {"amortised": 4.5, "Fisher": 9.0, "RHVI": 29.0}


def test_rows_without_the_peer_say_not_measured():
    measured = [
        {"model": name, "library": "hmcvae", "seconds": 1.0 + index, "cpu_seconds": 1.0, "rounds": [1.0]}
        for index, name in enumerate(OURS)
    ]
    known = {"hmcvae": {name: {"flops": 1e9, "temporary_bytes": 2**20} for name in OURS}}
    rows = bench_bounds.make_rows(measured, known)
    report = {
        "rows": rows,
        "config": {"num_images": 1, "batch_size": 1, "hidden": (2,), "latent_dim": 2, "num_steps": 3},
        "num_rounds": 1,
        "system": {"num_cores": 1, "cpu": "x", "jax": "1", "torch": "1", "pythae": "1"},
        "command": "c",
        "date": "d",
    }
    assert "not measured" in bench_bounds.markdown(report)
    np.testing.assert_allclose(rows[OURS.index("HVI")]["over_hvi"], 1)
