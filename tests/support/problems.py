"""Problems for the integrators that solve: targets that bend, each with a metric and a step size."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import metrics, solvers
from hmcvae.integrators import generalized_leapfrog, hierarchical_leapfrog, implicit_midpoint
from tests.support import targets
from tests.support.metrics import bernoulli_weight

COVARIATES, LABELS = targets.logistic_data(30, 3, 0)
LOGISTIC = targets.logistic(30, 3)
BANANA, FUNNEL, SKEWED = targets.banana(), targets.funnel(3), targets.skewed()


def bend(z):
    """The banana's log density is -½ |f|² of these two, so JᵀJ is its Gauss-Newton metric."""
    return jnp.stack([z[0] / 1.5, z[1] - 0.5 * (z[0] ** 2 - 2.25)])


def matrix(z):
    root = 0.3 * jnp.outer(jnp.sin(z), jnp.cos(z)) + jnp.diag(1 + 0.2 * z**2)
    return root @ root.T + 0.5 * jnp.eye(z.shape[0], dtype=z.dtype)


def masses(z):
    return jnp.exp(0.4 * jnp.roll(z, 1)) + 0.3 * z**2 + 0.3


def logits(z):
    return jnp.asarray(COVARIATES, z.dtype) @ z


# name: (target, metric, step size)
HIERARCHICAL = {
    "funnel-hierarchical": (
        FUNNEL,
        metrics.hierarchical([0, 1, 1], lambda v: jnp.exp(-v[0]) * jnp.array([1.0, 0.5], v.dtype)),
        0.15,
    ),
    "skewed-nested": (
        SKEWED,
        metrics.hierarchical(
            [[2], [0], [1]], [lambda a: jnp.exp(0.4 * a) + 0.3, lambda a, b: 1 + a**2 + b**2]
        ),
        0.15,
    ),
}
PROBLEMS = {
    "banana-fisher": (BANANA, metrics.fisher(bend, jnp.ones_like, 0.0), 0.2),
    "logistic-fisher": (LOGISTIC, metrics.fisher(logits, bernoulli_weight, 0.25), 0.3),
    "funnel-softabs": (FUNNEL, metrics.softabs(FUNNEL.logdensity_fn, 1.0), 0.15),
    "skewed-monge": (SKEWED, metrics.monge(SKEWED.logdensity_fn, 0.5), 0.15),
    "skewed-tensor": (SKEWED, metrics.from_tensor(matrix), 0.15),
    "skewed-diagonal": (SKEWED, metrics.from_tensor(masses), 0.15),
}
INTEGRATORS = {"generalized": generalized_leapfrog, "midpoint": implicit_midpoint}


def explicit(logdensity_fn, metric, solver=None):
    del solver
    return hierarchical_leapfrog(logdensity_fn, metric)


# Every implicit integrator on every problem, and the explicit one where there is one.
ALL_PROBLEMS, ALL_INTEGRATORS = PROBLEMS | HIERARCHICAL, INTEGRATORS | {"explicit": explicit}
over_cases = pytest.mark.parametrize(
    ("problem", "kind"),
    [(problem, kind) for kind in INTEGRATORS for problem in PROBLEMS]
    + [(problem, "explicit") for problem in HIERARCHICAL],
)
over_problems = pytest.mark.parametrize("problem", PROBLEMS)
over_integrators = pytest.mark.parametrize("kind", INTEGRATORS)
# Far below the default tolerance, so that the properties are seen to the last digits.
SHARP = solvers.fixed_point(1e-14, max_iterations=60)


def start_of(problem, dtype="float64"):
    """(position, momentum); the momentum whitened, so that all problems move at a like speed."""
    target, metric, _ = ALL_PROBLEMS[problem]
    position = jnp.asarray(target.typical, dtype)
    white = jnp.asarray(np.linspace(1.0, -0.7, target.dim), dtype)
    return position, jax.jit(lambda z: metric.factor(z).sqrt_matvec(white))(position)


@cache
def energy(problem):
    target, metric, _ = ALL_PROBLEMS[problem]
    return jax.jit(lambda z, v: metric.kinetic_energy(v, z) - target.logdensity_fn(z))
