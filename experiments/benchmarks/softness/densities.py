"""Posteriors whose curvature changes its size, or its sign, from place to place."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.samplers import targets

# (log density, a point near its bulk, [d]).
Posterior = tuple[Callable, np.ndarray]

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools() -> Posterior:
    """Rubin's eight schools, centred: z = (μ, log τ, θ); μ ~ N(0, 5²), τ ~ half-Cauchy(5), θ ~ N(μ, τ²)."""

    def logdensity_fn(z: jax.Array) -> jax.Array:
        mu, log_tau, theta = z[0], z[1], z[2:]
        misfit, effect = (theta - EFFECTS) / ERRORS, (theta - mu) * jnp.exp(-log_tau)
        prior = -0.5 * (mu / 5) ** 2 - jnp.log1p((jnp.exp(log_tau) / 5) ** 2) + log_tau
        return prior - 0.5 * jnp.dot(effect, effect) - len(EFFECTS) * log_tau - 0.5 * jnp.dot(misfit, misfit)

    return logdensity_fn, np.concatenate([[4.0, 1.0], 4.0 + 0.1 * EFFECTS])


def build(name: str, data_dir: Path | None) -> Posterior:
    """The posterior with that name, in float64.

    Raises:
        ValueError: for a name that is not known.
    """
    kind, _, rest = name.partition("-")
    if name == "schools":
        return schools()
    if kind == "funnel" and rest.isdigit():
        target = targets.funnel(int(rest))
        return target.logdensity_fn, target.start
    if kind == "logreg":
        target = targets.logistic(rest, *targets.load_logistic(rest, data_dir))
        return target.logdensity_fn, target.start
    raise ValueError(f"posteriors are schools, funnel-<d>, logreg-<set>; got {name!r}")
