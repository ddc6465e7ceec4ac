"""Hamiltonian dynamics with constant masses."""

from typing import Any

import jax
import jax.numpy as jnp

from hmcvae import integrators, metrics
from hmcvae._checks import check_count
from hmcvae._random import normal
from hmcvae.priors import gaussian_log_prob
from hmcvae.transitions.base import (
    Target,
    Transition,
    TransitionInfo,
    as_conditional,
    begin_state,
    raw_step_size,
    step_size,
)
from hmcvae.types import PRNGKey, PyTree


def hamiltonian(
    latent_dim: int | None,
    reverse: Any = None,
    momentum: Any = None,
    num_steps: int = 1,
    *,
    initial_step_size: float = 0.1,
    max_step_size: float = 1.0,
    per_coordinate_steps: bool = False,
    unroll: int | bool = 1,
    checkpoint: bool = False,
) -> Transition:
    """A few leapfrog steps on log p(x, ·) with fresh momentum (Salimans, Kingma & Welling 2015, section 3, eq. 9-11).

    Momenta are whitened by the learned diagonal masses M, v = M^{1/2} w, on both ends:

        w ~ q(w | x, z) = N(m_q, s_q²),   (z', v') = Φ(z, M^{1/2} w),   r(w' | x, z') = N(w'; m_r, s_r²).

    Φ preserves volume and log |M| cancels between q and r, so the difference of the two log densities is exact.
    Parameters: `step_size`, unconstrained, with ε = max_step_size · sigmoid(step_size), so it stays positive and
    bounded; `log_mass` [d]; and those of the two models. All are trained through the exact gradient.

    Args:
        latent_dim: d; None: one mass for all coordinates.
        reverse: r, see `as_conditional`; None is N(0, I), exact at stationarity.
        momentum: q, likewise; None is N(0, I), the usual momentum.
        num_steps: L ≥ 0 leapfrog steps.
        initial_step_size, max_step_size: in the units of z over the square root of the masses.
        per_coordinate_steps: learn a step size for each coordinate.
        unroll, checkpoint: see `integrators.integrate`.

    Raises:
        ValueError: for a negative number of steps, or unless 0 < initial_step_size < max_step_size.
    """
    num_steps = check_count("num_steps", num_steps, 0)
    latent_dim = None if latent_dim is None else check_count("latent_dim", latent_dim, 1)
    raw_step = raw_step_size(initial_step_size, max_step_size)
    if per_coordinate_steps and latent_dim is None:
        raise ValueError("per_coordinate_steps needs latent_dim, got None")
    reverse, momentum = as_conditional("reverse", reverse), as_conditional("momentum", momentum)

    def init(rng_key: PRNGKey) -> PyTree:
        reverse_key, momentum_key = jax.random.split(rng_key)
        return {
            "step_size": jnp.full((latent_dim,) if per_coordinate_steps else (), raw_step, float),
            "log_mass": jnp.zeros((latent_dim or 1,)),
            "reverse": reverse.init(reverse_key),
            "momentum": momentum.init(momentum_key),
        }

    def step(params: PyTree, rng_key: PRNGKey, target: Target, state: Any):
        start, features = state.position, target.example.features
        dtype = start.dtype
        epsilon = step_size(params, max_step_size).astype(dtype)
        mass = jnp.broadcast_to(jnp.exp(params["log_mass"]).astype(dtype), start.shape)
        metric = metrics.diagonal(mass)
        mean, log_scale = momentum.apply(params["momentum"], features, start)
        w = mean + jnp.exp(log_scale) * normal(rng_key, start.shape, dtype)
        log_forward = gaussian_log_prob(w, mean, log_scale)
        state = state._replace(momentum=metric.factor(start).sqrt_matvec(w))
        first = state.logdensity
        leapfrog = integrators.leapfrog(target.logdensity_fn, metric)
        state, solver = integrators.integrate(
            leapfrog, state, epsilon, num_steps, unroll=unroll, checkpoint=checkpoint
        )
        w_end = metric.factor(start).sqrt_solve(state.momentum)
        log_reverse = gaussian_log_prob(w_end, *reverse.apply(params["reverse"], features, state.position))
        energy_error = first - state.logdensity + 0.5 * (jnp.sum(w_end**2) - jnp.sum(w**2))
        return state, TransitionInfo(log_forward, log_reverse, energy_error, solver)

    return Transition(init, begin_state, step)
