"""Shortest paths between two points of a Riemannian manifold, as chains of points.

The energy of a chain z_0, …, z_N, with the metric at the middle of each link,

    E = N Σ_i (z_{i+1} - z_i)ᵀ G((z_i + z_{i+1}) / 2) (z_{i+1} - z_i),

is at least the square of its length, and equal to it where all links are equally long; its minimum goes to the
geodesic's squared length with an error of order 1/N². Under a decoder's Fisher metric the length of a link is, to
second order, √(2 KL) between the pictures' distributions at its ends (plus the prior's part): along a walk at constant
pace the picture changes at a constant pace (Arvanitidis, Hansen & Hauberg 2018; Chen et al. 2018).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from hmcvae._checks import check_count, check_real, check_vector, is_concrete
from hmcvae.metrics._cyclic import Levels, backward, eliminate, forward, num_blocks
from hmcvae.types import Metric, Scalar

# Of the line search: the share of the linear decrease that a step must make, and the smallest step tried.
SUFFICIENT_DECREASE, LEAST_STEP = 1e-4, 1e-6
# Iterations after which the metrics are made anew: by d derivatives that may cost as much as ten steps do.
RENEWAL = 10


class Geodesic(NamedTuple):
    """points: [n, d], from start to end.  length: Σ of the links' lengths.  straight_length: of the straight chain.
    energy: E, at least length².  num_iterations: taken.  converged: whether the last would have lowered E by less than
    `tolerance` of it."""

    points: Float[Array, "n d"]
    length: Scalar
    straight_length: Scalar
    energy: Scalar
    num_iterations: Int[Array, ""]
    converged: Bool[Array, ""]


class _Search(NamedTuple):
    """levels: E's Hessian, factorised.  is_fresh: whether that was made at this very chain."""

    inner: Float[Array, "m d"]
    energy: Scalar
    step: Scalar
    levels: Levels
    is_fresh: Bool[Array, ""]
    num_iterations: Int[Array, ""]
    is_converged: Bool[Array, ""]
    is_stuck: Bool[Array, ""]


def geodesic(
    metric: Metric,
    start: Array,
    end: Array,
    *,
    num_points: Any = 20,
    max_iterations: Any = 300,
    tolerance: Any = 1e-5,
) -> Geodesic:
    """The shortest path that descent from the straight line finds: a local minimum of E.

    Each step is the Newton step of metrics G_i that are held at their links: E's Hessian is then block tridiagonal,
    2 N (G_i + G_{i+1}) and -2 N G_i, so a constant metric takes one. The G_i are made anew every ten steps, and before
    the search ends: of those of another chain all steps may be short. Steps are halved until E falls. An iteration
    costs one product with G for each link, and its derivative: for `metrics.fisher` two passes through the decoder and
    back.

    Args:
        metric: from `hmcvae.metrics`.
        start, end: [d].
        num_points: n ≥ 2, the ends among them.
        max_iterations: of the descent.
        tolerance: relative, of E: below about 1e-6 single precision does not see it.

    Raises:
        ValueError: for ends that are not finite vectors of one shape, counts out of range, or a tolerance not above 0.
    """
    start, end = check_vector("start", start), check_vector("end", end)
    if start.shape != end.shape:
        raise ValueError(f"start and end must be of one shape, got {start.shape} and {end.shape}")
    num_points = check_count("num_points", num_points, 2)
    max_iterations = check_count("max_iterations", max_iterations, 0)
    if is_concrete(tolerance):
        check_real("tolerance", tolerance, 0, is_open=True)
    dtype = jnp.result_type(start, end)
    weights = jnp.linspace(0, 1, num_points, dtype=dtype)[:, None]
    straight = (1 - weights) * start[None] + weights * end[None]

    def chain(inner: Float[Array, "m d"]) -> Float[Array, "n d"]:
        return jnp.concatenate([straight[:1], inner, straight[-1:]])

    def energy_fn(inner: Float[Array, "m d"]) -> Scalar:
        return (num_points - 1) * jnp.sum(_squares(metric, chain(inner)))

    def factorise(inner: Float[Array, "m d"]) -> Levels:
        return _hessian(metric, chain(inner))

    search = _descend(energy_fn, factorise, straight[1:-1], tolerance, max_iterations)
    points = chain(search.inner)
    return Geodesic(
        points,
        _length(metric, points),
        _length(metric, straight),
        search.energy,
        search.num_iterations,
        search.is_converged,
    )


def _squares(metric: Metric, points: Float[Array, "n d"]) -> Float[Array, " N"]:
    """vᵀ G v of each link v, with G at its middle."""
    middles, links = (points[1:] + points[:-1]) / 2, points[1:] - points[:-1]
    return jax.vmap(lambda z, v: metric.quadratic_form(z, v[:, None]))(middles, links)


