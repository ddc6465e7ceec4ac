"""Priors: densities, draws, and that a VAE with a Gaussian prior is one with N(0, I) in other coordinates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import hmcvae
from hmcvae import annealing, bounds, networks, posteriors, priors

D, SHAPE = 3, (2, 2, 1)
MEAN, LOG_SCALE = jnp.array([0.4, -0.3, 0.1]), jnp.array([0.3, -0.5, 0.2])
X = jnp.array([1.0, 0.0, 1.0, 1.0]).reshape(SHAPE)
Z = jnp.array([0.1, 0.7, -0.2])


def learned() -> priors.Prior:
    return priors.gaussian(lambda params: params["prior"])


def test_densities_are_scipys():
    np.testing.assert_allclose(
        priors.standard_normal().log_prob({}, Z), scipy.stats.norm.logpdf(Z).sum(), rtol=1e-12
    )
    expected = scipy.stats.norm.logpdf(Z, MEAN, np.exp(LOG_SCALE)).sum()
    np.testing.assert_allclose(learned().log_prob({"prior": (MEAN, LOG_SCALE)}, Z), expected, rtol=1e-12)


@pytest.mark.parametrize("prior", [priors.standard_normal(), learned()], ids=lambda prior: prior.name)
def test_draws_and_precision_are_the_densitys(prior):
    params = {"prior": (MEAN, LOG_SCALE)}
    draws = np.asarray(prior.sample(params, jax.random.key(0), (40_000, D)))
    mean, log_scale = (np.asarray(value) for value in prior.diagonal(params, D))
    assert np.all(np.abs(draws.mean(0) - mean) < 4 * np.exp(log_scale) / np.sqrt(len(draws)))
    np.testing.assert_allclose(draws.std(0), np.exp(log_scale), rtol=0.02)
    hessian = -jax.hessian(lambda z: prior.log_prob(params, z))(Z)
    precision = jnp.broadcast_to(prior.precision(params, D), (D,))
    np.testing.assert_allclose(jnp.diag(precision), hessian, atol=1e-12)


def pair() -> tuple[hmcvae.VAE, hmcvae.VAE, dict]:
    """A VAE with the prior N(m, s²), and the same model in u = (z - m) / s, whose prior is N(0, I)."""
    vae, init_params, _ = networks.build_vae(SHAPE, D, hmcvae.likelihoods.bernoulli(), hidden=(5,))
    params = jax.jit(init_params)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params) | {"prior": (MEAN, LOG_SCALE)}
    of_z = dataclasses.replace(vae, prior=learned())

    def encode(p, x):
        mean, log_scale, features = vae.encode(p, x)
        own, own_scale = p["prior"]
        return (mean - own) * jnp.exp(-own_scale), log_scale - own_scale, features

    def decode(p, u):
        mean, log_scale = p["prior"]
        return vae.decode(p, mean + jnp.exp(log_scale) * u)

    return of_z, hmcvae.VAE(encode, decode, vae.likelihood, D), params


OF_Z, OF_U, PARAMS = pair()


def whitened_encoder(vae, log_scale_of):
    """The encoder's scales are read in whitened coordinates by posteriors with a metric: the same numbers for both."""

    def encode(p, x):
        mean, _, features = vae.encode(p, x)
        return mean, log_scale_of(p, x), features

    return dataclasses.replace(vae, encode=encode)


def fisher_pair():
    def scales(p, x):
        return OF_Z.encode(p, x)[1]

    return whitened_encoder(OF_Z, scales), whitened_encoder(OF_U, scales)


BOUNDS = {
    "elbo": (lambda vae: bounds.elbo(vae), False),
    "elbo, analytic KL": (lambda vae: bounds.elbo(vae, kl="analytic"), False),
    "full, analytic KL": (lambda vae: bounds.elbo(vae, kl="analytic", posterior=posteriors.fisher(D)), True),
    "hvi, whitened": (lambda vae: bounds.hvi(vae, posterior=posteriors.mean_field(whitened=True)), False),
    "hvi, Fisher": (lambda vae: bounds.hvi(vae, posterior=posteriors.fisher(D), num_steps=3), True),
    "hvi, sketched": (lambda vae: bounds.hvi(vae, posterior=posteriors.fisher(D, num_probes=9)), True),
    "recentred": (
        lambda vae: bounds.elbo(vae, posterior=posteriors.gauss_newton(posteriors.fisher(D))),
        True,
    ),
    "rhvi": (
        lambda vae: bounds.rhvi(vae, posterior=posteriors.fisher(D), position_dependence=1.0, num_steps=2),
        True,
    ),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_gaussian_prior_is_a_change_of_coordinates(name):
    """Draw for draw: log p(x) is the same, and the Fisher metric with Λ = 1 / s² is that of u pulled back."""
    make, is_fisher = BOUNDS[name]
    of_z, of_u = fisher_pair() if is_fisher else (OF_Z, OF_U)
    key, values = jax.random.key(1), []
    for vae in (of_z, of_u):
        bound = make(vae)
        own = bound.init(jax.random.key(2))
        value, info = jax.jit(bound)({"vae": PARAMS, "bound": own}, key, X)
        assert bool(jnp.all(info.solver.converged))
        values.append(float(value))
    np.testing.assert_allclose(*values, rtol=1e-9)


def test_a_low_rank_correction_has_the_priors_precision():
    """At full rank it is the Fisher posterior, whatever is corrected."""
    of_z, _ = fisher_pair()
    example = of_z.encoded(PARAMS, X)
    corrected = posteriors.low_rank(posteriors.mean_field(whitened=True), example.features.shape[0], D, D)
    whole = posteriors.fisher(D)
    key = jax.random.key(3)
    first, second = (q.build(q.init(key), key, example) for q in (corrected, whole))
    A, B = np.asarray(first.matrix()), np.asarray(second.matrix())
    np.testing.assert_allclose(A @ A.T, B @ B.T, rtol=1e-8)


def test_models_draw_from_their_prior():
    z, x = annealing.simulate(OF_Z, PARAMS, jax.random.key(0), 4000)
    assert x.shape == (4000, *SHAPE)
    np.testing.assert_allclose(np.mean(z, axis=0), MEAN, atol=4 * 1.5 / np.sqrt(4000))


def test_a_prior_that_is_no_diagonal_gaussian_has_no_analytic_kl():
    other = dataclasses.replace(priors.standard_normal(), diagonal=None, name="mine")
    with pytest.raises(ValueError, match="needs a diagonal Gaussian as prior, got mine"):
        bounds.elbo(dataclasses.replace(OF_Z, prior=other), kl="analytic")
