"""Annealed importance sampling on a model whose p(x) and posterior are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hmcvae import VAE as VAEModel
from hmcvae import annealing, bounds, data, likelihoods, posteriors
from tests.support import models
from tests.support.weights import WHITE

VAE, PARAMS = models.linear_gaussian()
X = jnp.array([0.4, -0.7, 1.1])
EXACT = float(models.log_evidence(PARAMS, X))
COUNT = 4000


def copies(count: int = COUNT) -> jax.Array:
    return jnp.broadcast_to(X, (count, len(X)))


def exact_draws(count: int = COUNT) -> jax.Array:
    mean, covariance = models.exact_posterior(PARAMS, X)
    return jax.random.multivariate_normal(jax.random.key(1), mean, covariance, (count,))


POSTERIORS = {
    "standard": posteriors.standard_normal(),
    "diagonal": posteriors.mean_field(whitened=True),
    "fisher": posteriors.fisher(models.LATENT),
}


@pytest.mark.parametrize("num_temperatures", [1, 4])
@pytest.mark.parametrize("name", POSTERIORS)
def test_weights_are_unbiased_forwards_and_backwards(name, num_temperatures):
    """E[w] = p(x) and, from exact draws, E[1 / w'] = 1 / p(x), within 4 standard errors, however few the
    temperatures; their logarithms lie on either side."""
    options = {
        "num_temperatures": num_temperatures,
        "num_chains": 1,
        "num_steps": 2,
        "posterior": POSTERIORS[name],
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
        "posterior": posteriors.standard_normal(),
        "batch_size": 300,
    }
    below = annealing.ais(VAE, PARAMS, jax.random.key(2), copies(300), **options)
    above = annealing.reverse_ais(VAE, PARAMS, jax.random.key(3), copies(300), exact_draws(300), **options)
    np.testing.assert_allclose(below.log_likelihood.mean(), EXACT, atol=0.035)
    np.testing.assert_allclose(above.log_likelihood.mean(), EXACT, atol=0.035)
    assert (np.abs(below.acceptance_rate - annealing.chains.TARGET_ACCEPTANCE) < 0.15).all()
    assert below.log_weight_sd.mean() < 0.4


@pytest.mark.slow
def test_bounds_of_a_trained_decoder_stay_below_the_upper_estimate():
    """On images that the decoder made, with the z they were made of: bound ≤ AIS ≤ reverse AIS, for every bound."""
    images = data.load("digits").train.reshape(-1, 64) / 16.0
    pixels = jnp.asarray(images[:1000] > 0.5, jnp.float32)
    latent, width = 4, 32
    keys = jax.random.split(jax.random.key(0), 4)

    def matrix(key, rows, columns):
        return jax.random.normal(key, (rows, columns)) / jnp.sqrt(rows)

    net = {
        "in": matrix(keys[0], 64, width),
        "posterior": matrix(keys[1], width, 2 * latent),
        "hidden": matrix(keys[2], latent, width),
        "out": matrix(keys[3], width, 64),
        "offset": jnp.zeros(64),
    }

    def encode(p, x):
        h = jnp.tanh(x @ p["in"])
        return (h @ p["posterior"])[:latent], (h @ p["posterior"])[latent:] - 1.0, h

    def decode(p, z):
        return jnp.tanh(z @ p["hidden"]) @ p["out"] + p["offset"]

    vae = VAEModel(encode, decode, likelihoods.bernoulli(), latent)
    elbo, optimizer = bounds.elbo(vae), optax.adam(3e-3)

    def loss(net, key):
        log_weights = jax.vmap(elbo, (None, 0, 0))(
            {"vae": net, "bound": {}}, jax.random.split(key, len(pixels)), pixels
        )[0]
        return -log_weights.mean()

    @jax.jit
    def train(net):
        def step(carry, key):
            net, state = carry
            updates, state = optimizer.update(jax.grad(loss)(net, key), state)
            return (optax.apply_updates(net, updates), state), None

        steps = jax.random.split(jax.random.key(1), 400)
        return jax.lax.scan(step, (net, optimizer.init(net)), steps)[0][0]

    trained = train(net)
    assert loss(trained, keys[0]) < loss(net, keys[0]) - 10  # it has learned something
    z, x = annealing.simulate(vae, trained, jax.random.key(2), 60)
    settings: dict = {"num_temperatures": 200, "num_chains": 4, "num_steps": 3, "batch_size": 60}
    below = annealing.ais(vae, trained, jax.random.key(3), x, **settings).log_likelihood.mean()
    upper = annealing.reverse_ais(vae, trained, jax.random.key(4), x, z, **settings).log_likelihood.mean()
    assert abs(upper - below) < 0.25
    # Four latents are few enough for draws from the prior: a third estimate that shares nothing with annealing.
    prior = jax.random.normal(jax.random.key(6), (100_000, latent))

    def log_evidence(x):
        log_p = jax.vmap(lambda z: vae.likelihood.log_prob(decode(trained, z), x))(prior)
        return jax.nn.logsumexp(log_p) - jnp.log(len(prior))

    exact = jax.lax.map(log_evidence, x).mean()
    assert below - 0.1 < exact < upper + 0.1
    posterior = posteriors.gauss_newton(posteriors.fisher(latent))
    found = {
        "elbo": elbo,
        "hvi": bounds.hvi(vae, num_steps=2),
        "whitened": bounds.hvi(vae, posterior=posterior, num_steps=2),
        "rhvi": bounds.rhvi(vae, posterior=posterior, num_steps=2),
    }
    means = {}
    for name, bound in found.items():
        params = {"vae": trained, "bound": bound.init(jax.random.key(5))}
        draws = [jax.random.split(jax.random.key(i), 60) for i in range(20)]
        evaluate = jax.jit(jax.vmap(bound, (None, 0, 0)))
        means[name] = float(np.mean([evaluate(params, keys, x)[0] for keys in draws]))
        assert means[name] < min(upper, exact), (name, means, upper)


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
    assert (result.effective_sample_size == 0).all()


def test_the_size_of_the_chains_weights_tells_a_loose_answer_from_a_good_one():
    """One temperature from the prior to a sharp posterior: the best of 8 chains carries the answer, far below p(x)."""
    sharp = VAEModel(VAE.encode, VAE.decode, likelihoods.gaussian(0.01), models.LATENT)
    options: dict = {"num_chains": 8, "posterior": posteriors.standard_normal(), "num_steps": 3}
    loose = annealing.ais(sharp, PARAMS, jax.random.key(2), copies(20), num_temperatures=1, **options)
    good = annealing.ais(VAE, PARAMS, jax.random.key(2), copies(20), num_temperatures=300, **options)
    assert loose.effective_sample_size.mean() < 1.5
    assert good.effective_sample_size.mean() > 6
    assert ((good.effective_sample_size >= 1) & (good.effective_sample_size <= 8)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: annealing.ais(VAE, PARAMS, jax.random.key(0), copies(0)), "at least one example"),
        (lambda: annealing.ais(VAE, PARAMS, jax.random.key(0), copies(1), num_chains=0), "num_chains"),
        (lambda: annealing.ais(VAE, PARAMS, jax.random.key(0), copies(1), num_steps=0), "num_steps"),
        (lambda: annealing.sigmoid_schedule(0), "num_temperatures"),
        (lambda: annealing.sigmoid_schedule(10, 0.0), "steepness"),
        (lambda: annealing.sigmoid_schedule(10, float("inf")), "steepness"),
        (lambda: annealing.simulate(VAE, PARAMS, jax.random.key(0), 1, True), "latent_dim"),
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
