"""Densities to sample from, each with a metric that suits it and what is known of its moments."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hmcvae import data, metrics
from hmcvae._checks import check_choice

LOGISTIC = ("australian", "german", "heart", "pima", "ripley")
PRIOR_VARIANCE = 100.0


class View(NamedTuple):
    """What a picture of a target's first two coordinates shows.

    window: (left, right, bottom, top).  names: of the coordinates.  starts: of trajectories, [n, 2].
    """

    window: tuple[float, float, float, float]
    names: tuple[str, str]
    starts: np.ndarray


@dataclass(frozen=True)
class Target:
    """logdensity_fn: [d] -> log p up to a constant.  metric: for `rmhmc`.  start: [d], where chains begin.
    mean, square: E[z] and E[z²], [d]; NaN where not known.  view: for pictures, where it has two dimensions."""

    name: str
    logdensity_fn: Callable
    metric: Any
    start: np.ndarray
    mean: np.ndarray
    square: np.ndarray
    view: View | None = None


def banana(num_observations: int = 100, noise: float = 2.0) -> Target:
    """y_n ~ N(θ₁ + θ₂², σ²), θ ~ N(0, I), all y_n = 1: a curved ridge (Lan et al. 2015, section 5.1 in this form).
    Fisher metric. Moments by quadrature."""
    weight = num_observations / noise**2

    def logdensity_fn(z: jax.Array) -> jax.Array:
        return -0.5 * weight * (1.0 - z[0] - z[1] ** 2) ** 2 - 0.5 * jnp.sum(z**2)

    metric = metrics.fisher(lambda z: (z[0] + z[1] ** 2)[None], lambda f: jnp.full_like(f, weight), 1.0)
    mean, square = _quadrature(logdensity_fn, (-6.0, 3.0), (-3.0, 3.0))
    starts = np.array([[0.9, 0.3], [-0.5, 1.2], [-1.5, -1.55]])
    view = View((-2.6, 1.9, -2.1, 2.1), ("θ₁", "θ₂"), starts)
    return Target("banana", logdensity_fn, metric, np.array([0.9, 0.3]), mean, square, view)


def _quadrature(
    logdensity_fn: Callable, first: tuple[float, float], second: tuple[float, float], count: int = 1500
) -> tuple[np.ndarray, np.ndarray]:
    """E[z] and E[z²] in two dimensions, on a grid."""
    axes = [np.linspace(*limits, count) for limits in (first, second)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    logs = np.asarray(jax.vmap(logdensity_fn)(jnp.asarray(grid)), np.float64)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    return weights @ grid, weights @ grid**2


def funnel(dimension: int, softness: float = 10.0) -> Target:
    """v ~ N(0, 9), x_i ~ N(0, e^v), z = (x, v) with d - 1 coordinates x (Neal 2003). SoftAbs metric.

    E[x] = 0 and E[x²] = e^{9/2}, but from tails that no run of a usual length visits often enough to be judged by: not
    given.
    """

    def logdensity_fn(z: jax.Array) -> jax.Array:
        x, v = z[:-1], z[-1]
        return -v * v / 18 - 0.5 * jnp.sum(x**2) * jnp.exp(-v) - 0.5 * x.shape[0] * v

    mean, square = np.full(dimension, np.nan), np.full(dimension, np.nan)
    mean[-1], square[-1] = 0.0, 9.0
    metric = metrics.softabs(logdensity_fn, softness)
    start = np.append(np.full(dimension - 1, 0.5), 0.0)
    starts = np.array([[0.3, -2.0], [1.0, 1.0], [-3.0, 4.0]])
    view = View((-9, 9, -7, 7), ("x", "v"), starts) if dimension == 2 else None
    return Target(f"funnel, d = {dimension}", logdensity_fn, metric, start, mean, square, view)


def load_logistic(name: str, data_dir: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """(X, t) of a data set of Girolami & Calderhead (2011), in data_dir or HMCVAE_DATA_DIR, prepared as they did:
    features standardised (by the sample standard deviation), a column of ones before them; for ripley the features,
    their squares and cubes.

    Raises:
        ValueError: if there is no such set.
        FileNotFoundError: if its file is not under data_dir/logreg.
    """
    check_choice("the data set", name, LOGISTIC)
    path = Path(data_dir or os.environ.get(data.DATA_DIR_VARIABLE) or "data") / "logreg" / f"{name}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"no data at {path}; --data-dir must name the folder that holds logreg/{name}.npz"
        )
    with np.load(path) as file:
        features, t = np.asarray(file["X"], np.float64), np.asarray(file["t"], np.float64).reshape(-1)
    features = (features - features.mean(0)) / features.std(0, ddof=1)
    if name == "ripley":
        features = np.concatenate([features, features**2, features**3], axis=1)
    return np.concatenate([np.ones((len(features), 1)), features], axis=1), t


def logistic(name: str, X: np.ndarray, t: np.ndarray) -> Target:
    """Bayesian logistic regression, p(t = 1 | w) = σ(Xw), w ~ N(0, 100 I), with the Fisher metric. Starts at w = 1e-3,
    as theirs do."""
    features, labels = jnp.asarray(X, float), jnp.asarray(t, float)

    def logdensity_fn(w: jax.Array) -> jax.Array:
        f = features @ w
        return jnp.dot(labels, f) - jnp.sum(jax.nn.softplus(f)) - 0.5 * jnp.dot(w, w) / PRIOR_VARIANCE

    metric = metrics.fisher(
        lambda w: features @ w, lambda f: jax.nn.sigmoid(f) * jax.nn.sigmoid(-f), 1 / PRIOR_VARIANCE
    )
    d = X.shape[1]
    unknown = np.full(d, np.nan)
    return Target(name, logdensity_fn, metric, np.full(d, 1e-3), unknown, unknown)
