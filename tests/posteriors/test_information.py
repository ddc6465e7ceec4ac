"""Posteriors from the decoder's information: exact, sketched and of low rank, on sharp pixels too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae import posteriors
from hmcvae.posteriors import refinement
from tests.support import models
from tests.support.posteriors import POSTERIORS, VAE, WHITENED, build, make
from tests.support.weights import PARAMS, X, perturbed


@pytest.mark.parametrize("name", ["fisher", "fisher, refined"])
def test_fisher_is_exact_on_the_linear_gaussian_model(name):
    """There G is the posterior's precision; and one step of the centre of γ = 1 lands on its mean."""
    posterior = POSTERIORS[name]
    own = posterior.init(jax.random.key(0))
    mean, covariance = models.exact_posterior(PARAMS, X)
    if "refined" in name:
        own["step"] = jnp.log(jnp.full((1,), 1.0) / (refinement.MAX_STEP - 1.0))
    gaussian = build(posterior, own)
    np.testing.assert_allclose(gaussian.scale @ gaussian.scale.T, covariance, rtol=1e-4, atol=1e-6)
    if "refined" in name:
        np.testing.assert_allclose(gaussian.center, mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("random_directions", [False, True])
def test_full_rank_is_the_fisher_metric_whatever_the_base(random_directions):
    amortised = posteriors.full_covariance(models.FEATURES, models.LATENT, 0.5)
    posterior = posteriors.low_rank(
        amortised, models.FEATURES, models.LATENT, models.LATENT, random_directions=random_directions
    )
    gaussian = build(posterior, posterior.init(jax.random.key(3)))
    _, covariance = models.exact_posterior(PARAMS, X)
    np.testing.assert_allclose(gaussian.scale @ gaussian.scale.T, covariance, rtol=1e-4, atol=1e-6)


def test_low_rank_whitens_the_metric_along_its_directions_and_leaves_the_rest():
    """In the new coordinates the exact metric is 1 along B, and what is orthogonal to B moves as before."""
    base = posteriors.full_covariance(models.FEATURES, models.LATENT, 0.5)
    posterior = posteriors.low_rank(base, models.FEATURES, models.LATENT, 1)
    own = perturbed(make("low rank"))["bound"]["posterior"] | {"log_weight": jnp.zeros(())}
    features = VAE.encoded(PARAMS, X).features
    B = own["directions"] + own["weights"] @ features
    B = B / jnp.linalg.norm(B)
    before, after = build(base, own["base"]), build(posterior, own)
    _, covariance = models.exact_posterior(PARAMS, X)
    G = after.scale.T @ jnp.linalg.inv(covariance) @ after.scale
    np.testing.assert_allclose(B.T @ G @ B, [[1.0]], rtol=1e-4)
    orthogonal = jnp.array([-B[1, 0], B[0, 0]])
    np.testing.assert_allclose(after.scale @ orthogonal, before.scale @ orthogonal, rtol=1e-4, atol=1e-6)
    assert np.abs(after.scale @ B - before.scale @ B).max() > 1e-2


@pytest.mark.parametrize("rank", [4, 10])
def test_low_rank_log_det_is_exact_in_single_precision_at_full_rank(rank):
    """A random square V is ill-conditioned now and then; the determinant must not depend on it."""
    vae = hmcvae.VAE(
        lambda p, x: (jnp.zeros(rank, jnp.float32), jnp.full(rank, -0.5, jnp.float32), x),
        lambda p, z: p @ z,
        hmcvae.likelihoods.gaussian(1.0),
        rank,
    )
    params = jax.random.normal(jax.random.key(0), (2 * rank, rank), jnp.float32)
    posterior = posteriors.low_rank(WHITENED, 1, rank, rank, random_directions=True)
    own = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), posterior.init(jax.random.key(1)))
    x = jnp.zeros(1, jnp.float32)

    @jax.vmap
    def gaussian(key):
        found = posterior.build(own, key, vae.encoded(params, x))
        return found.log_det, found.scale

    log_dets, scales = gaussian(jax.random.split(jax.random.key(2), 2000))
    assert log_dets.dtype == jnp.float32
    np.testing.assert_allclose(log_dets, np.linalg.slogdet(np.asarray(scales, np.float64))[1], atol=1e-4)


