"""The Riemannian benchmark writes its table, figures and picture without the peers, and its densities agree."""

import json
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.integrators import config as leapfrog_config
from experiments.benchmarks.integrators import run as leapfrog
from experiments.benchmarks.riemannian import run
from experiments.benchmarks.riemannian.config import PEERS, Config, smaller
from experiments.benchmarks.riemannian.density import NumpyRegression, regression

TINY = replace(
    smaller(Config()),
    num_rows=20,
    dim=2,
    dims=(2,),
    rows=(20,),
    many_chains=(2,),
    dtypes=("float32", "float64"),
    call_seconds=1e-4,
)


@pytest.fixture
def no_peers(monkeypatch):
    for peer in PEERS:
        monkeypatch.setitem(sys.modules, peer.name, None)  # as if it were not installed
    jax.config.update("jax_disable_most_optimizations", True)  # compiles in half the time
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("no_peers")
def test_without_the_peers_their_rows_say_so(tmp_path, capsys):
    report = run.benchmark(replace(TINY, folder=tmp_path), "the command")
    assert [row["contestant"] for row in report["against_blackjax"]] == [
        "ours",
        "unchecked",
        "midpoint",
        "ours",
        "unchecked",
        "midpoint",
        "loose",
    ]
    for row in report["against_blackjax"]:
        assert row["transitions_per_second"] > 0
        assert 0.5 < row["acceptance"] <= 1
        assert row["iterations"] > 2
    row, unchecked = report["against_mici"]["rows"]
    assert (row["contestant"], unchecked["contestant"]) == ("ours", "unchecked")
    assert row["draws"] == TINY.stretches * TINY.mici_draws
    assert row["ess_per_cpu_second"] > 0
    assert [row["dtype"] for row in report["floor"]] == ["float32", "float64"]
    for row in report["floor"]:
        assert row["over_floor"] > 0
        assert min(row["momentum_iterations"], row["position_iterations"]) >= 1
    assert {(row["varied"], row["dtype"]) for row in report["growth"]} == {
        (varied, dtype) for varied in ("dim", "rows", "chains") for dtype in ("float32", "float64")
    }
    assert all(row["steps_per_second"] > 0 for row in report["growth"])

    assert json.loads((tmp_path / "bench_riemannian.json").read_text())["growth"] == report["growth"]
    text, errors = (tmp_path / "bench_riemannian.md").read_text(), capsys.readouterr().err
    for peer in PEERS:
        assert f"not measured: `{peer.install}`" in text
        assert f"{peer.name} is not installed: not measured; {peer.install}" in errors
    assert (tmp_path / "bench_riemannian.png").stat().st_size > 10_000


def test_the_numpy_model_is_the_one_in_jax():
    model = regression(30, 3)
    logdensity_fn, metric = model.build("float64")
    peer = NumpyRegression(model.covariates, model.labels)
    assert float(jnp.max(jnp.abs(jax.grad(logdensity_fn)(jnp.asarray(model.mode))))) < 1e-3
    z, V = np.array([0.3, -0.2, 0.5]), np.arange(9.0).reshape(3, 3)
    gradient, value = peer.gradient_and_value(z)
    vjp, tensor = peer.vjp_and_metric(z)
    np.testing.assert_allclose(value, -logdensity_fn(jnp.asarray(z)))
    np.testing.assert_allclose(gradient, -jax.grad(logdensity_fn)(jnp.asarray(z)))
    np.testing.assert_allclose(tensor, metric.tensor(jnp.asarray(z)))
    _, pull_back = jax.vjp(metric.tensor, jnp.asarray(z))
    np.testing.assert_allclose(vjp(V), pull_back(jnp.asarray(V))[0])


@pytest.mark.parametrize(("module", "config"), [(run, Config), (leapfrog, leapfrog_config.Config)])
def test_unknown_peers_are_refused(module, config):
    with pytest.raises(ValueError, match=r"peers must be among .* got 'stan'"):
        module.benchmark(config(peers=("stan",)), "the command")


def test_peers_of_the_leapfrog_lead_to_the_riemannian_part(monkeypatch):
    called = []
    monkeypatch.setattr(run, "benchmark", lambda *arguments: called.append(arguments))
    config = leapfrog_config.Config(peers=("mici",), quick=True)
    leapfrog.run_riemannian(config, "the command")
    assert called == [(smaller(Config(peers=("mici",), quick=True)), "the command")]
