"""Small models whose p(x) is known in closed form."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.stats import multivariate_normal

import hmcvae
from hmcvae.transitions import ConditionalGaussian

LATENT, PIXELS, FEATURES = 2, 3, 3
SCALE = 0.6


def linear_gaussian() -> tuple[hmcvae.VAE, dict]:
    """x = W z + b + SCALE ε with z ~ N(0, I): p(x) = N(b, W Wᵀ + SCALE² I).

    The encoder is linear, near the posterior and wider than it, but neither exact nor correlated: the weights then
    have a variance that can be tested.
    """
    keys = jax.random.split(jax.random.key(3), 3)
    params = {
        "W": jax.random.normal(keys[0], (PIXELS, LATENT)),
        "b": 0.3 * jax.random.normal(keys[1], (PIXELS,)),
    }
    _, covariance = exact_posterior(params, jnp.zeros(PIXELS))
    gain = covariance @ params["W"].T / SCALE**2
    params["A"] = gain + 0.03 * jax.random.normal(keys[2], (LATENT, PIXELS))
    params["log_scale"] = 0.5 * jnp.log(jnp.diag(covariance)) + jnp.array([0.1, 0.2])

    def encode(p: Any, x: jax.Array):
        return p["A"] @ x, p["log_scale"] + 0.05 * x[:LATENT], jnp.tanh(x)

    def decode(p: Any, z: jax.Array):
        return p["W"] @ z + p["b"]

    return hmcvae.VAE(encode, decode, hmcvae.likelihoods.gaussian(SCALE), LATENT), params


def log_evidence(params: dict, x: jax.Array) -> jax.Array:
    """log p(x), exactly."""
    covariance = params["W"] @ params["W"].T + SCALE**2 * jnp.eye(PIXELS)
    return multivariate_normal.logpdf(x, params["b"], covariance)


def exact_posterior(params: dict, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean, covariance) of p(z | x)."""
    precision = jnp.eye(LATENT) + params["W"].T @ params["W"] / SCALE**2
    covariance = jnp.linalg.inv(precision)
    return covariance @ params["W"].T @ (x - params["b"]) / SCALE**2, covariance


def conditional(scale: float = 0.3, log_scale: float = 0.0) -> ConditionalGaussian:
    """A conditional Gaussian with parameters that matter: linear in features and position."""

    def init(rng_key: jax.Array):
        a, b, c = jax.random.split(rng_key, 3)
        return {
            "a": scale * jax.random.normal(a, (LATENT, FEATURES)),
            "b": scale * jax.random.normal(b, (LATENT, LATENT)),
            "c": scale * jax.random.normal(c, (LATENT,)),
        }

    def apply(p: Any, features: jax.Array, z: jax.Array):
        return p["a"] @ features + p["b"] @ z, log_scale + p["c"] + 0.1 * jnp.tanh(z)

    return ConditionalGaussian(init, apply)
