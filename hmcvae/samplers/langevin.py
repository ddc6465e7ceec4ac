"""The simplified manifold Metropolis-adjusted Langevin algorithm."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from hmcvae import metrics
from hmcvae._checks import check_function, check_positive
from hmcvae._random import happens, normal
from hmcvae._ravel import ravel_pytree
from hmcvae.samplers.base import (
    SamplingAlgorithm,
    as_algorithm,
    check_dimension,
    check_finite,
    flatten,
    ravel,
)
from hmcvae.types import LogDensityFn, Metric, PRNGKey, PyTree, Scalar, StepSize, Vector


class MMALAState(NamedTuple):
    """The state of an `mmala` chain: the position, and log p and its gradient there.  Nothing is kept of the metric:
    its factor alone is needed, and a `Geometry` holds derivatives of G, too."""

    position: PyTree
    logdensity: Scalar
    logdensity_grad: PyTree


class MMALAInfo(NamedTuple):
    """acceptance_rate: min(1, ratio), 0 where it is not finite.  is_accepted: whether the chain moved.
    is_divergent: whether the proposal's density, gradient or metric was not finite."""

    acceptance_rate: Scalar
    is_accepted: Bool[Array, ""]
    is_divergent: Bool[Array, ""]


def mmala(logdensity_fn: LogDensityFn, step_size: Any, metric: Any) -> SamplingAlgorithm:
    """Simplified manifold MALA (Girolami & Calderhead 2011, section 4.2: the proposal of their eq. 10 without the terms
    in the derivatives of G).

        z' ~ q(· | z) = N(z + ε²/2 G(z)⁻¹ ∇log p(z), ε² G(z)⁻¹)
        accept with probability min(1, p(z') q(z | z') / (p(z) q(z' | z)))

    A baseline for `rmhmc`: no implicit equations, one build of the metric a transition.

    Raises:
        ValueError: as for `hmc`.
    """
    check_function("logdensity_fn", logdensity_fn, "position -> log p(position)")
    step_size = check_positive("step_size", step_size)
    metrics.check_is_metric(metric)

    def make_init(logdensity_fn: LogDensityFn) -> Callable:
        def init(position: PyTree, rng_key: PRNGKey | None = None) -> MMALAState:
            del rng_key
            z, unravel = ravel(position)
            check_dimension(metric, step_size, z)
            check_finite("initial position", position)
            logdensity, gradient = jax.value_and_grad(flatten(logdensity_fn, unravel))(z)
            check_finite("logdensity at the initial position", logdensity)
            check_finite("gradient of the logdensity at the initial position", gradient)
            if metric.is_position_dependent:
                metrics.check_metric(metric, z)
            return MMALAState(unravel(z), logdensity, unravel(gradient))

        return init

    def make_kernel(logdensity_fn: LogDensityFn) -> Callable:
        def kernel(
            rng_key: PRNGKey, state: MMALAState, step_size: StepSize, metric: Metric
        ) -> tuple[MMALAState, MMALAInfo]:
            z, unravel = ravel(state.position)
            epsilon = jnp.asarray(step_size, z.dtype)
            noise_key, accept_key = jax.random.split(rng_key)
            mean, factor = _proposal(metric, z, ravel_pytree(state.logdensity_grad)[0], epsilon)
            # G⁻¹ w for w ~ N(0, G) is N(0, G⁻¹).
            noise = normal(noise_key, z.shape, z.dtype)
            new = mean + epsilon * factor.solve(factor.sqrt_matvec(noise))
            logdensity, gradient = jax.value_and_grad(flatten(logdensity_fn, unravel))(new)
            back, new_factor = _proposal(metric, new, gradient, epsilon)
            forth = _log_q(new, mean, metric, z, factor, epsilon)
            log_ratio = (
                logdensity - state.logdensity + _log_q(z, back, metric, new, new_factor, epsilon) - forth
            )
            is_finite = jnp.isfinite(log_ratio) & jnp.isfinite(new).all() & jnp.isfinite(gradient).all()
            rate = jnp.where(is_finite, jnp.exp(jnp.minimum(log_ratio, 0.0)), 0.0)
            is_accepted = happens(accept_key, rate)
            moved = MMALAState(unravel(new), logdensity, unravel(gradient))
            state = jax.tree.map(lambda a, b: jnp.where(is_accepted, a, b), moved, state)
            return state, MMALAInfo(rate, is_accepted, ~is_finite)

        return kernel

    return as_algorithm(logdensity_fn, make_init, make_kernel, ("mmala",), step_size, metric)


def _proposal(metric: Metric, z: Vector, gradient: Vector, epsilon: Array) -> tuple[Vector, Any]:
    """(mean, factor) of q(· | z)."""
    factor = metric.factor(z)
    return z + 0.5 * epsilon**2 * factor.solve(gradient), factor


def _log_q(z: Vector, mean: Vector, metric: Metric, at: Vector, factor: Any, epsilon: Array) -> Scalar:
    """log N(z; mean, ε² G(at)⁻¹) up to a constant."""
    away = (z - mean) / epsilon
    return 0.5 * factor.log_det - 0.5 * jnp.dot(away, metric.matvec(at, away))
