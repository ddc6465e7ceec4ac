"""The benchmark of the no-U-turn sampler: its densities, and the page and picture made of what it finds."""

import json
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.nuts.config import Config
from experiments.benchmarks.nuts.densities import build
from experiments.benchmarks.nuts.figures import draw
from experiments.benchmarks.nuts.rows import DrawsRow, Findings, SpeedRow
from experiments.benchmarks.nuts.tables import markdown
from experiments.support.machine import describe


@pytest.mark.parametrize("name", ["gaussian-3", "logistic", "poisson", "schools"])
def test_densities(name):
    density = build(name, "float64")
    value, gradient = jax.value_and_grad(density.logdensity_fn)(jnp.asarray(density.start))
    assert np.isfinite(float(value))
    assert np.isfinite(gradient).all()


def test_unknown_density():
    with pytest.raises(ValueError, match="densities are gaussian-<d>, .* got 'banana'"):
        build("banana", "float32")


def test_page_and_picture(tmp_path):
    speed = [
        SpeedRow("gaussian-10", chains, 10.0, 5.0, ratio, 0.1, 7.0, 7.5, 2.1)
        for chains, ratio in ((1, 2.0), (64, 0.9))
    ]
    draws = [DrawsRow("schools", sampler, 9.0, 100.0, 7.0, 0.8, 0) for sampler in ("hmcvae", "BlackJAX")]
    found = Findings(speed, draws)
    report = json.loads(json.dumps(found.to_json()))
    assert Findings.from_json(report) == found
    config = asdict(Config()) | {"folder": None}
    report |= {"config": config, "environment": describe("blackjax"), "seconds": 1.0}
    page = markdown(report)
    assert "chains: 1: expected ≥ 1.2 × the transitions, came 2.00 ×: met." in page
    assert "chains: 64: expected ≥ 1.2 × the transitions, came 0.90 ×: **not met**." in page
    draw(report, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
