"""Hamiltonian variational inference, on flat space and on the manifold of the decoder."""

from typing import Any

from hmcvae import solvers
from hmcvae._checks import check_count
from hmcvae.bounds.base import Bound
from hmcvae.bounds.chain import markov_chain
from hmcvae.posteriors import Posterior
from hmcvae.solvers import Solver
from hmcvae.transitions import hamiltonian, learned_decoder_metric, riemannian, underdamped
from hmcvae.vae import VAE


def hvi(
    vae: VAE,
    *,
    posterior: Posterior | None = None,
    reverse: Any = None,
    num_transitions: int = 1,
    num_steps: int = 1,
    momentum: Any = None,
    latent_dim: int | None = None,
    annealed: bool = False,
    **options: Any,
) -> Bound:
    """Hamiltonian variational inference (Salimans, Kingma & Welling 2015, section 3).

    T transitions of L leapfrog steps on the exact log p(x, ·), in the coordinates y of the posterior, momentum drawn
    afresh for each. With w the momentum whitened by the learned masses,

        L = log p(x, y_T) - log q(y_0 | x) + Σ_t [log r_t(w_t | x, y_t) - log q_t(w'_t | x, y_{t-1})].

    L steps cost L gradients of log p(x, ·), plus one for the chain's start; the gradient with respect to the
    parameters goes through all of them, second-order terms included. In whitened coordinates the dynamics are those of
    z with the mass matrix (A Aᵀ)⁻¹, one for each example.

    Args:
        vae: the model.
        posterior: from `hmcvae.posteriors`; None is `mean_field()`, whose coordinates are z itself: the bound of the
            paper.
        reverse: r(w | x, y): a function `(params, features [h], y [d]) -> (mean [d], log_scale [d])`, or an object
            with `init(rng_key)` and `apply` (see `networks.reverse_model`); None: N(0, I), nothing learned.
        num_transitions, num_steps: T ≥ 0 and L ≥ 0.
        momentum: q(w' | x, y), likewise; None: the standard normal.
        latent_dim: d, by default the VAE's; None: one learned mass for all coordinates.
        annealed: see `markov_chain`.
        options: initial_step_size, max_step_size, per_coordinate_steps, unroll, checkpoint: see
            `transitions.hamiltonian`.

    Raises:
        ValueError: for negative counts or step sizes, or models of another kind.
    """
    dimension = vae.latent_dim if latent_dim is None else check_count("latent_dim", latent_dim, 1)
    transition = hamiltonian(dimension, reverse, momentum, num_steps, **options)
    return markov_chain(vae, transition, num_transitions, posterior=posterior, annealed=annealed, name="hvi")


def uha(
    vae: VAE,
    *,
    posterior: Posterior | None = None,
    num_transitions: int = 1,
    persistence: float | None = None,
    latent_dim: int | None = None,
    annealed: bool = True,
    **options: Any,
) -> Bound:
    """Uncorrected Hamiltonian Annealing (Geffner & Domke 2021, algorithm 2), or Differentiable AIS (Zhang et al. 2021;
    Thin et al. 2021, without momentum).

    From y_0 ~ q(y | x), one leapfrog step with a partial refreshment of the momentum (`transitions.underdamped`) at
    each of T temperatures of a learned path to p(x, y),

        L = log p(x, y_T) - log q(y_0 | x) + Σ_t [log N(w_t; 0, I) - log N(w'_t; 0, I)],

    for T + 1 gradients of log p(x, ·). The papers count K densities between q and p, with K - 1 = T of these
    transitions: K = 1 is the ELBO. Step sizes, masses and η are learned for each transition; the papers share masses
    and η among them, and hold the path's coordinates to z itself, which is the posterior's default here.

    Args:
        vae, posterior, latent_dim: see `hvi`.
        num_transitions: T ≥ 0.
        persistence: η to hold; None: learned.
        annealed: False moves on p(x, ·) itself at every transition.
        options: initial_step_size, max_step_size: see `transitions.underdamped`.

    Raises:
        ValueError: see `hvi` and `transitions.underdamped`.
    """
    dimension = vae.latent_dim if latent_dim is None else check_count("latent_dim", latent_dim, 1)
    transition = underdamped(dimension, persistence=persistence, **options)
    return markov_chain(vae, transition, num_transitions, posterior=posterior, annealed=annealed, name="uha")


def rhvi(
    vae: VAE,
    *,
    posterior: Posterior | None = None,
    reverse: Any = None,
    num_transitions: int = 1,
    num_steps: int = 1,
    momentum: Any = None,
    annealed: bool = False,
    position_dependence: float | None = None,
    solver: Solver = solvers.DEFAULT,
    **options: Any,
) -> Bound:
    """Riemannian Hamiltonian variational inference: `hvi` with a position-dependent metric.

    In the posterior's coordinates the metric is

        G(y) = κ Aᵀ [J(z)ᵀ diag(w) J(z) + Λ] A + (1 - κ) M,   z = c + A y,

    the decoder's Fisher information and the prior's precision Λ, pulled back, and mixed with constant masses: κ is the
    position dependence, and at κ = 0 the flow is that of `hvi`. κ and the diagonal M are learned, one of each a
    transition. Steps are those of `transitions.riemannian`, so momenta are v ~ N(0, G(y)) but for the models q and r of
    their whitened form.

    Args:
        vae, posterior, reverse, num_transitions, num_steps, momentum, annealed: see `hvi`.
        position_dependence: κ in [0, 1] to hold; None: learned, starting at 1/2.
        solver: of the implicit equations. A step whose solve is not converged does not preserve volume, and what it
            gives is no bound: train with `solvers.fixed_point(num_iterations=…)` if need be, but evaluate to tolerance,
            and read `info.solver.converged`.
        options: integrator, initial_step_size, max_step_size, unroll, checkpoint: see `transitions.riemannian`.

    Raises:
        ValueError: see `hvi`; or unless κ is None or in [0, 1].
    """
    metric = learned_decoder_metric(vae.latent_dim, position_dependence)
    transition = riemannian(metric, reverse, momentum, num_steps, solver=solver, **options)
    return markov_chain(vae, transition, num_transitions, posterior=posterior, annealed=annealed, name="rhvi")
