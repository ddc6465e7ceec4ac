"""Posteriors that are refined or distilled, and lengths that stay bounded while they learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae import bounds, posteriors
from hmcvae.bounds.base import BUILD
from hmcvae.posteriors import refinement
from hmcvae.posteriors._bounded import compressed
from hmcvae.posteriors.triangular import MAX_ROW
from tests.support import models
from tests.support.posteriors import VAE, build
from tests.support.weights import PARAMS, X
from tests.support.weights import VAE as PLAIN


def test_distillation_teaches_neither_the_decoder_nor_the_encoders_mean():
    """Not even where A is made of both: on a curved decoder, whose derivative depends on the centre."""
    vae = hmcvae.VAE(
        lambda p, x: (p["A"] @ x, p["log_scale"] + 0.05 * x[: models.LATENT], jnp.tanh(p["A"] @ x)),
        lambda p, z: p["W"] @ jnp.tanh(z) + p["b"],
        PLAIN.likelihood,
        models.LATENT,
    )
    base = posteriors.gauss_newton(
        posteriors.low_rank(
            posteriors.full_covariance(models.LATENT, models.LATENT, 0.5), models.LATENT, models.LATENT, 1
        )
    )
    taught, nothing = posteriors.distilled(base, 1.0), posteriors.distilled(base, 1e-30)
    own = base.init(jax.random.key(6))

    def log_det(posterior, own, params):
        return posterior.build(own, jax.random.key(7), vae.encoded(params, X)).log_det

    added = jax.tree.map(
        lambda a, b: np.abs(np.asarray(a - b)).max(),
        jax.grad(lambda *a: log_det(taught, *a), (0, 1))(own, PARAMS),
        jax.grad(lambda *a: log_det(nothing, *a), (0, 1))(own, PARAMS),
    )
    assert added[1]["W"] < 1e-12
    assert added[1]["b"] < 1e-12
    # The scales and the features are taught.
    assert added[1]["log_scale"] > 1e-3
    assert added[0]["base"]["base"]["bias"] > 1e-3


def _distilled_value(posterior, own, key):
    bound = bounds.hvi(VAE, posterior=posterior, initial_step_size=0.3)
    return bound({"vae": PARAMS, "bound": own}, key, X)[0]


def test_distillation_leaves_the_bound_and_adds_its_own_gradient():
    base = posteriors.gauss_newton(posteriors.full_covariance(models.FEATURES, models.LATENT, 0.5))
    own = bounds.hvi(VAE, posterior=base).init(jax.random.key(0))
    taught, key = posteriors.distilled(base, 0.7), jax.random.key(4)
    # It splits the key, and so draws otherwise than its posterior: compare with one that teaches nothing.
    nothing = posteriors.distilled(base, 1e-30)
    np.testing.assert_allclose(
        _distilled_value(taught, own, key), _distilled_value(nothing, own, key), rtol=1e-6
    )
    added = jax.tree.map(
        lambda a, b: np.asarray(a - b),
        jax.grad(lambda own: _distilled_value(taught, own, key))(own),
        jax.grad(lambda own: _distilled_value(nothing, own, key))(own),
    )
    build_key = jax.random.fold_in(key, BUILD)
    noise = jax.random.normal(jax.random.split(build_key)[1], (models.LATENT,))
    _, covariance = models.exact_posterior(PARAMS, X)

    def cost(own):
        gaussian = build(base, own["posterior"])
        moved = gaussian.scale @ noise
        return 0.7 * (0.5 * moved @ jnp.linalg.inv(covariance) @ moved - gaussian.log_det)

    expected = jax.tree.map(lambda g: -np.asarray(g), jax.grad(cost)(own))
    for found, wanted in zip(jax.tree.leaves(added), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(added["posterior"])) > 1e-2


def test_a_distilled_factor_comes_to_the_exact_metric():
    """Descending D alone, the entry below the diagonal goes to the best one that the encoder's diagonal allows."""
    base = posteriors.full_covariance(models.FEATURES, models.LATENT)
    posterior = posteriors.distilled(base)
    example = VAE.encoded(PARAMS, X)

    def slope(own, key):
        def log_det(own):
            taught = posterior.build(own, key, example).log_det
            plain = base.build(own, key, example).log_det
            return taught - plain

        return jax.grad(log_det)(own)

    @jax.jit
    def step(own, key):
        keys = jax.random.split(key, 1024)
        mean = jax.tree.map(lambda g: g.mean(0), jax.vmap(slope, (None, 0))(own, keys))
        return jax.tree.map(lambda p, g: p + 0.01 * g, own, mean)

    own = base.init(jax.random.key(0))
    before = np.asarray(build(base, own).scale)
    for index in range(300):
        own = step(own, jax.random.fold_in(jax.random.key(5), index))
    after = np.asarray(build(base, own).scale)
    _, covariance = models.exact_posterior(PARAMS, X)
    # D in A₁₀ alone: G₁₁ A₁₀ + G₁₀ A₀₀ = 0.
    G = np.linalg.inv(np.asarray(covariance))
    best = -G[1, 0] / G[1, 1] * before[0, 0]
    np.testing.assert_allclose(after[1, 0], best, rtol=0.1)
    assert abs(before[1, 0] - best) > 0.3 * abs(best)


