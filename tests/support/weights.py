"""A model whose p(x) is known, and the weights of bounds on it."""

import jax
import jax.numpy as jnp
import numpy as np

import hmcvae
from hmcvae import bounds
from hmcvae.priors import gaussian_log_prob
from tests.support import models

VAE, PARAMS = models.linear_gaussian()
X = jnp.array([0.4, -0.7, 1.1])
NUM_DRAWS = 40_000


def _encode(p: dict, x: jax.Array):
    """As the plain model's, with a scale fit for whitened coordinates: of the order of one."""
    mean, log_scale, features = VAE.encode(p, x)
    return mean, 0.1 + 0.1 * log_scale, features


WHITE = hmcvae.VAE(_encode, VAE.decode, VAE.likelihood, models.LATENT)


def perturbed(bound: bounds.Bound, seed: int = 5) -> dict:
    """Parameters away from the symmetric start: unequal masses, steps, reverse models."""
    own = bound.init(jax.random.key(seed))
    leaves, tree = jax.tree.flatten(own)
    keys = jax.random.split(jax.random.key(seed + 1), max(1, len(leaves)))
    scale = 0.02 if bound.name == "markov_chain" else 0.1
    moved = [leaf + scale * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=False)]
    return {"vae": PARAMS, "bound": jax.tree.unflatten(tree, moved)}


def draws(bound: bounds.Bound, params: dict, seed: int = 11, count: int = NUM_DRAWS) -> np.ndarray:
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: bound(params, key, X)[0]))(keys))


def log_q(z: jax.Array) -> jax.Array:
    """log q(z | x) of the encoder's Gaussian."""
    example = VAE.encoded(PARAMS, X)
    return gaussian_log_prob(z, example.mean, example.log_scale)


def assert_unbiased(log_weights: np.ndarray) -> None:
    """E[exp L] = p(x) within 4 standard errors, and those are small enough to see 5 %."""
    ratio = np.exp(log_weights - float(models.log_evidence(PARAMS, X)))
    error = ratio.std() / np.sqrt(len(ratio))
    assert error < 0.03, error
    assert abs(ratio.mean() - 1) < 4 * error, (ratio.mean(), error)
    assert log_weights.mean() < float(models.log_evidence(PARAMS, X))


def assert_gradient(bound: bounds.Bound, params: dict, rtol: float, x: jax.Array) -> None:
    """In a direction of all parameters, against finite differences; and no parameter of the bound is without one."""

    def value(p):
        return bound(p, jax.random.key(9), x)[0]

    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(10), len(leaves))
    direction = jax.tree.unflatten(
        tree, [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    )
    gradient = jax.jit(jax.grad(value))(params)
    parts = [
        float(jnp.sum(g * v))
        for g, v in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    ]
    h, compiled = 1e-5, jax.jit(value)
    ahead, behind = (
        compiled(jax.tree.map(lambda p, v, s=s: p + s * h * v, params, direction)) for s in (1, -1)
    )
    # Relative to the parts of the sum, which may cancel.
    np.testing.assert_allclose(sum(parts), (ahead - behind) / (2 * h), atol=rtol * max(map(abs, parts)))
    assert all(np.abs(g).max() > 1e-8 for g in jax.tree.leaves(gradient["bound"]))
