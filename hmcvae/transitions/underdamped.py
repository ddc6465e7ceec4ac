"""Leapfrog steps one at a time, between which only a part of the momentum is drawn anew."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hmcvae._checks import check_count, check_real
from hmcvae._random import normal
from hmcvae.priors import gaussian_log_prob
from hmcvae.solvers import exact_info
from hmcvae.transitions.base import Target, Transition, TransitionInfo, raw_step_size, step_size
from hmcvae.types import ArrayLike, LogDensityFn, PRNGKey, PyTree, Scalar, Vector


class _Phase(NamedTuple):
    """logdensity and its gradient are those of log p(x, ·), whatever the temperature; momentum is whitened, and none
    where the chain begins."""

    position: Vector
    logdensity: Scalar
    logdensity_grad: Vector
    momentum: Vector
    has_momentum: Bool[Array, ""]


def underdamped(
    latent_dim: int | None,
    *,
    initial_step_size: float = 0.1,
    max_step_size: float = 1.0,
    persistence: float | None = None,
) -> Transition:
    """A leapfrog step after a partial refreshment of the momentum: a move of underdamped Langevin dynamics, which
    Uncorrected Hamiltonian Annealing takes at each temperature (Geffner & Domke 2021, section 3; Horowitz 1991).

    With w the momentum whitened by the learned masses M, v = M^{1/2} w, and w_0 ~ N(0, I),

        w' = η w_{t-1} + (1 - η²)^{1/2} ε,   ε ~ N(0, I),        (y_t, w_t) = Φ(y_{t-1}, w').

    The refreshment leaves N(0, I) alone and is reversible in it, so with its own reverse as the model of coming back
    what it adds to the bound is N(w_{t-1}) / N(w'), which telescopes: with the step's it is log N(w_t) - log N(w') a
    transition. η = 0 draws all of the momentum anew, as `hamiltonian` of one step does. Parameters: `step_size` as
    there, `log_mass` [d], and `persistence`, of which η is the sigmoid.

    Along an annealed path it costs one gradient of log p(x, ·) a temperature: the one at the end of a step serves the
    next, at another temperature.

    Args:
        latent_dim: d; None: one mass for all coordinates.
        initial_step_size, max_step_size: see `hamiltonian`.
        persistence: η in [0, 1) to hold; None: learned, starting at 1/2.

    Raises:
        ValueError: unless 0 < initial_step_size < max_step_size, and η is None or in [0, 1).
    """
    latent_dim = None if latent_dim is None else check_count("latent_dim", latent_dim, 1)
    raw_step = raw_step_size(initial_step_size, max_step_size)
    held = None if persistence is None else check_real("persistence", persistence, 0, 1)
    if held == 1:
        raise ValueError("persistence must be less than 1, got 1.0: the momentum would be drawn once")

    def init(rng_key: PRNGKey) -> PyTree:
        del rng_key
        own = {"step_size": jnp.full((), raw_step, float), "log_mass": jnp.zeros((latent_dim or 1,))}
        return own | ({"persistence": jnp.zeros(())} if held is None else {})

    def begin(logdensity_fn: LogDensityFn, position: Vector) -> _Phase:
        found = jax.value_and_grad(logdensity_fn)(position)
        return _Phase(position, *found, jnp.zeros_like(position), jnp.zeros((), bool))

    def anneal(params: PyTree, rng_key: PRNGKey, target: Target, beta: ArrayLike, state: _Phase):
        y, dtype = state.position, state.position.dtype
        epsilon = step_size(params, max_step_size).astype(dtype)
        root = jnp.exp(0.5 * params["log_mass"]).astype(dtype)
        eta = (
            jnp.asarray(held, dtype)
            if held is not None
            else jax.nn.sigmoid(params["persistence"]).astype(dtype)
        )
        eta = jnp.where(state.has_momentum, eta, 0.0)
        noise = normal(rng_key, y.shape, dtype)
        w = eta * state.momentum + jnp.sqrt(1 - eta**2) * noise
        log_q_fn = target.coordinates.log_prob

        def tempered(log_p: Array, log_q: Array) -> Array:
            return jnp.asarray((1 - beta) * log_q + beta * log_p)

        log_q, slope = jax.value_and_grad(log_q_fn)(y)
        first = tempered(state.logdensity, log_q)
        half = w + 0.5 * epsilon * tempered(state.logdensity_grad, slope) / root
        end = y + epsilon * half / root
        log_p, gradient = jax.value_and_grad(target.logdensity_fn)(end)
        log_q, slope = jax.value_and_grad(log_q_fn)(end)
        w_end = half + 0.5 * epsilon * tempered(gradient, slope) / root
        zero = jnp.zeros_like(w)
        log_forward, log_reverse = gaussian_log_prob(w, zero, zero), gaussian_log_prob(w_end, zero, zero)
        energy_error = first - tempered(log_p, log_q) + log_forward - log_reverse
        info = TransitionInfo(log_forward, log_reverse, energy_error, exact_info(dtype))
        return _Phase(end, log_p, gradient, w_end, jnp.ones((), bool)), info

    def step(params: PyTree, rng_key: PRNGKey, target: Target, state: _Phase):
        return anneal(params, rng_key, target, 1.0, state)

    return Transition(init, begin, step, anneal)


def persistence_of(params: PyTree) -> Float[Array, "..."]:
    """η: the share of the momentum that the parameters of `underdamped` keep."""
    return jax.nn.sigmoid(params["persistence"])
