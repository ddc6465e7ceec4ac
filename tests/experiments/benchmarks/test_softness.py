"""The benchmark of softness: its posteriors, and the page made of what it finds."""

import json
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments.benchmarks.softness.config import Config
from experiments.benchmarks.softness.densities import EFFECTS, ERRORS, build, schools
from experiments.benchmarks.softness.rows import Findings, Row
from experiments.benchmarks.softness.tables import markdown
from experiments.support.machine import describe


@pytest.mark.parametrize("name", ["funnel-3", "schools"])
def test_posteriors(name):
    logdensity_fn, point = build(name, None)
    value, gradient = jax.value_and_grad(logdensity_fn)(jnp.asarray(point))
    assert np.isfinite(float(value))
    assert np.isfinite(gradient).all()


def test_schools_are_centred():
    """Differences of the log density are those of its parts by SciPy."""
    logdensity_fn, point = schools()

    def parts(z):
        mu, tau, theta = z[0], np.exp(z[1]), z[2:]
        prior = stats.norm(0, 5).logpdf(mu) + stats.halfcauchy(scale=5).logpdf(tau) + np.log(tau)
        return (
            prior + stats.norm(mu, tau).logpdf(theta).sum() + stats.norm(theta, ERRORS).logpdf(EFFECTS).sum()
        )

    other = point + np.linspace(-1, 1, 10)
    found = float(logdensity_fn(jnp.asarray(other)) - logdensity_fn(jnp.asarray(point)))
    assert found == pytest.approx(parts(other) - parts(point), rel=1e-10)


def test_unknown_posterior():
    with pytest.raises(ValueError, match="posteriors are"):
        build("banana", None)


def test_page():
    row = Row("funnel-3", False, 1e6, 0.1, 0.8, 0.25, 0.0, 0.0, 30.0, 100.0, 1000)
    own = replace(row, scaled=True, softness=3.0, failed=0.001, least_ess=200.0)
    found = Findings([row, own])
    report = json.loads(json.dumps(found.to_json()))
    assert Findings.from_json(report) == found
    assert row.cost == 300
    config = asdict(Config()) | {"data_dir": None, "folder": None}
    report |= {"config": config, "environment": describe(), "seconds": 1.0, "command": "python -m x"}
    page = markdown(report)
    assert (
        "- funnel-3: 0.1 to 25.0 % of the transitions failed, least ESS 100 to 200 of 1000; "
        "softness 1e+06 in units of 1: 25.0 % failed; softness 3 in units of σ: 0.1 % failed." in page
    )
    assert "| funnel-3 | 1 | 1e+06 | 0.1 | 0.80 | 25.0 % | 0.0 % | 0.0 % | 30 | 100 | 300 |" in page
