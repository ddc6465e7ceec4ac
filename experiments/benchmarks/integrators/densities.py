"""Log densities to integrate, each with the scale of its bulk."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special


@dataclass(frozen=True)
class Density:
    """A log density with the scale of its bulk: the mode and a factor of the covariance there."""

    name: str
    build: Callable[[Any], Callable[[jax.Array], jax.Array]]  # dtype -> logdensity_fn
    mode: np.ndarray
    scale: np.ndarray  # C with C Cᵀ the covariance
    step_size: float

    def draw(self, rng: np.random.Generator, num_chains: int) -> np.ndarray:
        return self.mode + rng.normal(size=(num_chains, self.mode.shape[0])) @ self.scale.T


def gaussian(dim: int) -> Density:
    """N(0, P⁻¹) with a dense P whose eigenvalues run from 1 to 4."""
    rng = np.random.default_rng(dim)
    rotation, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    eigenvalues = np.linspace(1.0, 4.0, dim)
    precision = (rotation * eigenvalues) @ rotation.T

    def build(dtype: Any) -> Callable[[jax.Array], jax.Array]:
        P = jnp.asarray(precision, dtype)
        return lambda z: -0.5 * jnp.dot(z, P @ z)

    return Density(f"Gaussian, d = {dim}", build, np.zeros(dim), rotation / np.sqrt(eigenvalues), 0.1)


def logistic(num_rows: int = 1000, dim: int = 25, prior_variance: float = 100.0) -> Density:
    """Bayesian logistic regression on made-up data."""
    rng = np.random.default_rng(0)
    covariates = rng.normal(size=(num_rows, dim))
    labels = rng.uniform(size=num_rows) < special.expit(covariates @ rng.normal(size=dim, scale=0.3))
    mode, hessian = np.zeros(dim), np.eye(dim)
    for _ in range(20):  # Newton's method
        probability = special.expit(covariates @ mode)
        weighted = covariates * (probability * (1 - probability))[:, None]
        hessian = covariates.T @ weighted + np.eye(dim) / prior_variance
        mode = mode + np.linalg.solve(hessian, covariates.T @ (labels - probability) - mode / prior_variance)

    def build(dtype: Any) -> Callable[[jax.Array], jax.Array]:
        X, y = jnp.asarray(covariates, dtype), jnp.asarray(labels, dtype)

        def logdensity_fn(z: jax.Array) -> jax.Array:
            logits = X @ z
            return jnp.sum(y * logits - jax.nn.softplus(logits)) - 0.5 * jnp.dot(z, z) / prior_variance

        return logdensity_fn

    scale = np.linalg.cholesky(np.linalg.inv(hessian))
    return Density(f"logistic, {num_rows} × {dim}", build, mode, scale, 0.01)
