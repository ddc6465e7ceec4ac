"""Posteriors whose scales, correlations and tails differ."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.nuts import densities as of_nuts
from experiments.samplers import targets

# (log density, a point near its bulk, [d]).
Posterior = tuple[Callable, np.ndarray]


def scales(dim: int) -> Posterior:
    """Independent coordinates with standard deviations from 10⁻³ to 10³."""
    widths = np.geomspace(1e-3, 1e3, dim)
    inverse = jnp.asarray(1 / widths)
    return lambda z: -0.5 * jnp.sum((z * inverse) ** 2), widths


def skewed(dim: int) -> Posterior:
    """log Gamma(a) variables of shapes a from 0.3 to 3, each coordinate plus half of the one before."""
    shapes = np.geomspace(0.3, 3.0, dim)
    a, back = jnp.asarray(shapes), np.eye(dim) + 0.5 * np.eye(dim, k=-1)
    unmix = jnp.asarray(np.linalg.inv(back))

    def logdensity_fn(z: jax.Array) -> jax.Array:
        y = unmix @ z
        return jnp.sum(a * y - jnp.exp(y))

    return logdensity_fn, back @ np.log(shapes)


def build(name: str, data_dir: Path | None) -> Posterior:
    """The posterior with that name, in float64.

    Raises:
        ValueError: for a name that is not known.
    """
    kind, _, rest = name.partition("-")
    if kind == "logreg":
        target = targets.logistic(rest, *targets.load_logistic(rest, data_dir))
        return target.logdensity_fn, np.asarray(target.start)
    if kind in ("scales", "skewed") and rest.isdigit():
        return {"scales": scales, "skewed": skewed}[kind](int(rest))
    density = of_nuts.build(name, "float64")
    return density.logdensity_fn, density.start
