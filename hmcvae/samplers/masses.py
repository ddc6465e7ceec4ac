"""The forms that the mass of a warm-up may have, and what each learns from."""

from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hmcvae import metrics
from hmcvae._numerics import all_finite
from hmcvae.samplers import fisher_masses, hierarchical
from hmcvae.samplers.fisher_masses import DrawBuffer, PairState
from hmcvae.samplers.hierarchical import HierarchicalMoments
from hmcvae.samplers.moments import (
    WelfordState,
    metric_from_covariance,
    welford_covariance,
    welford_init,
    welford_update,
)
from hmcvae.types import Metric, Vector

# The form of an adapted mass matrix; None keeps the metric as it is.
Mass = Literal["diagonal", "dense", "diagonal_fisher", "low_rank", "hierarchical"] | None
FORMS = ("diagonal", "dense", "diagonal_fisher", "low_rank", "hierarchical")
Moments = WelfordState | HierarchicalMoments | PairState | DrawBuffer


def begin(mass: str, metric: Any, position: Vector, dtype: Any) -> tuple[Moments, Metric]:
    """(no draws yet, the metric to begin with) for a mass of this form."""
    d = position.shape[0]
    if isinstance(metric, metrics.Hierarchical):
        first = jnp.broadcast_to(metric.first_mass, (len(metric.blocks[0]),))
        start = jax.tree.map(lambda leaf: leaf.astype(dtype), replace(metric, first_mass=first))
        return hierarchical.moments_init(start, dtype), start
    if mass == "dense":
        return welford_init(d, mass, dtype), metrics.dense(metric.tensor(position).astype(dtype))
    diagonal = _diagonal(metric, position).astype(dtype)
    if mass == "low_rank":
        k = fisher_masses.num_directions(d)
        vectors, ones = jnp.eye(d, k, dtype=dtype), jnp.ones(k, dtype)
        return fisher_masses.buffer_init(d, dtype), metrics.LowRank(diagonal, vectors, ones)
    if mass == "diagonal_fisher":
        return fisher_masses.pair_init(d, dtype), metrics.diagonal(diagonal)
    return welford_init(d, "diagonal", dtype), metrics.diagonal(diagonal)


def _diagonal(metric: Any, position: Vector) -> Vector:
    """Of G, without a matrix where there is another way."""
    factor = metric.factor(position)
    found = factor.diagonals[0] if hasattr(factor, "diagonals") else jnp.diagonal(metric.tensor(position))
    return found * jnp.ones_like(position)


def needs_gradients(moments: Any) -> bool:
    """Whether the mass is learned from the gradients of the log density, too."""
    return isinstance(moments, (HierarchicalMoments, PairState, DrawBuffer))


def update(
    moments: Any, metric: Any, positions: Float[Array, "chain d"], gradients: Any, collects: Any
) -> Moments:
    """Take in a draw of each chain, if it `collects`."""
    if isinstance(moments, DrawBuffer):
        return fisher_masses.buffer_update(moments, positions, gradients, collects)
    if isinstance(moments, PairState):
        updated: Any = fisher_masses.pair_update(moments, positions, gradients)
    elif isinstance(moments, HierarchicalMoments):
        updated = hierarchical.moments_update(moments, metric, positions, gradients)
    else:
        updated = welford_update(moments, positions)
    return jax.tree.map(lambda new, old: jnp.where(collects, new, old), updated, moments)


def fit(moments: Any, metric: Any, positions: Float[Array, "chain d"]) -> tuple[Metric, Bool[Array, ""]]:
    """(the metric of the draws so far, whether it can be used)."""
    is_enough: Any = True
    if isinstance(moments, HierarchicalMoments):
        found: Any = hierarchical.fit(moments, metric)
        mass = jax.vmap(found.masses)(positions.astype(metric.first_mass.dtype))
    elif isinstance(moments, DrawBuffer):
        found, is_enough = fisher_masses.fit_low_rank(moments, positions.shape[0], metric)
        mass = jnp.concatenate([found.mass, found.eigenvalues])
    elif isinstance(moments, PairState):
        found = fisher_masses.fit_diagonal(moments, metric.mass)
        mass = found.mass
    else:
        found = metric_from_covariance(welford_covariance(moments))
        mass = jnp.diagonal(found.mass) if found.mass.ndim == 2 else found.mass
    return found, is_enough & _fits(found, mass, positions.dtype)


def _fits(metric: Any, mass: Array, dtype: Any) -> Bool[Array, ""]:
    """Whether masses and their reciprocals are finite and not 0 in the positions' dtype."""
    info = jnp.finfo(dtype)
    smallest = max(4 * float(info.tiny), 4 / float(info.max))
    is_inside = (mass > smallest) & (mass < 1 / smallest)
    return is_inside.all() & all_finite(*jax.tree.leaves(metric))


def reset(moments: Any, is_over: Any) -> Moments:
    """No draws yet, where the window is over."""
    if isinstance(moments, DrawBuffer):  # of which the counts alone say what is in it
        fresh: Any = fisher_masses.buffer_reset(moments)
    else:
        fresh = jax.tree.map(jnp.zeros_like, moments)
    return jax.tree.map(lambda new, old: old if new is old else jnp.where(is_over, new, old), fresh, moments)


def check_mass(mass: Any, metric: Any, name: str = "the adapted mass", more: tuple[str, ...] = ()) -> None:
    """Raise ValueError unless `mass` names a form that can replace the metric; more: other names that may be given."""
    if mass is not None and not (isinstance(mass, str) and mass in FORMS):
        names = ", ".join(f'"{form}"' for form in (*more, *FORMS))
        raise ValueError(f"{name} must be {names} or None, got {mass!r}")
    if mass == "hierarchical":
        functions = getattr(metric, "mass_fns", ())
        if not functions or not all(isinstance(function, metrics.LogLinear) for function in functions):
            raise ValueError(
                "hierarchical masses are tuned where all mass functions are log-linear, as in "
                f"metrics.hierarchical(blocks), got {type(metric).__name__}"
            )
        return
    if mass is not None and getattr(metric, "is_position_dependent", False):
        raise ValueError(
            f"a metric that depends on the position has no mass to adapt, got {mass!r} for {type(metric).__name__}"
        )
