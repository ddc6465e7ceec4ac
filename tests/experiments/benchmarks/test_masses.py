"""The benchmark of masses: its posteriors, and the page made of what it finds."""

import json
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.masses.config import Config
from experiments.benchmarks.masses.densities import build, skewed
from experiments.benchmarks.masses.rows import Findings, Row
from experiments.benchmarks.masses.tables import markdown
from experiments.support.machine import describe


@pytest.mark.parametrize("name", ["gaussian-3", "scales-4", "skewed-3", "schools"])
def test_posteriors(name):
    logdensity_fn, point = build(name, None)
    value, gradient = jax.value_and_grad(logdensity_fn)(jnp.asarray(point))
    assert np.isfinite(float(value))
    assert np.isfinite(gradient).all()


def test_the_skewed_ones_point_is_its_mode():
    logdensity_fn, point = skewed(4)
    np.testing.assert_allclose(jax.grad(logdensity_fn)(jnp.asarray(point)), 0, atol=1e-12)


def test_unknown_posterior():
    with pytest.raises(ValueError, match="densities are"):
        build("banana", None)


def test_page():
    rows = [
        Row(name, mass, [gradients, 4 * gradients], [100.0, 120.0], [7.0, 7.0], 0.8, 1)
        for name, mass, gradients in (
            ("gaussian-3", "diagonal", 10.0),
            ("gaussian-3", "low_rank", 5.0),
            ("schools", "diagonal", 10.0),
            ("schools", "low_rank", 20.0),
        )
    ]
    found = Findings(rows)
    report = json.loads(json.dumps(found.to_json()))
    assert Findings.from_json(report) == found
    assert rows[0].mean == pytest.approx(20.0)
    config = asdict(Config()) | {"data_dir": None, "folder": None}
    report |= {"config": config, "environment": describe(), "seconds": 1.0, "command": "python -m x"}
    page = markdown(report)
    assert (
        "`low_rank` takes 1.00 of the gradients of `diagonal` (geometric mean): gaussian-3 0.50, schools 2.00."
        in page
    )
    assert "| gaussian-3 | low_rank | 10 | 5 20 | 110 | 7.0 | 0.800 | 1 |" in page
