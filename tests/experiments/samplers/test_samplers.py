"""The sampler experiments: their targets, their tables, and what they refuse."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from experiments.samplers import comparison, logistic, measures, targets
from experiments.samplers.figures import Dynamics, make_trajectory
from hmcvae import integrators, metrics

# Runs of a few draws, and of two transitions of warm-up, are in trouble and say so.
pytestmark = pytest.mark.filterwarnings("ignore::hmcvae.SamplingWarning")


def test_the_bananas_moments_are_those_of_its_density():
    """By another route: θ₁ given θ₂ is normal, and what is left is a sum over θ₂."""
    target = targets.banana()
    b = np.linspace(-4, 4, 20001)
    # Prior N(0, 1) on θ₁, n = 100 observations of θ₁ + θ₂² with variance 4: weight 25.
    variance, marginal = 1 / 26, 1 / 25 + 1
    mean = 25 * (1 - b**2) * variance
    weights = np.exp(-0.5 * b**2 - 0.5 * (1 - b**2) ** 2 / marginal)
    weights /= weights.sum()
    np.testing.assert_allclose(target.mean, [weights @ mean, 0], atol=1e-6)
    np.testing.assert_allclose(target.square, [weights @ (mean**2 + variance), weights @ b**2], rtol=1e-5)


def test_the_fisher_metric_of_the_banana_is_the_expected_hessian():
    """Where the residual is zero the Hessian of -log p is the Fisher information."""
    target, z = targets.banana(), jnp.array([0.36, 0.8])
    np.testing.assert_allclose(
        target.metric.tensor(z), -jax.hessian(target.logdensity_fn)(z), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(
    ("name", "shape"), [("pima", (532, 8)), ("ripley", (250, 7)), ("german", (1000, 25))]
)
def test_logistic_data_are_prepared_as_published(data_dir, name, shape):
    X, t = targets.load_logistic(name, data_dir)
    assert X.shape == shape
    assert set(np.unique(t)) == {0.0, 1.0}
    np.testing.assert_array_equal(X[:, 0], 1)
    np.testing.assert_allclose(X[:, 1].std(ddof=1), 1)
    if name == "ripley":
        np.testing.assert_allclose(X[:, 3], X[:, 1] ** 2)


def test_a_data_set_that_is_not_there(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"--data-dir must name the folder that holds logreg/pima\.npz"
    ):
        targets.load_logistic("pima", tmp_path)
    with pytest.raises(ValueError, match="must be one of australian"):
        targets.load_logistic("iris", tmp_path)
    with pytest.raises(ValueError, match="methods must be among"):
        logistic.LogisticConfig(methods=("Gibbs",))


@pytest.mark.slow
def test_logistic_posterior_agrees_with_nuts(data_dir):
    """Mean and second moment of every coefficient, within 4 standard errors."""
    pytest.importorskip("blackjax")
    target = targets.logistic("pima", *targets.load_logistic("pima", data_dir))
    config = logistic.LogisticConfig(num_samples=4000, num_warmup=500)
    moments = []
    for method in ("RMHMC", "NUTS"):
        samples, _ = logistic.SAMPLERS[method].make_run(target, config)(jax.random.key(3))
        found, draws = hmcvae.diagnose(samples), np.asarray(samples.position[0])
        for values, sizes in ((draws, found.ess_mean), (draws**2, found.ess_square)):
            moments.append((values.mean(0), values.std(0) / np.sqrt(np.minimum(sizes, 4000))))
    for (a, error_a), (b, error_b) in zip(moments[:2], moments[2:], strict=True):
        assert np.all(np.abs(a - b) < 4 * np.hypot(error_a, error_b))


def test_the_logistic_table_has_ours_and_theirs(data_dir, tmp_path):
    config = logistic.LogisticConfig(
        data_dir=data_dir,
        datasets=("ripley",),
        methods=("RMHMC", "mMALA"),
        num_runs=2,
        num_samples=60,
        num_warmup=30,
        results=tmp_path,
    )
    report = logistic.run_all(config, "the command")
    rows = report["datasets"]["ripley"]["rows"]
    assert [row["method"] for row in rows] == ["RMHMC", "mMALA"]
    assert all(row["num_transitions"] == 120 and row["seconds"] > 0 for row in rows)
    text = (tmp_path / "logistic_regression.md").read_text()
    assert "28.0; 4273, 4677, 4961; 0.0065" in text
    assert (tmp_path / "logistic_regression.png").stat().st_size > 5000
    assert json.loads((tmp_path / "logistic_regression.json").read_text())["command"] == "the command"


def test_running_errors_go_down_as_one_over_the_root():
    draws = np.random.default_rng(0).standard_normal((64, 1000, 2))
    exact = measures.Moments(np.zeros(2), np.array([1.0, np.nan]))
    errors = measures.running_error(draws, exact)
    np.testing.assert_allclose(errors[[99, 999]], [0.1, 0.1 / np.sqrt(10)], rtol=0.2)


def test_derivatives_are_counted():
    """Leapfrog takes one a step; RMHMC two a step and one an iteration."""
    target, starts = targets.banana(), jnp.zeros((2, 2))
    for algorithm, smallest in (
        (hmcvae.hmc(target.logdensity_fn, 0.05, 3), 3),
        (hmcvae.rmhmc(target.logdensity_fn, 0.05, 3, target.metric), 6 + 2 * 3),
    ):
        counts = measures.derivatives(hmcvae.sample(jax.random.key(0), algorithm, starts, num_samples=4))
        assert counts.shape == (2, 4)
        assert np.all(counts >= smallest)
        assert smallest > 3 or np.all(counts == 3)


@pytest.mark.slow
def test_the_comparison_writes_its_table_and_pictures(tmp_path):
    config = comparison.SamplersConfig(
        targets=("banana",), num_chains=2, num_samples=40, num_warmup=20, traced="banana", results=tmp_path
    )
    report = comparison.compare(config, "the command")
    assert [row["method"] for row in report["targets"]["banana"]] == ["HMC", "RMHMC"]
    assert (tmp_path / "compare_samplers_trajectories.png").stat().st_size > 20_000
    assert [row["num_transitions"] for row in report["targets"]["banana"]] == [2 * 40 * 10, 2 * 40]
    for kind in ("trace", "pair"):
        assert (tmp_path / f"compare_samplers_{kind}.png").stat().st_size > 10_000
    assert (tmp_path / "compare_samplers_convergence.png").stat().st_size > 20_000
    assert "| banana | RMHMC |" in (tmp_path / "compare_samplers.md").read_text()


def test_targets_have_the_draws_that_are_said(tmp_path):
    """A quarter in ten dimensions; and a target that is not there is an error, not another number of draws."""
    config = comparison.SamplersConfig(num_chains=2, num_samples=8, num_warmup=2, max_steps=2)
    target = comparison.case_of("funnel_10").make_fn(config)
    samples, _ = comparison.HMC.run("funnel_10", target, config)
    assert samples.position.shape == (2, 8 // 4 * 10, 10)
    for sampler, counts in ((comparison.HMC, [80, 80, 20, 80]), (comparison.RMHMC, [8, 8, 2, 8])):
        assert [sampler.num_draws(name, config) for name in comparison.TARGETS] == counts
    with pytest.raises(ValueError, match="targets must be among banana, .* got 'funnel, d = 10'"):
        comparison.HMC.run(target.name, target, config)
    for changes in ({"targets": ("funnel_11",)}, {"traced": "funnel"}):
        with pytest.raises(ValueError, match="targets must be among"):
            comparison.SamplersConfig(**changes)


def test_trajectories_end_where_a_solve_fails():
    target = targets.banana()
    metric = metrics.from_tensor(lambda z: jnp.eye(2) * (1 - 10 * z[0]))  # not positive definite to the right
    dynamics = Dynamics(integrators.generalized_leapfrog, 0.3, metric)
    path = make_trajectory(target, dynamics, 20)(np.array([0.0, 0.0]), jax.random.key(0))
    assert 1 <= len(path) < 21
    assert np.isfinite(path).all()
