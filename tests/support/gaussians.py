"""A correlated Gaussian and a standard one, and Euclidean metrics for the first."""

import jax.numpy as jnp
import numpy as np

from hmcvae import metrics

MEAN = np.array([1.0, -2.0])
COVARIANCE = np.array([[4.0, 1.2], [1.2, 1.0]])
PRECISION = np.linalg.inv(COVARIANCE)


def gaussian(z):
    return -0.5 * (z - MEAN) @ PRECISION @ (z - MEAN)


def normal(z):
    return -0.5 * jnp.sum(z**2)


METRICS = {
    "identity": (metrics.identity(), 1.0),
    "diagonal": (metrics.diagonal(1 / np.diag(COVARIANCE)), 1.1),
    "dense": (metrics.dense(PRECISION), 1.4),
}
