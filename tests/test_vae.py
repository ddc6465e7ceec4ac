"""The VAE's densities against scipy and Monte Carlo, and what it refuses."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import hmcvae
from hmcvae import bounds
from hmcvae.priors import gaussian_log_prob
from tests.support import models

Z = jnp.array([0.1, 0.7, -0.2])


def test_gaussian_log_prob_is_scipys():
    mean, log_scale = jnp.array([0.3, -1.2, 0.0]), jnp.array([-0.5, 0.4, -2.0])
    expected = scipy.stats.norm.logpdf(Z, mean, np.exp(log_scale)).sum()
    np.testing.assert_allclose(gaussian_log_prob(Z, mean, log_scale), expected, rtol=1e-12)


def test_log_joint_is_likelihood_times_prior():
    vae, params = models.linear_gaussian()
    x, z = jnp.array([0.4, -0.7, 1.1]), jnp.array([0.2, -0.9])
    mean = params["W"] @ z + params["b"]
    expected = scipy.stats.norm.logpdf(x, mean, models.SCALE).sum() + scipy.stats.norm.logpdf(z).sum()
    np.testing.assert_allclose(vae.log_joint(params, x, z), expected, rtol=1e-12)
    np.testing.assert_allclose(vae.logdensity_fn(params, x)(z), expected, rtol=1e-12)
    np.testing.assert_allclose(vae.generate(params, z), mean, rtol=1e-12)


def of_encoder(encode, latent_dim=None) -> hmcvae.VAE:
    return hmcvae.VAE(encode, lambda params, z: z, hmcvae.likelihoods.bernoulli(), latent_dim)


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda _, x: (x, x), r"\(mean, log_scale, features\), .*, got tuple of length 2"),
        (lambda _, x: x, r"\(mean, log_scale, features\), .*, got one array of shape \[3\]"),
        (lambda _, x: (x[None], x[None], x), r"one shape \[d\] for one example, got \(1, 3\) and \(1, 3\)"),
        (lambda _, x: (x, x[:2], x), r"one shape \[d\] for one example, got \(3,\) and \(2,\)"),
        (lambda _, x: (x, x, x), r"latent_dim is 2, but encode returned means of \(3,\)"),
    ],
)
def test_encoders_that_return_something_else_are_refused(encode, message):
    with pytest.raises(ValueError, match=message):
        of_encoder(encode, latent_dim=2).encoded({}, Z)


def test_densities_that_are_not_summed_are_refused():
    """Of one's own likelihood or prior: later sums over draws would take the entries for draws."""
    vae, params = models.linear_gaussian()
    x, z = jnp.array([0.4, -0.7, 1.1]), jnp.array([0.2, -0.9])
    for log_prob, shape in (
        (lambda f, x: -(x**2), "[3]"),
        (lambda f, x: jnp.sum(-(x**2), keepdims=True), "[1]"),
    ):
        own = vae.likelihood._replace(log_prob=log_prob, name="own")
        with pytest.raises(
            ValueError, match="log_prob of the likelihood own must return one number"
        ) as caught:
            bounds.iwae(dataclasses.replace(vae, likelihood=own), num_samples=3)(
                {"vae": params, "bound": {"posterior": {}}}, jax.random.key(0), x
            )
        assert f"got an array of shape {shape}: sum over" in str(caught.value)
    prior = dataclasses.replace(vae.prior, log_prob=lambda params, z: -(z**2), name="own")
    with pytest.raises(
        ValueError, match="log_prob of the prior own must return one number, got .* shape \\[2\\]"
    ):
        dataclasses.replace(vae, prior=prior).log_joint(params, x, z)


def test_what_a_net_was_given_is_told_with_its_error():
    """A batch in the place of an example, or the other way round."""
    vae = hmcvae.VAE(
        lambda _, x: (x @ x, x, x), lambda _, z: jnp.ones((2, 2)) @ z, hmcvae.likelihoods.gaussian(1.0)
    )
    with pytest.raises(ValueError, match="matmul") as caught:
        vae.encoded({}, jnp.zeros(()))
    assert caught.value.__notes__[-1:] == [
        "(encode is given one example, of shape []; a batch goes through jax.vmap)"
    ]
    with pytest.raises(TypeError, match="dot_general") as caught:
        vae.decode_given({}, jnp.zeros(3))
    assert caught.value.__notes__[-1:] == [
        "(decode is given one code, of shape [3]; a batch goes through jax.vmap)"
    ]


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (1,), ()])
def test_decoders_whose_outputs_would_broadcast_against_x_are_refused(shape):
    vae = hmcvae.VAE(lambda _, x: (x, x, x), lambda _, z: jnp.zeros(shape), hmcvae.likelihoods.gaussian(1.0))
    with pytest.raises(ValueError, match=r"must return outputs of x's shape \(3,\), got") as caught:
        vae.log_likelihood({}, Z, Z)
    assert str(caught.value).endswith(f"got [{shape}]")


@pytest.mark.parametrize("name", ["encode", "decode"])
def test_networks_that_are_no_functions_are_refused(name):
    """The check itself: where types are checked at run time, as in these tests, the annotation comes first."""
    fields = {"encode": len, "decode": len, "latent_dim": None} | {name: 3}
    with pytest.raises(ValueError, match=f"{name} must be a function, got 3"):
        hmcvae.VAE.__post_init__(SimpleNamespace(**fields))


def test_numpys_whole_numbers_are_latent_dimensions():
    """Past the annotation, which is checked at run time in these tests: the check itself."""
    vae = SimpleNamespace(
        encode=len,
        decode=len,
        likelihood=hmcvae.likelihoods.bernoulli(),
        latent_dim=np.int64(2),
        prior=hmcvae.priors.standard_normal(),
        is_conditional=False,
    )
    hmcvae.VAE.__post_init__(vae)
    assert type(vae.latent_dim) is int
    assert vae.latent_dim == 2


@pytest.mark.parametrize("latent_dim", [0, -1, True])
def test_latent_dimensions_below_one_are_refused(latent_dim):
    with pytest.raises(
        ValueError, match=f"latent_dim must be a whole number of at least 1.*, got {latent_dim}"
    ):
        of_encoder(lambda params, x: (x, x, x), latent_dim)
