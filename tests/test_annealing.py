"""Annealed importance sampling on a model whose p(x) and posterior are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import annealing, charts
from tests import models
from tests.test_charts import VAE as WHITE

VAE, PARAMS = models.linear_gaussian()
X = jnp.array([0.4, -0.7, 1.1])
EXACT = float(models.log_evidence(PARAMS, X))
COUNT = 4000


def copies(count: int = COUNT) -> jax.Array:
    return jnp.broadcast_to(X, (count, len(X)))


def exact_draws(count: int = COUNT) -> jax.Array:
    mean, covariance = models.exact_posterior(PARAMS, X)
    return jax.random.multivariate_normal(jax.random.key(1), mean, covariance, (count,))


CHARTS = {
    "standard": charts.standard(),
    "diagonal": charts.diagonal(),
    "fisher": charts.fisher(models.LATENT),
}


@pytest.mark.parametrize("num_temperatures", [1, 4])
@pytest.mark.parametrize("name", CHARTS)
def test_weights_are_unbiased_forwards_and_backwards(name, num_temperatures):
    """E[w] = p(x) and, from exact draws, E[1 / w'] = 1 / p(x), within 4 standard errors, however few the
    temperatures; their logarithms lie on either side."""
    options = {
        "num_temperatures": num_temperatures,
        "num_chains": 1,
        "num_steps": 2,
        "chart": CHARTS[name],
        "batch_size": COUNT,
    }
    vae = WHITE if name == "fisher" else VAE
    below = annealing.ais(vae, PARAMS, jax.random.key(2), copies(), **options)
    above = annealing.reverse_ais(vae, PARAMS, jax.random.key(3), copies(), exact_draws(), **options)
    assert float(below.nonfinite.max()) == float(above.nonfinite.max()) == 0
    for sign, result in ((1, below), (-1, above)):
        ratio = np.exp(sign * (np.asarray(result.log_likelihood) - EXACT))
        error = ratio.std() / np.sqrt(COUNT)
        # At one temperature the weight from the prior backwards has heavy tails: nothing to test.
        if error < 0.05:
            assert abs(ratio.mean() - 1) < 4 * error, (sign, ratio.mean(), error)
        else:
            assert (name, num_temperatures, sign) in {
                ("standard", 1, 1),
                ("standard", 1, -1),
                ("standard", 4, -1),
            }
    assert below.log_likelihood.mean() < EXACT < above.log_likelihood.mean()


def test_many_temperatures_close_the_sandwich():
    options = {
        "num_temperatures": 300,
        "num_chains": 4,
        "num_steps": 3,
        "chart": charts.standard(),
        "batch_size": 300,
    }
    below = annealing.ais(VAE, PARAMS, jax.random.key(2), copies(300), **options)
    above = annealing.reverse_ais(VAE, PARAMS, jax.random.key(3), copies(300), exact_draws(300), **options)
    np.testing.assert_allclose(below.log_likelihood.mean(), EXACT, atol=0.035)
    np.testing.assert_allclose(above.log_likelihood.mean(), EXACT, atol=0.035)
    assert (np.abs(below.acceptance_rate - annealing.TARGET_ACCEPTANCE) < 0.15).all()
    assert below.log_weight_sd.mean() < 0.4


def test_temperatures_rise_from_zero_to_one():
    betas = annealing.sigmoid_schedule(10)
    assert betas[0] == 0
    np.testing.assert_allclose(betas[-1], 1, rtol=1e-6)
    gaps = np.diff(betas)
    assert (gaps > 0).all()
    assert gaps[0] < gaps[5]


def test_simulated_data_are_draws_of_the_model():
    z, x = annealing.simulate(VAE, PARAMS, jax.random.key(4), 20_000)
    joint = np.cov(np.concatenate([z, x], 1).T)
    W = np.asarray(PARAMS["W"])
    np.testing.assert_allclose(joint[:2, :2], np.eye(2), atol=0.05)
    np.testing.assert_allclose(joint[2:, :2], W, atol=0.08)
    np.testing.assert_allclose(
        joint[2:, 2:], W @ W.T + models.SCALE**2 * np.eye(3), atol=0.05 * np.abs(W @ W.T).max() + 0.05
    )


def test_a_chain_that_fails_weighs_nothing_and_is_counted():
    broken = PARAMS | {"b": jnp.full(models.PIXELS, jnp.nan)}
    result = annealing.ais(VAE, broken, jax.random.key(0), copies(2), num_temperatures=3, num_chains=2)
    assert (result.nonfinite == 1).all()
    assert (result.log_likelihood == -jnp.inf).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: annealing.ais(VAE, PARAMS, jax.random.key(0), copies(0)), "at least one example"),
        (lambda: annealing.ais(VAE, PARAMS, jax.random.key(0), copies(1), num_chains=0), "num_chains"),
        (lambda: annealing.ais(VAE, PARAMS, jax.random.key(0), copies(1), num_steps=0), "num_steps"),
        (lambda: annealing.sigmoid_schedule(0), "num_temperatures"),
        (
            lambda: annealing.reverse_ais(VAE, PARAMS, jax.random.key(0), copies(2), exact_draws(1)),
            "one position for each of 2",
        ),
        (lambda: annealing.simulate(VAE, PARAMS, jax.random.key(0), 0), "num_examples"),
    ],
)
def test_bad_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
