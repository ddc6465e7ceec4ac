"""Mixtures of Gaussians as priors, the VampPrior among them: densities, draws, and bounds of a known log p(x)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import hmcvae
from hmcvae import annealing, bounds, evaluation, likelihoods, posteriors, priors

LOGITS = jnp.array([0.3, -0.4, 0.1])
MEANS = jnp.array([[1.5, 0.0], [-1.0, 0.8], [0.2, -1.2]])
LOG_SCALES = jnp.array([[-0.5, -0.2], [-0.1, -0.7], [-0.3, -0.3]])
PROBS = np.asarray(jax.nn.softmax(LOGITS))
W = jnp.array([[1.0, 0.4], [-0.6, 0.9], [0.3, -1.1]])
SD = 0.6
PARAMS = {"W": W, "E": 0.1 * W.T, "u": jax.random.normal(jax.random.key(1), (3, 3)), "logits": LOGITS}


def encode(params, x):
    return params["E"] @ x, 0.1 * params["E"] @ x + 0.1, x


MIXTURE = priors.mixture(lambda params: (LOGITS, MEANS, LOG_SCALES))
VAMP = priors.vamp(encode, lambda params: (params["u"], params["logits"]))


def components(prior):
    if prior is MIXTURE:
        return MEANS, LOG_SCALES
    means, log_scales, _ = jax.vmap(encode, (None, 0))(PARAMS, PARAMS["u"])
    return means, log_scales


PRIORS = pytest.mark.parametrize("prior", [MIXTURE, VAMP], ids=lambda prior: prior.name)


@PRIORS
def test_density_is_scipys(prior):
    z = np.array([0.2, -0.5])
    means, log_scales = components(prior)
    own = [scipy.stats.norm.logpdf(z, m, np.exp(s)).sum() for m, s in zip(means, log_scales, strict=True)]
    np.testing.assert_allclose(
        prior.log_prob(PARAMS, jnp.asarray(z)), np.log(PROBS @ np.exp(own)), rtol=1e-10
    )


@PRIORS
def test_draws_have_the_mean_and_the_inverse_of_the_precision(prior):
    draws = np.asarray(prior.sample(PARAMS, jax.random.key(0), (40_000, 2)))
    means, _ = components(prior)
    precision = np.asarray(prior.precision(PARAMS, 2))
    covariance = np.linalg.inv(precision)
    np.testing.assert_array_equal(precision, precision.T)
    assert np.all(np.abs(draws.mean(0) - PROBS @ means) < 4 * np.sqrt(np.diag(covariance) / len(draws)))
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.03 * np.max(covariance))
    assert prior.sample(PARAMS, jax.random.key(0), (4, 5, 2)).shape == (4, 5, 2)


def exact(prior, x):
    """x = W z + noise: a mixture of Gaussians."""
    means, log_scales = components(prior)
    own = [
        scipy.stats.multivariate_normal.logpdf(x, W @ m, W @ np.diag(np.exp(2 * s)) @ W.T + SD**2 * np.eye(3))
        for m, s in zip(means, log_scales, strict=True)
    ]
    return np.log(PROBS @ np.exp(own))


@pytest.mark.parametrize("name", ["elbo", "fisher", "hvi", "rhvi"])
@PRIORS
def test_bounds_and_annealing_are_of_the_known_probability(prior, name):
    vae = hmcvae.VAE(encode, lambda params, z: params["W"] @ z, likelihoods.gaussian(SD), 2, prior)
    xs = jnp.array([[0.4, 1.0, -0.7], [1.5, 0.2, 0.8]])
    expected = np.array([exact(prior, x) for x in xs])
    bound = {
        "elbo": lambda: bounds.elbo(vae),
        "fisher": lambda: bounds.elbo(vae, posterior=posteriors.fisher(2)),
        "hvi": lambda: bounds.hvi(vae, num_transitions=1, num_steps=2),
        "rhvi": lambda: bounds.rhvi(vae, num_transitions=1, num_steps=1),
    }[name]()
    params = {"vae": PARAMS, "bound": bound.init(jax.random.key(0))}
    result = evaluation.estimate(bound, params, jax.random.key(3), xs, num_samples=6000)
    sd = np.sqrt((6000 / np.asarray(result.effective_sample_size) - 1) / 6000)
    assert np.all(np.abs(result.log_likelihood - expected) < 4 * sd + 0.01)
    if name == "elbo":
        annealed = annealing.ais(vae, PARAMS, jax.random.key(4), xs, num_temperatures=60, num_chains=300)
        np.testing.assert_allclose(annealed.log_likelihood, expected, atol=0.12)


def test_pseudo_inputs_and_weights_learn():
    vae = hmcvae.VAE(encode, lambda params, z: params["W"] @ z, likelihoods.gaussian(SD), 2, VAMP)
    bound = bounds.elbo(vae)
    gradients = jax.grad(lambda p: bound({"vae": p, "bound": {}}, jax.random.key(0), jnp.ones(3))[0])(PARAMS)
    assert all(float(jnp.max(jnp.abs(gradients[name]))) > 0 for name in ("u", "logits", "E"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: priors.mixture(lambda p: (LOGITS[:2], MEANS, LOG_SCALES)).log_prob({}, jnp.zeros(2)),
            r"got shapes \(2,\), \(3, 2\) and \(3, 2\)",
        ),
        (
            lambda: bounds.elbo(
                hmcvae.VAE(encode, lambda p, z: z, likelihoods.gaussian(SD), 2, MIXTURE), kl="analytic"
            ),
            "analytic",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
