"""A Gaussian and its coordinates: densities against scipy and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from hmcvae.posteriors import Gaussian
from hmcvae.priors import gaussian_log_prob

MEAN, LOG_SCALE = jnp.array([0.3, -1.2, 0.0]), jnp.array([-0.5, 0.4, -2.0])
CENTER, SCALE = jnp.array([0.5, 0.1, -0.4]), jnp.array([[1.0, 0.2, 0.0], [-0.3, 0.8, 0.1], [0.5, 0.0, 1.4]])
LOG_DET = jnp.log(jnp.abs(jnp.linalg.det(SCALE)))
GAUSSIANS = {
    "z itself": Gaussian(jnp.zeros(3), None, jnp.zeros(()), MEAN, LOG_SCALE),
    "affine": Gaussian(CENTER, SCALE, LOG_DET, MEAN, LOG_SCALE),
}
Z = jnp.array([0.1, 0.7, -0.2])
over_gaussians = pytest.mark.parametrize("q", GAUSSIANS.values(), ids=GAUSSIANS)


def moments(q: Gaussian) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of z."""
    A = np.asarray(q.matrix())
    return np.asarray(q.center) + A @ np.asarray(q.mean), A @ np.diag(
        np.exp(2 * np.asarray(q.log_scale))
    ) @ A.T


@over_gaussians
def test_log_prob_is_scipys(q):
    expected = scipy.stats.multivariate_normal.logpdf(Z, *moments(q))
    np.testing.assert_allclose(q.log_prob(q.to_coordinates(Z)) - q.log_det, expected, rtol=1e-10)


@over_gaussians
def test_coordinates_are_there_and_back(q):
    np.testing.assert_allclose(q.to_position(q.to_coordinates(Z)), Z, rtol=1e-12)
    density = q.logdensity_fn(lambda z: -jnp.sum(z**2))
    np.testing.assert_allclose(density(q.to_coordinates(Z)), -jnp.sum(Z**2) + q.log_det, rtol=1e-12)


@over_gaussians
def test_kl_is_the_mean_of_the_log_ratio_over_draws(q):
    ys = jax.vmap(q.sample)(jax.random.split(jax.random.key(0), 40_000))
    mean, log_scale = jnp.array([0.3, -0.2, 0.1]), jnp.array([0.1, -0.4, 0.3])

    def log_ratio(y):
        return q.log_prob(y) - q.log_det - gaussian_log_prob(q.to_position(y), mean, log_scale)

    ratios = np.asarray(jax.vmap(log_ratio)(ys))
    error = ratios.std() / np.sqrt(len(ratios))
    assert error < 0.03
    assert abs(ratios.mean() - float(q.kl_divergence(mean, log_scale))) < 4 * error


def test_kl_of_the_standard_normal_from_itself_is_zero():
    zero = jnp.zeros(3)
    for A in (None, jnp.eye(3)):
        assert float(Gaussian(zero, A, jnp.zeros(()), zero, zero).kl_divergence(zero, zero)) == 0.0


@over_gaussians
def test_draws_have_its_moments(q):
    ys = jax.vmap(q.sample)(jax.random.split(jax.random.key(1), 40_000))
    zs, (mean, covariance) = np.asarray(jax.vmap(q.to_position)(ys)), moments(q)
    scale = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(zs.mean(0) - mean) < 4 * scale / np.sqrt(len(zs)))
    np.testing.assert_allclose(np.cov(zs.T), covariance, atol=6 * (scale.max() ** 2) / np.sqrt(len(zs)))


def test_draws_are_differentiable_in_mean_and_scale():
    q = GAUSSIANS["affine"]

    def draw(mean, log_scale):
        return q._replace(mean=mean, log_scale=log_scale).sample(jax.random.key(2))

    by_mean, by_scale = jax.jacobian(draw, (0, 1))(MEAN, LOG_SCALE)
    np.testing.assert_allclose(by_mean, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(by_scale, np.diag(draw(MEAN, LOG_SCALE) - MEAN), rtol=1e-10)
