"""Learned Gaussian kernels, without dynamics."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hmcvae._random import normal
from hmcvae.priors import gaussian_log_prob
from hmcvae.solvers import exact_info
from hmcvae.transitions.base import Target, Transition, TransitionInfo, as_conditional
from hmcvae.types import PRNGKey, PyTree, Scalar, Vector


class _Point(NamedTuple):
    position: Vector
    logdensity: Scalar


def gaussian_kernel(forward: Any, reverse: Any) -> Transition:
    """A learned Markov kernel and its learned reverse, without dynamics (Salimans et al. 2015, eq. 5-6):

        q_t(z' | x, z) = N(z'; z + m_q(x, z), s_q(x, z)²),   r_t(z | x, z') = N(z; z' + m_r(x, z'), s_r(x, z')²).

    `forward` and `reverse` are as in `as_conditional`.
    """
    forward, reverse = as_conditional("forward", forward), as_conditional("reverse", reverse)

    def init(rng_key: PRNGKey) -> PyTree:
        forward_key, reverse_key = jax.random.split(rng_key)
        return {"forward": forward.init(forward_key), "reverse": reverse.init(reverse_key)}

    def step(params: PyTree, rng_key: PRNGKey, target: Target, state: _Point):
        start, features = state.position, target.example.features
        shift, log_scale = forward.apply(params["forward"], features, start)
        end = start + shift + jnp.exp(log_scale) * normal(rng_key, start.shape, start.dtype)
        log_forward = gaussian_log_prob(end, start + shift, log_scale)
        shift, log_scale = reverse.apply(params["reverse"], features, end)
        log_reverse = gaussian_log_prob(start, end + shift, log_scale)
        info = TransitionInfo(log_forward, log_reverse, jnp.zeros_like(log_forward), exact_info(start.dtype))
        return _Point(end, target.logdensity_fn(end)), info

    return Transition(init, lambda logdensity_fn, z: _Point(z, logdensity_fn(z)), step)