def _length(metric: Metric, points: Float[Array, "n d"]) -> Scalar:
    return jnp.sum(jnp.sqrt(_squares(metric, points)))


def _hessian(metric: Metric, points: Float[Array, "n d"]) -> Levels:
    """E's Hessian in the inner points, each link's metric held: factorised by cyclic reduction."""
    G = 2 * (len(points) - 1) * jax.vmap(metric.tensor)((points[1:] + points[:-1]) / 2)
    diagonal, below = G[:-1] + G[1:], -G[1:-1]
    missing = num_blocks(len(diagonal), 1) - len(diagonal)
    ones = jnp.broadcast_to(jnp.eye(G.shape[1], dtype=G.dtype), (missing, *G.shape[1:]))
    return eliminate(jnp.concatenate([diagonal, ones]), jnp.concatenate([below, jnp.zeros_like(ones)]))


def _newton(levels: Levels, gradient: Float[Array, "m d"]) -> Float[Array, "m d"]:
    """The Newton step for a gradient of E."""
    size = len(gradient)
    x = jnp.pad(gradient, ((0, num_blocks(size, 1) - size), (0, 0)))[:, :, None]
    return -backward(levels, forward(levels, x))[:size, :, 0]


def _descend(
    energy_fn: Callable[[Array], Scalar],
    factorise: Callable[[Array], Levels],
    inner: Float[Array, "m d"],
    tolerance: Any,
    max_iterations: int,
) -> _Search:
    """Newton steps, halved until E falls enough."""
    dtype = inner.dtype
    value_and_grad = jax.value_and_grad(energy_fn)

    def is_running(search: _Search) -> Bool[Array, ""]:
        is_over = search.is_converged | search.is_stuck
        return ~is_over & (search.num_iterations < max_iterations)

    def iterate(search: _Search) -> _Search:
        energy, gradient = value_and_grad(search.inner)
        direction = _newton(search.levels, gradient)
        slope = jnp.sum(gradient * direction)

        def is_too_long(step: Scalar) -> Bool[Array, ""]:
            falls = energy_fn(search.inner + step * direction) <= energy + SUFFICIENT_DECREASE * step * slope
            return ~falls & (step > LEAST_STEP)

        first = jnp.minimum(2 * search.step, jnp.ones((), dtype))
        step = lax.while_loop(is_too_long, lambda step: step / 2, first)
        moved = search.inner + step * direction
        new_energy = energy_fn(moved)
        is_better = new_energy <= energy
        inner, new_energy = (
            jnp.where(is_better, moved, search.inner),
            jnp.where(is_better, new_energy, energy),
        )
        # Half of -slope is what the quadratic model promises: that of this chain's own metrics is believed.
        is_small, is_stuck = -0.5 * slope <= tolerance * energy, ~is_better | (step <= LEAST_STEP)
        is_over = is_small | is_stuck
        renews = (is_over & ~search.is_fresh) | ((search.num_iterations + 1) % RENEWAL == 0)
        return _Search(
            inner,
            new_energy,
            jnp.where(renews, jnp.ones((), dtype), step),
            lax.cond(renews, factorise, lambda _: search.levels, inner),
            renews,
            search.num_iterations + 1,
            is_small & search.is_fresh,
            is_stuck & search.is_fresh,
        )

    zero, yes = jnp.zeros((), jnp.int32), jnp.ones((), bool)
    if not len(inner):
        return _Search(inner, energy_fn(inner), jnp.ones((), dtype), (), yes, zero, yes, ~yes)
    search = _Search(inner, energy_fn(inner), jnp.ones((), dtype), factorise(inner), yes, zero, ~yes, ~yes)
    return lax.while_loop(is_running, iterate, search)


def resample(metric: Metric, points: Float[Array, "n d"], num_points: Any) -> Float[Array, "m d"]:
    """Points at equal lengths along the chain: a walk at constant pace.

    Raises:
        ValueError: unless points is [n, d] with n ≥ 2, and num_points a whole number of at least 2.
    """
    if points.ndim != 2 or len(points) < 2:
        raise ValueError(f"points must be [n, d] with n of at least 2, got {points.shape}")
    count = check_count("num_points", num_points, 2)
    along = jnp.concatenate([jnp.zeros(1, points.dtype), jnp.cumsum(jnp.sqrt(_squares(metric, points)))])
    wanted = jnp.linspace(0, 1, count, dtype=points.dtype) * along[-1]
    return jax.vmap(lambda column: jnp.interp(wanted, along, column), 1, 1)(points)
