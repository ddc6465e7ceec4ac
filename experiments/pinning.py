"""What is known of a fixed decoder's posteriors, whatever the bound: log p(x) by annealing, and their shape."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular

from experiments.runs import Model
from hmcvae import annealing, metrics
from hmcvae._random import stream
from hmcvae.types import Metric, PRNGKey, PyTree

NUM_VARIATION_DRAWS = 8
MAX_SIMULATED = 100  # images that the decoder makes, between whose two estimates log p(x) is


def pin(
    model: Model, params: PyTree, examples: jax.Array, seed: int, *, num_temperatures: int, num_chains: int
) -> dict:
    """log p(x) of the test images by annealed importance sampling, the same between both bounds on simulated data, and
    each posterior's condition number in the coordinates of the encoder's Gaussian."""
    settings: dict = {
        "num_temperatures": num_temperatures,
        "num_chains": num_chains,
        "num_steps": 3,
        "batch_size": 20,
    }
    vae, own = model.vae, params["vae"]
    num_simulated = min(max(2, len(examples) // 3), MAX_SIMULATED)
    found = annealing.ais(vae, own, stream(seed, "ais"), examples, **settings)
    positions, simulated = annealing.simulate(vae, own, stream(seed, "simulate"), num_simulated)
    below = annealing.ais(vae, own, stream(seed, "ais, simulated"), simulated, **settings)
    above = annealing.reverse_ais(vae, own, stream(seed, "reverse"), simulated, positions, **settings)
    sandwich = {
        "lower": np.asarray(below.log_likelihood, np.float64).tolist(),
        "upper": np.asarray(above.log_likelihood, np.float64).tolist(),
    }
    return {
        "log_likelihood": np.asarray(found.log_likelihood, np.float64).tolist(),
        "log_weight_sd": float(np.mean(np.asarray(found.log_weight_sd))),
        "acceptance_rate": float(np.mean(np.asarray(found.acceptance_rate))),
        "nonfinite": float(np.mean(np.asarray(found.nonfinite))),
        "condition_number": condition_numbers(model, own, examples).tolist(),
        "metric_variation": metric_variations(model, own, examples, stream(seed, "variation")).tolist(),
        "simulated": sandwich,
    }


def condition_numbers(model: Model, params: PyTree, examples: jax.Array) -> np.ndarray:
    """κ of S^{1/2} G(μ) S^{1/2} for each image: how far the encoder's variances S are from whitening its posterior."""

    metric = decoder_metric(model, params)

    @jax.jit
    def all_eigenvalues(examples: jax.Array) -> jax.Array:
        def one(x: jax.Array) -> jax.Array:
            posterior = model.vae.posterior(params, x)
            scale = jnp.exp(posterior.log_scale)
            return jnp.linalg.eigvalsh(metric.tensor(posterior.mean) * jnp.outer(scale, scale))

        return lax.map(one, examples, batch_size=50)

    values = np.asarray(all_eigenvalues(examples), np.float64)
    return values[:, -1] / values[:, 0]


def decoder_metric(model: Model, params: PyTree) -> Metric:
    """The decoder's Fisher information plus the prior's precision, as a metric of z."""
    return metrics.fisher(
        lambda z: model.vae.decode(params, z), model.vae.likelihood.fisher_weights, 1.0, linear=False
    )


def metric_variations(model: Model, params: PyTree, examples: jax.Array, rng_key: PRNGKey) -> np.ndarray:
    """How much G(z) changes over each image's posterior: the root mean square of the logarithms of the eigenvalues of
    L⁻¹ G(z) L⁻ᵀ, with L Lᵀ = G(μ), over draws z ~ N(μ, G(μ)⁻¹). 0 where the frozen metric is the moving one; 0.7 where
    lengths squared are typically off by a factor of 2."""
    metric = decoder_metric(model, params)

    @jax.jit
    def variations(examples: jax.Array, keys: PRNGKey) -> jax.Array:
        def one(inputs: tuple[jax.Array, PRNGKey]) -> jax.Array:
            x, key = inputs
            mean = model.vae.posterior(params, x).mean
            lower = jnp.linalg.cholesky(metric.tensor(mean))
            root = solve_triangular(lower, jnp.eye(len(mean), dtype=mean.dtype), lower=True)
            noise = jax.random.normal(key, (NUM_VARIATION_DRAWS, len(mean)), mean.dtype)

            def square(e: jax.Array) -> jax.Array:
                G = metric.tensor(mean + root.T @ e)
                return jnp.mean(jnp.log(jnp.linalg.eigvalsh(root @ G @ root.T)) ** 2)

            return jnp.sqrt(jnp.mean(jax.vmap(square)(noise)))

        return lax.map(one, (examples, keys), batch_size=25)

    found = variations(examples, jax.random.split(rng_key, len(examples)))
    return np.asarray(found, np.float64)