def test_fisher_at_no_information_is_flat_dynamics_with_masses():
    """At a → -∞ the metric is diag exp(λ): the posterior's dynamics are those of `hvi` with these masses."""
    posterior = posteriors.fisher(models.LATENT)
    masses = jnp.array([0.3, -0.4])
    gaussian = build(posterior, {"log_weight": jnp.asarray(-60.0), "log_precision": masses})
    np.testing.assert_allclose(gaussian.scale, jnp.diag(jnp.exp(-0.5 * masses)), atol=1e-6)


def test_sketch_is_unbiased_for_the_information():
    own = POSTERIORS["sketched"].init(jax.random.key(0))
    example = VAE.encoded(PARAMS, X)

    @jax.vmap
    def metric(key):
        gaussian = POSTERIORS["sketched"].build(own, key, example)
        return jnp.linalg.inv(gaussian.scale @ gaussian.scale.T)

    found = np.asarray(metric(jax.random.split(jax.random.key(4), 20_000)))
    gaussian = build(POSTERIORS["fisher"], POSTERIORS["fisher"].init(jax.random.key(0)))
    exact = np.linalg.inv(np.asarray(gaussian.scale @ gaussian.scale.T))
    assert (np.abs(found.mean(0) - exact) < 4 * found.std(0) / np.sqrt(len(found))).all()


def test_sketch_has_a_gradient_where_weights_underflow():
    """Logits of -120 have weights of 0 in float32."""
    vae = hmcvae.VAE(
        lambda p, x: (p["mean"], jnp.zeros(2), x),
        lambda p, z: p["W"] @ z - 120.0,
        hmcvae.likelihoods.bernoulli(),
        models.LATENT,
    )
    params = {"mean": jnp.zeros(2, jnp.float32), "W": jnp.ones((3, 2), jnp.float32)}
    posterior, x = posteriors.fisher(models.LATENT, num_probes=3), jnp.zeros(3, jnp.float32)

    def value(params):
        own = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), posterior.init(jax.random.key(0)))
        return posterior.build(own, jax.random.key(1), vae.encoded(params, x)).log_det

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(value)(params)))


@pytest.mark.parametrize(
    ("name", "sharpness"),
    # A low-rank correction is a full matrix: single precision holds its least directions to eps times their span.
    [
        (name, s)
        for name in ("fisher", "sketched", "low rank")
        for s in (1e2, 1e4, 1e6)
        if (name, s) != ("low rank", 1e6)
    ],
)
def test_sharp_pixels_in_single_precision(name, sharpness):
    """The eigenvalues of G span sharpness², up to 10¹², on 8 of 20 directions that no coordinate is aligned with: A is
    that of double precision, log |det A| to 0.02 nats, and derivatives are finite."""
    d = 20
    make = {
        "fisher": lambda: posteriors.fisher(d),
        "sketched": lambda: posteriors.fisher(d, num_probes=8),
        "low rank": lambda: posteriors.low_rank(WHITENED, 1, d, 12),
    }
    posterior = make[name]()
    vae = hmcvae.VAE(
        lambda p, x: (p["mean"], jnp.zeros_like(p["mean"]), x),
        lambda p, z: p["W"] @ jnp.sin(p["V"] @ z),
        hmcvae.likelihoods.gaussian(1 / sharpness),
        d,
    )
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "mean": 0.1 * jax.random.normal(keys[0], (d,)),
        "W": jax.random.normal(keys[1], (40, 8)) / np.sqrt(40),
        "V": jax.random.normal(keys[2], (8, d)) / np.sqrt(d),
    }
    own = posterior.init(jax.random.key(1))
    x = jnp.zeros(1)

    @jax.jit
    def value(params, own, x, key):
        gaussian = posterior.build(own, key, vae.encoded(params, x))
        return gaussian.log_det, gaussian.scale

    slopes = jax.jit(jax.grad(lambda *arguments: jnp.sum(value(*arguments)[1]), (0, 1)))

    def single(tree):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)

    for seed in range(5):
        key = jax.random.key(seed)
        log_det, scale = value(single(params), single(own), single(x), key)
        assert scale.dtype == jnp.float32
        scale = np.asarray(scale, np.float64)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(scale)[1], atol=0.01)
        if name != "sketched":  # whose noise is another one in double precision
            exact, A = value(params, own, x, key)
            np.testing.assert_allclose(log_det, exact, atol=0.02)
            # What A whitens: in its coordinates the metric of double precision is 1.
            np.testing.assert_allclose(np.linalg.inv(A) @ scale, np.eye(d), atol=0.05)
        for gradient in jax.tree.leaves(slopes(single(params), single(own), single(x), key)):
            assert np.isfinite(gradient).all()
