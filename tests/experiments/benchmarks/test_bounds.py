"""The benchmark of the bounds: every contestant in one run, ratios from the same rounds."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.bounds import run, tables
from experiments.benchmarks.bounds.config import OURS, Config
from experiments.benchmarks.bounds.rows import make_rows
from experiments.benchmarks.bounds.rows import parts as sums_of_parts
from experiments.benchmarks.training import parts
from experiments.benchmarks.training.config import made_up, smaller
from experiments.benchmarks.training.ours import count_flops, make_bound
from experiments.benchmarks.training.parts import expected_flops
from experiments.benchmarks.training.records import EpochTime, Facts, make_row


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    config = smaller(Config(folder=folder, quick=True))
    return folder, run.benchmark(config, made_up(config.num_images), "command")


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


def test_the_parts_of_a_riemannian_step_do_all_the_work_that_is_counted_on_paper():
    """Were the metric, its factor or either gradient dead code, at any position, XLA would count far less; a force or a
    solve more. The decoder's passes are most of it at these sizes."""
    hidden, d, num_steps, num_images = (64, 64), 12, 2, 8
    sizes = {"hidden": hidden, "latent_dim": d, "num_steps": num_steps}
    config = Config(batch_size=num_images, num_images=num_images, **sizes)
    images = made_up(num_images)
    flops = {
        m: count_flops(config, m, images) / num_images for m in ("Fisher Gaussian", "RHVI's parts", "RHVI")
    }
    num_multiplications = d * 64 + 64 * 64 + 64 * 784
    expected = expected_flops(num_multiplications, d, 784, num_steps)
    assert 1 < (flops["RHVI's parts"] - flops["Fisher Gaussian"]) / expected < 1.25
    # Metrics alone, one of them the posterior's, would be 1.3 times this.
    metric = 3 * 2 * (d * num_multiplications + d**2 * 784)
    assert flops["RHVI's parts"] > 2.4 * (num_steps + 1) * metric
    assert flops["RHVI"] > 1.1 * flops["RHVI's parts"]


def test_every_part_of_an_explicit_step_moves_the_weight(monkeypatch):
    """Each is taken away in turn, and the bound's draw changes."""
    config = Config(hidden=(8, 8), latent_dim=3, num_steps=2)
    bound, init = make_bound(config, "RHVI's parts", (28, 28, 1))
    params, x = init(jax.random.key(0)), jnp.asarray(made_up(1)[0] / 255, jnp.float32)
    value = bound(params, jax.random.key(1), x)[0]
    less = {
        "gradient of log p": lambda gradient, geometry: -0.5 * geometry.log_det_grad,
        "gradient of log |G|": lambda gradient, geometry: gradient,
    }
    for name, static in less.items():
        monkeypatch.setattr(parts, "_static", static)
        assert abs(bound(params, jax.random.key(1), x)[0] - value) > 1e-5 * abs(value), name


def test_parts_are_sums_of_what_is_needed():
    seconds = {"VAE": 1.0, "HVI": 4.0, "full Gaussian": 1.5, "Fisher Gaussian": 6.0, "RHVI's parts": 29.0}
    assert sums_of_parts(seconds) == {"amortised": 4.5, "Fisher": 9.0, "RHVI": 29.0}


def test_rows_without_the_peer_say_not_measured():
    measured = [
        make_row("hmcvae", name, 1, [EpochTime(1.0 + index, 1.0, 0.0)]) for index, name in enumerate(OURS)
    ]
    known = {"hmcvae": {name: Facts(flops=1e9, temporary_bytes=2**20) for name in OURS}}
    rows = make_rows(measured, known)
    report = {
        "rows": [dataclasses.asdict(row) for row in rows],
        "config": {"num_images": 1, "batch_size": 1, "hidden": (2,), "latent_dim": 2, "num_steps": 3},
        "num_rounds": 1,
        "environment": {
            "platform": "cpu",
            "num_cpus": 1,
            "cpu": "x",
            "jax": "1",
            "torch": "1",
            "pythae": "1",
        },
        "command": "c",
        "date": "d",
    }
    assert "not measured" in tables.markdown(report)
    np.testing.assert_allclose(rows[OURS.index("HVI")].over_hvi, 1)
