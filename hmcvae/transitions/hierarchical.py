"""Explicit dynamics whose masses depend on the position: one block of y moves with masses that another sets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from hmcvae import integrators, metrics
from hmcvae._checks import check_count
from hmcvae.solvers import Solver
from hmcvae.transitions.base import LearnedMetric, Target, Transition
from hmcvae.transitions.position_dependent import riemannian
from hmcvae.types import LogDensityFn, Metric, PRNGKey, PyTree, Vector


class MassModel(NamedTuple):
    """Masses of one block given features of x and the block before it.

    init: `rng_key -> params`.  apply: `(params, features [h], y₁ [d₁]) -> log masses [d₂]`.
    """

    init: Callable[[PRNGKey], PyTree]
    apply: Callable[[PyTree, Array, Vector], Any]


def hierarchical(
    latent_dim: int,
    reverse: Any = None,
    momentum: Any = None,
    num_steps: int = 1,
    *,
    blocks: Any = None,
    mass: MassModel | None = None,
    **options: Any,
) -> Transition:
    """A few steps of `integrators.hierarchical_leapfrog` with fresh momentum: `riemannian` with a metric

        G(y) = diag(M₁, M₂(x, y₁)),   y = (y₁, y₂),

    for which its flow is explicit: it preserves volume to rounding at every step size, solves nothing that could fail,
    and costs about what `hamiltonian` does, a gradient a step. Give it to `bounds.markov_chain`. M₁ and the parameters
    of M₂ are learned.

    Args:
        latent_dim: d ≥ 2.
        reverse, momentum, num_steps: see `riemannian`.
        blocks: the number, 0 or 1, of each coordinate's block; or the two blocks' indices. None: the first half of the
            coordinates sets the masses of the second.
        mass: M₂, a `MassModel`. None: log M₂ = a + B y₁, with a and B learned, 0 at first.
        options: initial_step_size, max_step_size, unroll, checkpoint: see `riemannian`.

    Raises:
        ValueError: see `riemannian` and `metrics.hierarchical`; or unless the blocks are two, of d coordinates in all.
    """
    learned = learned_hierarchical_metric(latent_dim, blocks=blocks, mass=mass)
    return riemannian(learned, reverse, momentum, num_steps, integrator=_explicit, **options)


def learned_hierarchical_metric(
    latent_dim: int, *, blocks: Any = None, mass: MassModel | None = None
) -> LearnedMetric:
    """G(y) = diag(M₁, M₂(x, y₁)): see `hierarchical`.

    Raises:
        ValueError: see `hierarchical`.
    """
    latent_dim = check_count("latent_dim", latent_dim, 2)
    if blocks is None:
        blocks = [0] * (latent_dim // 2) + [1] * (latent_dim - latent_dim // 2)
    indices = metrics.hierarchical(blocks).blocks
    sizes = [len(block) for block in indices]
    if len(sizes) != 2 or sum(sizes) != latent_dim:
        raise ValueError(f"blocks must be two, of {latent_dim} coordinates in all, got blocks of {sizes}")
    if mass is None:
        mass = _log_linear(*sizes)
    elif not (hasattr(mass, "init") and hasattr(mass, "apply")):
        raise ValueError(f"mass must be a MassModel, of init and apply, or None, got {mass!r}")
    model = mass

    def init(rng_key: PRNGKey) -> PyTree:
        return {"log_mass": jnp.zeros(sizes[0]), "mass": model.init(rng_key)}

    def build(params: PyTree, target: Target) -> Metric:
        features = target.example.features

        def mass_fn(y1: Vector) -> Array:
            return jnp.exp(model.apply(params["mass"], features, y1))

        return metrics.hierarchical(indices, mass_fn, jnp.exp(params["log_mass"]))

    return LearnedMetric(init, build)


def _log_linear(num_first: int, num_second: int) -> MassModel:
    def init(rng_key: PRNGKey) -> PyTree:
        del rng_key
        return {"intercept": jnp.zeros(num_second), "slopes": jnp.zeros((num_second, num_first))}

    def apply(params: PyTree, features: Array, y1: Vector) -> Array:
        del features
        return params["intercept"] + params["slopes"] @ y1

    return MassModel(init, apply)


def _explicit(logdensity_fn: LogDensityFn, metric: Metric, solver: Solver) -> integrators.Step:
    del solver  # there is nothing to solve
    return integrators.hierarchical_leapfrog(logdensity_fn, metric)
