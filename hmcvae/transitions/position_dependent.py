"""Riemannian dynamics: a position-dependent metric, and the decoder's as one."""

from typing import Any

import jax
import jax.numpy as jnp

from hmcvae import integrators, metrics, posteriors, solvers
from hmcvae._checks import check_count, check_real
from hmcvae._random import normal
from hmcvae.posteriors.information import pulled_back
from hmcvae.priors import gaussian_log_prob
from hmcvae.solvers import Solver
from hmcvae.transitions.base import (
    Integrator,
    LearnedMetric,
    Target,
    Transition,
    TransitionInfo,
    as_conditional,
    begin_state,
    raw_step_size,
    step_size,
)
from hmcvae.types import Metric, PRNGKey, PyTree


def riemannian(
    learned_metric: LearnedMetric,
    reverse: Any = None,
    momentum: Any = None,
    num_steps: int = 1,
    *,
    solver: Solver = solvers.DEFAULT,
    integrator: Integrator = integrators.generalized_leapfrog,
    initial_step_size: float = 0.1,
    max_step_size: float = 1.0,
    unroll: int | bool = 2,
    checkpoint: bool = False,
) -> Transition:
    """A few steps of the generalized leapfrog with fresh momentum, for a metric that depends on the position.

    Momenta are whitened by the metric where they are, v = L(z) w with L Lᵀ = G(z):

        w ~ q(w | x, z),   (z', v') = Φ(z, L(z) w),   w' = L(z')⁻¹ v',

        log q(v | x, z) = log q(w | x, z) - ½ log |G(z)|,     log r(v' | x, z') = log r(w' | x, z') - ½ log |G(z')|.

    Φ (Girolami & Calderhead 2011, eq. 16-18) preserves volume where its solves are converged, and there alone is the
    difference of the two densities exact: `solver` of the info says so. At steps so large that the implicit equations
    have several solutions a converged solve may land on another branch than its reverse; nothing here looks for that
    (`rmhmc` does, with `check_reversibility`), so keep steps small enough that all solves converge.

    Args:
        learned_metric: the metric, a function of y and of x; `learned_decoder_metric` is one.
        reverse, momentum: r and q, see `as_conditional`; None is N(0, I).
        num_steps: L ≥ 0.
        solver: a fixed count is faster to differentiate, one to tolerance is exact: see `hmcvae.solvers`.
        integrator: `(logdensity_fn, metric, solver) -> step`; `integrators.implicit_midpoint` is another. Where its
            steps do not preserve volume the transition gives no bound.
        initial_step_size, max_step_size: see `hamiltonian`.
        unroll, checkpoint: see `integrators.integrate`. Of d derivatives of a net a loop keeps copies for the backward
            pass; up to three steps make none.

    Raises:
        ValueError: see `hamiltonian`.
    """
    num_steps = check_count("num_steps", num_steps, 0)
    raw_step = raw_step_size(initial_step_size, max_step_size)
    reverse, momentum = as_conditional("reverse", reverse), as_conditional("momentum", momentum)

    def init(rng_key: PRNGKey) -> PyTree:
        reverse_key, momentum_key, metric_key = jax.random.split(rng_key, 3)
        return {
            "step_size": jnp.asarray(raw_step, float),
            "metric": learned_metric.init(metric_key),
            "reverse": reverse.init(reverse_key),
            "momentum": momentum.init(momentum_key),
        }

    def step(params: PyTree, rng_key: PRNGKey, target: Target, state: Any):
        start, features = state.position, target.example.features
        dtype = start.dtype
        metric = learned_metric.build(params["metric"], target)
        metrics.check_is_metric(metric)
        geometry = metric.carry(start)
        factor = metric.carried_factor(start, geometry)
        mean, log_scale = momentum.apply(params["momentum"], features, start)
        w = mean + jnp.exp(log_scale) * normal(rng_key, start.shape, dtype)
        log_forward = gaussian_log_prob(w, mean, log_scale) - 0.5 * factor.log_det
        energy = -state.logdensity + 0.5 * jnp.sum(w**2) + 0.5 * factor.log_det
        state, solver_info = integrators.integrate(
            integrator(target.logdensity_fn, metric, solver),
            state._replace(momentum=factor.sqrt_matvec(w), geometry=geometry),
            step_size(params, max_step_size).astype(dtype),
            num_steps,
            unroll=unroll,
            checkpoint=checkpoint,
        )
        factor = metric.carried_factor(state.position, state.geometry)
        w_end = factor.sqrt_solve(state.momentum)
        log_reverse = gaussian_log_prob(w_end, *reverse.apply(params["reverse"], features, state.position))
        log_reverse = log_reverse - 0.5 * factor.log_det
        end_energy = -state.logdensity + 0.5 * jnp.sum(w_end**2) + 0.5 * factor.log_det
        # The next transition's metric has parameters of its own.
        state = state._replace(geometry=())
        return state, TransitionInfo(log_forward, log_reverse, end_energy - energy, solver_info)

    return Transition(init, begin_state, step)


def learned_decoder_metric(latent_dim: int | None, position_dependence: float | None = None) -> LearnedMetric:
    """The decoder's Fisher information with the prior's precision, mixed with constant masses:

        G(y) = κ Aᵀ [J(z)ᵀ diag(w) J(z) + Λ] A + (1 - κ) M,   z = c + A y.

    Args:
        latent_dim: d; None: one mass for all coordinates.
        position_dependence: κ in [0, 1] to hold; None: learned, starting at 1/2. M is learned unless κ is 1.

    Raises:
        ValueError: unless latent_dim is None or at least 1, and κ None or in [0, 1].
    """
    latent_dim = None if latent_dim is None else check_count("latent_dim", latent_dim, 1)
    if position_dependence is not None:
        position_dependence = check_real("position_dependence", position_dependence, 0.0, 1.0)

    def init(rng_key: PRNGKey) -> PyTree:
        del rng_key
        masses = {} if position_dependence == 1 else {"log_mass": jnp.zeros((latent_dim or 1,))}
        return masses | ({"dependence": jnp.zeros(())} if position_dependence is None else {})

    def build(params: PyTree, target: Target) -> Metric:
        A = target.coordinates.matrix()
        is_learned = position_dependence is None
        kappa = jax.nn.sigmoid(params["dependence"]) if is_learned else jnp.asarray(position_dependence)
        kappa = kappa.astype(A.dtype)
        mass = jnp.exp(params.get("log_mass", jnp.zeros(1))).astype(A.dtype)
        prior = pulled_back(target.example.prior_precision, A)
        precision = kappa * prior + (1 - kappa) * jnp.diag(jnp.broadcast_to(mass, A.shape[:1]))
        return posteriors.decoder_metric(
            target.example, precision, weight=kappa, to_position=target.coordinates.to_position
        )

    return LearnedMetric(init, build)
