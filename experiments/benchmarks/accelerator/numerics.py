"""Whether the device computes what a CPU does: the same log-weights, and trajectories that keep their energy and come
back."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.accelerator.config import Config
from experiments.benchmarks.accelerator.models import loaded
from experiments.benchmarks.riemannian.density import regression
from experiments.runs.model import test_examples
from hmcvae import integrators, metrics, solvers

PRECISIONS = ("default", "highest")
NUM_CHAINS, NUM_STEPS, DIM = 16, 20, 25


def log_weights(name: str, config: Config) -> list[dict[str, Any]]:
    """Of a preset's bound at its first parameters: how far the device's are from the CPU's in nats, one draw for each
    test image; a row for each precision of matrix products. All in float32."""
    _, dataset, model = loaded(name, config)
    examples = test_examples(model, dataset, config.num_compared)
    keys = jax.random.split(jax.random.key(0), len(examples))

    def values(params: Any, keys: Any, x: Any) -> Any:
        found, info = jax.vmap(model.bound, (None, 0, 0))(params, keys, x)
        return found, jnp.mean(info.solver.converged.astype(jnp.float32))

    def on(device: Any, precision: str) -> tuple[np.ndarray, float]:
        with jax.default_matmul_precision(precision):
            arguments = jax.device_put((model.params, keys, examples), device)
            found, converged = jax.device_get(jax.jit(values)(*arguments))
        return np.asarray(found, np.float64), float(converged)

    expected, _ = on(jax.devices("cpu")[0], "highest")
    rows = []
    for precision in PRECISIONS:
        found, converged = on(jax.devices()[0], precision)
        row = {"preset": name, "precision": precision, "mean": float(np.mean(expected))}
        row |= {"off": float(np.mean(found - expected)), "off_most": float(np.max(np.abs(found - expected)))}
        rows.append(row | {"converged": converged})
    return rows


def trajectories() -> list[dict[str, Any]]:
    """Of a logistic regression with 25 coefficients, in float32, the worst of 16 chains: the energy error of 20 steps,
    and what they and as many back leave of the position, in its scale."""
    model = regression(1000, DIM)
    logdensity_fn, fisher = model.build("float32")
    implicit = partial(integrators.generalized_leapfrog, solver=solvers.fixed_point())
    cases = {
        "leapfrog": (integrators.leapfrog, metrics.identity(), 0.02),
        "generalized leapfrog": (implicit, fisher, 0.2),
    }
    rows = []
    for name, (make, metric, step_size) in cases.items():
        found = _there_and_back(logdensity_fn, model.mode, make, metric, step_size)
        rows.append({"integrator": name, "step_size": step_size} | found)
    return rows


def _there_and_back(
    logdensity_fn: Any, mode: Any, make: Any, metric: Any, step_size: float
) -> dict[str, float]:
    def chain(key: Any) -> tuple[Any, Any, Any]:
        place, push = jax.random.split(key)
        position = jnp.asarray(mode, jnp.float32) + 0.05 * jax.random.normal(place, (DIM,))
        factor = metric.factor(position)
        momentum = factor.sqrt_matvec(jax.random.normal(push, (DIM,)))
        begin = integrators.init(logdensity_fn, metric, position, momentum)
        step = make(logdensity_fn, metric)
        end, info = integrators.integrate(step, begin, step_size, NUM_STEPS)
        back, back_info = integrators.integrate(step, end, -step_size, NUM_STEPS)
        error = integrators.energy(metric, end) - integrators.energy(metric, begin)
        left = jnp.max(jnp.abs(back.position - position)) / jnp.max(jnp.abs(end.position - position))
        return error, left, info.converged & back_info.converged

    keys = jax.random.split(jax.random.key(0), NUM_CHAINS)
    error, left, converged = jax.device_get(jax.jit(jax.vmap(chain))(keys))
    return {
        "energy_error": float(np.max(np.abs(error))),
        "left": float(np.max(left)),
        "converged": float(np.mean(converged)),
    }
