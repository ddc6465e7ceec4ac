"""Chains of a kernel, and their moments judged by their own effective sizes."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ announces its refactoring once a day
    import arviz

NUM_CHAINS, NUM_DRAWS = 8, 3000


def run(algorithm, positions, num_draws=NUM_DRAWS, seed=0):
    """Positions and infos [chain, draw, ...] of chains from the stacked positions."""

    def chain(rng_key, position):
        keys = jax.random.split(rng_key, num_draws)

        def transition(state, key):
            state, info = algorithm.step(key, state)
            return state, (state.position, info)

        return jax.lax.scan(transition, algorithm.init(position), keys)[1]

    num_chains = jax.tree.leaves(positions)[0].shape[0]
    return jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(seed), num_chains), positions)


def z_score(draws, expected):
    """(mean - expected) / its standard error, for draws [chain, draw]."""
    draws = np.asarray(draws, np.float64)
    error = draws.std() / np.sqrt(float(arviz.ess(draws, method="mean")))
    return (draws.mean() - expected) / error


def assert_moments(draws, mean, covariance):
    """First and second moments of draws [chain, draw, d] within four standard errors."""
    mean, covariance = np.asarray(mean), np.asarray(covariance)
    second = covariance + np.outer(mean, mean)
    scores = [z_score(draws[..., i], mean[i]) for i in range(len(mean))]
    scores += [
        z_score(draws[..., i] * draws[..., j], second[i, j]) for i, j in np.argwhere(np.tri(len(mean)))
    ]
    assert np.max(np.abs(scores)) < 4, scores


def log_gamma(z, shape=2.0):
    """log density of log X for X ~ Gamma(shape): skewed to the left."""
    return jnp.sum(shape * z - jnp.exp(z))
