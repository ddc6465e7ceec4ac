"""The density: a Bayesian logistic regression on made-up data, in JAX and, for mici, in NumPy.

U(z) = Σ_n [log(1 + exp xₙᵀz) - yₙ xₙᵀz] + zᵀz / 2σ²,   G(z) = Xᵀ diag(p (1 - p)) X + 1/σ²,   p = sigmoid(X z)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

from hmcvae import metrics

PRIOR_VARIANCE = 100.0


@dataclass(frozen=True)
class Regression:
    """The data [n, d] and [n], with the mode [d]."""

    covariates: np.ndarray
    labels: np.ndarray
    mode: np.ndarray

    def build(self, dtype: str) -> tuple[Callable, Any]:
        """(logdensity_fn, metric)"""
        X, y = jnp.asarray(self.covariates, dtype), jnp.asarray(self.labels, dtype)

        def logdensity_fn(z: jax.Array) -> jax.Array:
            logits = X @ z
            return jnp.sum(y * logits - jax.nn.softplus(logits)) - 0.5 * jnp.dot(z, z) / PRIOR_VARIANCE

        def weight_fn(logits: jax.Array) -> jax.Array:
            return jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)

        return logdensity_fn, metrics.fisher(lambda z: X @ z, weight_fn, 1 / PRIOR_VARIANCE)


def regression(num_rows: int, dim: int) -> Regression:
    """The data and the mode, by a seed of their own."""
    rng = np.random.default_rng(0)
    covariates = rng.normal(size=(num_rows, dim))
    coefficients = 0.5 * np.sqrt(25 / max(dim, 25)) * rng.normal(size=dim)
    labels = (rng.uniform(size=num_rows) < special.expit(covariates @ coefficients)).astype(float)
    numpy_model = NumpyRegression(covariates, labels)
    found = optimize.minimize(
        lambda z: numpy_model.gradient_and_value(z)[1],
        np.zeros(dim),
        jac=lambda z: numpy_model.gradient_and_value(z)[0],
        hess=numpy_model.metric,
        method="trust-exact",
    )
    return Regression(covariates, labels, found.x)


@dataclass(frozen=True)
class NumpyRegression:
    """The same in NumPy, as mici wants it: U = -log p, its gradient, G and the vector-Jacobian product of G."""

    covariates: np.ndarray
    labels: np.ndarray

    def value(self, z: np.ndarray) -> float:
        return self.gradient_and_value(z)[1]

    def gradient_and_value(self, z: np.ndarray) -> tuple[np.ndarray, float]:
        logits = self.covariates @ z
        gradient = self.covariates.T @ (special.expit(logits) - self.labels) + z / PRIOR_VARIANCE
        value = np.sum(np.logaddexp(0, logits) - self.labels * logits) + 0.5 * z @ z / PRIOR_VARIANCE
        return gradient, float(value)

    def metric(self, z: np.ndarray) -> np.ndarray:
        return self._metric(special.expit(self.covariates @ z))

    def _metric(self, probability: np.ndarray) -> np.ndarray:
        weighted = self.covariates.T * (probability * (1 - probability))
        return weighted @ self.covariates + np.eye(self.covariates.shape[1]) / PRIOR_VARIANCE

    def vjp_and_metric(self, z: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
        X, probability = self.covariates, special.expit(self.covariates @ z)
        slope = probability * (1 - probability) * (1 - 2 * probability)
        return lambda V: (slope * np.einsum("ni,ni->n", X @ V, X)) @ X, self._metric(probability)