def test_lengths_are_compressed_beyond_the_radius_alone():
    lengths = np.array([0.0, 0.5, 2.0, 2.0001, 6.0, 1e4, 1e15, 1e200])
    factor = compressed(jnp.asarray(lengths)[:, None] * jnp.array([[0.6, 0.8]]), 2.0)
    beyond = 2 * (1 + np.log(np.maximum(lengths, 2.0) / 2))
    np.testing.assert_allclose(factor * lengths, np.where(lengths <= 2, lengths, beyond), rtol=1e-12)
    np.testing.assert_array_equal(factor[:3], 1.0)

    def compress(v):
        return compressed(v, 2.0) * v

    for scale in (0.0, 1e-30, 1.0, 1e15, 1e35):
        slopes = jax.jacobian(compress)(scale * jnp.array([0.6, 0.8], jnp.float32))
        assert np.isfinite(slopes).all()
    # By log l the derivative is r, however long: it can be learned to be shorter.
    by_log = jax.grad(lambda log_l: compress(jnp.exp(log_l) * jnp.array([0.6, 0.8]))[0] / 0.6)
    np.testing.assert_allclose(by_log(jnp.log(1e6)), 2.0, rtol=1e-9)
    np.testing.assert_allclose(by_log(jnp.log(1e15)), 2.0, rtol=1e-9)


def _steep(gradient: float, curvature: float) -> hmcvae.VAE:
    """log p(x | z) = g z₀ - ½ κ |z|² + …, with an encoder at 0 that knows nothing of the scale."""
    return hmcvae.VAE(
        lambda p, x: (jnp.zeros(2), jnp.zeros(2), x),
        lambda p, z: jnp.array([gradient / curvature, 0.0]) - z,
        hmcvae.likelihoods.gaussian(curvature**-0.5),
        2,
    )


@pytest.mark.parametrize("curvature", [1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_gauss_newton_never_goes_downhill(num_steps, curvature):
    """From A = I, however steep the density: the centre's log p(x, c) does not fall, and derivatives are finite."""
    vae = _steep(1e4, curvature)
    posterior = posteriors.gauss_newton(posteriors.full_covariance(2, 2), num_steps)
    own = posterior.init(jax.random.key(0))
    x = jnp.zeros(2)
    logdensity_fn = vae.logdensity_fn({}, x)
    gaussian = build(posterior, own, x, vae, {})
    assert logdensity_fn(gaussian.center) >= logdensity_fn(jnp.zeros(2))

    def value(own):
        gaussian = build(posterior, own, x, vae, {})
        return logdensity_fn(gaussian.center) + gaussian.log_det

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(value)(own)))


@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gradient", [1e4, 1e30])
def test_derivatives_are_finite_where_the_centre_that_is_not_taken_overflows(num_steps, dtype, gradient):
    """log p(x | z) = Σ g z - exp(20 z), which a step of moderate length takes beyond the largest number."""

    def log_prob(outputs, x):
        del x
        return jnp.sum(gradient * outputs - jnp.exp(20 * outputs))

    likelihood = hmcvae.likelihoods.gaussian(1.0)._replace(log_prob=log_prob)
    zero = jnp.zeros(2, dtype)
    vae = hmcvae.VAE(lambda p, x: (zero, zero, x), lambda p, z: p + z, likelihood, 2)
    posterior = posteriors.gauss_newton(posteriors.full_covariance(2, 2), num_steps)

    def value(own, params):
        gaussian = build(posterior, own, zero, vae, params)
        return vae.logdensity_fn(params, zero)(gaussian.center) + gaussian.log_det

    own = jax.tree.map(lambda leaf: leaf.astype(dtype), posterior.init(jax.random.key(0)))
    value, slopes = jax.value_and_grad(value, (0, 1))(own, zero)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_gauss_newton_is_the_plain_step_where_it_rises_and_none_where_the_density_is_nan():
    vae = _steep(1.0, 1.0)
    posterior = posteriors.gauss_newton(posteriors.full_covariance(2, 2), 2)
    own, x = posterior.init(jax.random.key(0)), jnp.zeros(2)
    center, gradient = jnp.zeros(2), jax.grad(vae.logdensity_fn({}, x))
    for _ in range(2):
        center = center + refinement.FIRST_STEP * gradient(center)
    assert np.abs(center).max() > 0.1
    np.testing.assert_allclose(build(posterior, own, x, vae, {}).center, center, rtol=1e-12)
    walled = hmcvae.VAE(
        vae.encode, lambda p, z: jnp.where(z[0] > 0.1, jnp.nan, vae.decode(p, z)), vae.likelihood, 2
    )
    np.testing.assert_array_equal(build(posterior, own, x, walled, {}).center, np.zeros(2))


def test_rows_of_a_learned_factor_stay_near_the_priors_width():
    """However far one step of training has thrown W: and not at all where they are short."""
    posterior = posteriors.full_covariance(models.FEATURES, models.LATENT, 0.5)
    own = posterior.init(jax.random.key(0))
    plain = build(posterior, own)
    unit = np.linalg.inv(np.diag(np.diag(plain.scale))) @ plain.scale
    example = VAE.encoded(PARAMS, X)
    np.testing.assert_allclose(np.diag(plain.scale), np.exp(example.log_scale), rtol=1e-12)
    for factor in (1e2, 1e6):
        gaussian = build(posterior, jax.tree.map(lambda leaf, f=factor: f * leaf, own))
        lengths = np.linalg.norm(gaussian.scale, axis=1)
        assert (lengths < MAX_ROW * (1 + np.log(factor * np.abs(unit).max()))).all()
        np.testing.assert_allclose(gaussian.log_det, np.linalg.slogdet(gaussian.scale)[1], atol=1e-6)
