"""A table of densities × Euclidean metrics × dtypes, and the leapfrog's flow in each case."""

from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import integrators, metrics
from hmcvae.integrators import IntegratorState
from hmcvae.types import Metric
from tests.support import targets

TARGETS = {target.name: target for target in targets.all_targets()}
METRICS = ["identity", "diagonal", "dense"]
DTYPES = ["float32", "float64"]


def mass_matrix(kind: str, dim: int) -> np.ndarray:
    """A mass of that kind, of trace above d, so that the frequencies of the targets' step sizes stay stable."""
    if kind == "identity":
        return np.eye(dim)
    if kind == "diagonal":
        return np.diag(np.geomspace(0.8, 4.0, dim))
    rotation, _ = np.linalg.qr(np.random.default_rng(dim).normal(size=(dim, dim)))
    return (rotation * np.geomspace(0.8, 4.0, dim)) @ rotation.T


def make_metric(kind: str, mass: jax.Array) -> Metric:
    if kind == "identity":
        return metrics.identity()
    return metrics.diagonal(jnp.diagonal(mass)) if kind == "diagonal" else metrics.dense(mass)


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    target_name: str
    kind: str
    dtype: str

    @property
    def target(self) -> targets.Target:
        return TARGETS[self.target_name]

    @property
    def mass(self) -> np.ndarray:
        return mass_matrix(self.kind, self.target.dim)

    @property
    def metric(self) -> Metric:
        return make_metric(self.kind, jnp.asarray(self.mass, self.dtype))

    @property
    def position(self) -> jax.Array:
        return jnp.asarray(self.target.typical, self.dtype)

    @property
    def momentum(self) -> jax.Array:
        noise = np.linspace(1.0, -0.7, self.target.dim)
        return jnp.asarray(np.linalg.cholesky(self.mass) @ noise, self.dtype)

    @property
    def eps(self) -> float:
        return float(jnp.finfo(self.dtype).eps)

    def start(self) -> IntegratorState:
        return integrators.init(self.target.logdensity_fn, self.metric, self.position, self.momentum)


@cache
def flow_of(case: Case):
    """(position, momentum, ε, L) -> end of the trajectory. One compilation serves every ε and every L."""
    step = integrators.leapfrog(case.target.logdensity_fn, case.metric)

    def flow(position: jax.Array, momentum: jax.Array, step_size: jax.Array, num_steps: jax.Array):
        state = integrators.init(case.target.logdensity_fn, case.metric, position, momentum)
        end, _ = integrators.integrate(step, state, step_size, num_steps)
        return end.position, end.momentum

    return flow


@cache
def jitted_flow(case: Case):
    flow = jax.jit(flow_of(case))
    return lambda z, v, epsilon, n: flow(z, v, jnp.asarray(epsilon, case.dtype), jnp.asarray(n))


@cache
def jacobian_of(case: Case):
    """(z, v, ε, L) -> the [2d, 2d] Jacobian of the end in the start."""
    dim = case.target.dim
    flow = flow_of(case)  # here, not in the trace: it is kept, with the metric's arrays

    @jax.jit
    def jacobian(z, v, epsilon, n):
        def stacked(zv):
            return jnp.concatenate(flow(zv[:dim], zv[dim:], epsilon, n))

        return jax.jacfwd(stacked)(jnp.concatenate([z, v]))

    return lambda z, v, epsilon, n: np.asarray(
        jacobian(z, v, jnp.asarray(epsilon, case.dtype), jnp.asarray(n))
    )


# Every density, and every metric on both Gaussians; elsewhere the pairs that differ most.
TABLE = {
    "isotropic": METRICS,
    "correlated": METRICS,
    "skewed": ["identity", "diagonal"],
    "banana": ["diagonal", "dense"],
    "funnel": ["identity", "dense"],
    "logistic": ["dense"],
}


def over(target_names=tuple(TABLE), kinds=METRICS, *, extra=()):
    """Rows of the table in float64, where properties are sharp, and `extra` rows."""
    cases = [Case(name, kind, "float64") for name in target_names for kind in TABLE[name] if kind in kinds]
    return pytest.mark.parametrize(
        "case", [*cases, *extra], ids=lambda case: f"{case.target_name}-{case.kind}-{case.dtype}"
    )


SINGLE = [Case("correlated", "identity", "float32"), Case("banana", "dense", "float32")]
over_table = over(extra=[*SINGLE, Case("logistic", "diagonal", "float32")])
over_float64 = over()
over_gaussians = over(["isotropic", "correlated"], extra=SINGLE[:1])
