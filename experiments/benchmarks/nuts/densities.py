"""Densities: correlated Gaussians, a logistic and a Poisson regression, and the eight schools."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.riemannian.density import regression


class Density(NamedTuple):
    """step_size: one at which trees of the identity metric accept about 0.8 to 0.9."""

    logdensity_fn: Callable
    start: np.ndarray
    step_size: float


def gaussian(dim: int, dtype: str) -> Density:
    """N(0, Σ), standard deviations from 0.1 to 1 along axes turned at random."""
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))
    precision = jnp.asarray((rotation / np.geomspace(0.1, 1.0, dim) ** 2) @ rotation.T, dtype)
    return Density(lambda z: -0.5 * jnp.dot(z, precision @ z), np.zeros(dim), 0.12)


def logistic(dtype: str) -> Density:
    """The regression of the Riemannian benchmark: 1000 rows, 25 coefficients."""
    model = regression(1000, 25)
    return Density(model.build(dtype)[0], model.mode, 0.08)


def poisson(dtype: str) -> Density:
    """y ~ Poisson(exp(x·z)), 200 rows, 10 coefficients, z ~ N(0, I)."""
    rng = np.random.default_rng(2)
    rows, truth = rng.normal(size=(200, 10)) / np.sqrt(10), rng.normal(size=10)
    counts = jnp.asarray(rng.poisson(np.exp(rows @ truth)), dtype)
    X = jnp.asarray(rows, dtype)

    def logdensity_fn(z: jax.Array) -> jax.Array:
        rates = X @ z
        return jnp.dot(counts, rates) - jnp.sum(jnp.exp(rates)) - 0.5 * jnp.dot(z, z)

    return Density(logdensity_fn, truth, 0.1)


def schools(dtype: str) -> Density:
    """Rubin's eight schools, not centred: z = (μ, log τ, η); μ ~ N(0, 5²), τ ~ half-Cauchy(5), θ = μ + τ η."""
    effects = jnp.asarray([28, 8, -3, 7, -1, 1, 18, 12], dtype)
    errors = jnp.asarray([15, 10, 16, 11, 9, 11, 10, 18], dtype)

    def logdensity_fn(z: jax.Array) -> jax.Array:
        mu, log_tau, eta = z[0], z[1], z[2:]
        tau = jnp.exp(log_tau)
        misfit = (effects - mu - tau * eta) / errors
        prior = -0.5 * (mu / 5) ** 2 - jnp.log1p((tau / 5) ** 2) + log_tau
        return prior - 0.5 * jnp.dot(eta, eta) - 0.5 * jnp.dot(misfit, misfit)

    return Density(logdensity_fn, np.concatenate([[4.0, 1.0], np.zeros(8)]), 0.3)


def build(name: str, dtype: str) -> Density:
    """The density with that name.

    Raises:
        ValueError: for a name that is not known.
    """
    kind, _, dim = name.partition("-")
    if kind == "gaussian" and dim.isdigit():
        return gaussian(int(dim), dtype)
    known = {"logistic": logistic, "poisson": poisson, "schools": schools}
    if name not in known:
        raise ValueError(f"densities are gaussian-<d>, {', '.join(known)}; got {name!r}")
    return known[name](dtype)
