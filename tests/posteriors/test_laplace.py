"""The Variational Laplace Auto-encoder's posterior (Park, Kim & Kim 2019): T updates of the mode with fresh metrics and
the Laplace covariance there, against the paper's update written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae import likelihoods, posteriors
from hmcvae.posteriors.refinement import MAX_STEP

D, HIDDEN, PIXELS, SCALE, T = 3, 5, 12, 0.7, 3
RNG = np.random.default_rng(0)
NET = {
    "a": RNG.normal(size=(HIDDEN, D)),
    "b": RNG.normal(size=HIDDEN),
    "c": RNG.normal(size=(PIXELS, HIDDEN)),
    "e": 0.3 * RNG.normal(size=PIXELS),
}
MEAN = np.array([0.4, -0.3, 0.2])
RATES = 0.5 / (1 + np.arange(T))  # (1 - α_t) μ + α_t μ', falling as in the authors' program


def outputs(mu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(y, W): the decoder's outputs and their Jacobian."""
    h = np.tanh(NET["a"] @ mu + NET["b"])
    return NET["c"] @ h + NET["e"], NET["c"] @ ((1 - h**2)[:, None] * NET["a"])


def update(kind: str, mu: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(μ', Λ): the mode of the posterior of the decoder made linear at μ, and its precision."""
    y, W = outputs(mu)
    if kind == "gaussian":  # eq. 8-10: μ' = Λ⁻¹ Wᵀ (x - b) / σ², with y = W μ + b
        precision = W.T @ W / SCALE**2 + np.eye(D)
        return np.linalg.solve(precision, W.T @ (x - (y - W @ mu)) / SCALE**2), precision
    p = 1 / (1 + np.exp(-y))  # section 3.3, of exponential families
    precision = W.T @ np.diag(p * (1 - p)) @ W + np.eye(D)
    return mu + np.linalg.solve(precision, W.T @ (x - p) - mu), precision


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_it_is_the_update_of_the_paper(kind):
    x = (RNG.uniform(size=PIXELS) < 0.5).astype(float)
    if kind == "gaussian":
        x = x + 0.3 * RNG.normal(size=PIXELS)
    mu, centers = MEAN, []
    for rate in RATES:
        mu = (1 - rate) * mu + rate * update(kind, mu, x)[0]
        centers.append(mu)
    covariance = np.linalg.inv(update(kind, mu, x)[1])
    likelihood = likelihoods.bernoulli() if kind == "bernoulli" else likelihoods.gaussian(SCALE)
    vae = hmcvae.VAE(
        lambda p, x: (jnp.asarray(MEAN), jnp.zeros(D), x),
        lambda p, z: p["c"] @ jnp.tanh(p["a"] @ z + p["b"]) + p["e"],
        likelihood,
        D,
    )
    params = jax.tree.map(jnp.asarray, NET)
    posterior = posteriors.gauss_newton(posteriors.fisher(D), T, fresh=True)
    own = posterior.init(jax.random.key(0)) | {"step": jnp.log(RATES / (MAX_STEP - RATES))}
    gaussian = jax.jit(
        lambda own: posterior.build(own, jax.random.key(1), vae.encoded(params, jnp.asarray(x)))
    )(own)
    np.testing.assert_allclose(gaussian.center, centers[-1], rtol=1e-9)
    np.testing.assert_allclose(gaussian.scale @ gaussian.scale.T, covariance, rtol=1e-9)
    np.testing.assert_allclose(gaussian.log_det, 0.5 * np.linalg.slogdet(covariance)[1], rtol=1e-9)
    np.testing.assert_array_equal(gaussian.log_scale, 0)
    # The updates moved it, and a metric kept from the start would have moved it elsewhere.
    assert np.abs(centers[-1] - MEAN).max() > 0.05
    stale = posteriors.gauss_newton(posteriors.fisher(D), T)
    kept = stale.build(own, jax.random.key(1), vae.encoded(params, jnp.asarray(x)))
    assert np.abs(kept.center - centers[-1]).max() > 1e-3
