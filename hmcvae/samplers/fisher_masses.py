"""Masses from draws and the gradients at them: the metric of the least Fisher divergence.

Of all Gaussians with covariance Σ, the one whose scores are nearest those of the posterior, in the mean over the draws
of |∇log p(z) + Σ⁻¹ (z - μ)|² in the norm of Σ, has

    Σ Cov(g) Σ = Cov(z),    Σ = Cov(g)⁻¹ # Cov(z)    (# the geometric mean of matrices),

with g = ∇log p(z); where only a diagonal is wanted, Σ_ii = √(Var z_i / Var g_i) (Seyboldt, Carlson & Carpenter 2026,
arXiv 2603.18845, theorem 2.3). For a Gaussian posterior g is linear in z, the noise of the two covariances cancels, and
as many draws as there are dimensions give Σ itself: the variances of the draws alone would need many times as many.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from hmcvae import metrics
from hmcvae.metrics import LowRank
from hmcvae.samplers.moments import WelfordState, power_of_two, welford_init, welford_update
from hmcvae.types import Metric, Scalar, Vector

# Rows of draws and of gradients that are kept; transitions that they hold at least, where there are many chains.
BUFFER_ROWS, FEWEST_SLOTS = 512, 16
# Directions of a low-rank metric at most, of the draws and of the gradients that are looked at for them where there are
# more coordinates than both, and how far a variance must be from 1 to count.
MOST_DIRECTIONS, MOST_AXES, CUTOFF = 64, 128, 2.0
# Below so many rows nothing is learned.
FEWEST_ROWS = 8


class PairState(NamedTuple):
    """Running moments of (z, g), [2 d], as one vector."""

    both: WelfordState


def pair_init(dimension: int, dtype: Any) -> PairState:
    """No draws yet."""
    return PairState(welford_init(2 * dimension, "diagonal", dtype))


def pair_update(
    state: PairState, positions: Float[Array, "n d"], gradients: Float[Array, "n d"]
) -> PairState:
    """Take in n draws and the gradients there; pairs in which a number is not finite count as the mean so far."""
    both = jnp.concatenate([positions, gradients], axis=1).astype(state.both.mean.dtype)
    is_finite = jnp.isfinite(both).all(axis=1, keepdims=True)
    return PairState(both=welford_update(state.both, jnp.where(is_finite, both, state.both.mean[None, :])))


def fit_diagonal(state: PairState, mass: Vector) -> Metric:
    """The metric of masses √(Var g_i / Var z_i)."""
    both = state.both
    deviation = jnp.sqrt(both.scatter / jnp.maximum(both.count - 1, 1)) * both.unit
    deviation = jnp.where(deviation > _rounding(both.unit), deviation, 0)
    return metrics.diagonal(_masses(deviation[: len(mass)], deviation[len(mass) :], mass)[0])


def _rounding(largest: Vector) -> Vector:
    """What deviations from a mean are known to, of numbers up to the largest: below it a constant may seem to vary."""
    return 8 * float(jnp.finfo(largest.dtype).eps) * largest


def _masses(position: Vector, gradient: Vector, old: Vector) -> tuple[Vector, Bool[Array, " d"]]:
    """(masses, which of them are known by both) of the standard deviations of positions and gradients. Of gradients
    that never change nothing is learned, and the variance of the positions stands; of positions, the mass that was."""
    is_known = (position > 0) & (gradient > 0) & jnp.isfinite(position) & jnp.isfinite(gradient)
    some = jnp.where(position > 0, position, 1)
    alone = jnp.where((position > 0) & jnp.isfinite(position), 1 / some / some, old)
    return jnp.where(is_known, gradient / some, alone), is_known


class DrawBuffer(NamedTuple):
    """Draws of a window and the gradients there, every stride-th transition of it: so many that the buffer is between
    half full and full, however long the window is.

    count: transitions so far.  draws, gradients: [BUFFER_ROWS, d], as many rows a transition as there are chains.
    """

    count: Int[Array, ""]
    stride: Int[Array, ""]
    draws: Float[Array, "n d"]
    gradients: Float[Array, "n d"]


def buffer_init(dimension: int, dtype: Any) -> DrawBuffer:
    """No draws yet."""
    rows = jnp.zeros((BUFFER_ROWS, dimension), dtype)
    return DrawBuffer(jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32), rows, rows)


def buffer_reset(state: DrawBuffer) -> DrawBuffer:
    """The next window's."""
    return state._replace(count=jnp.zeros_like(state.count), stride=jnp.ones_like(state.stride))


def _slots(num_chains: int) -> tuple[int, int]:
    """(rows of a transition, transitions that fit)."""
    rows = min(num_chains, BUFFER_ROWS // FEWEST_SLOTS)
    return rows, BUFFER_ROWS // rows


def buffer_update(
    state: DrawBuffer, positions: Float[Array, "n d"], gradients: Float[Array, "n d"], collects: Any
) -> DrawBuffer:
    """Take in a transition of all the chains. Where they are more than a slot holds, the chains take turns."""
    num_chains = positions.shape[0]
    rows, slots = _slots(num_chains)
    is_full = state.count // state.stride >= slots
    # Every other slot goes, and from here on every other transition is left out.
    keep = _kept_rows(rows, slots)
    draws, old_gradients = lax.cond(
        collects & is_full,
        lambda pair: jax.tree.map(lambda a: jnp.concatenate([a[keep], a[keep.shape[0] :]]), pair),
        lambda pair: pair,
        (state.draws, state.gradients),
    )
    stride = jnp.where(collects & is_full, 2 * state.stride, state.stride)
    is_kept = collects & (state.count % stride == 0)
    at = (state.count // stride % slots) * rows
    turn = (jnp.arange(rows) + state.count * rows) % num_chains

    def write(old: Array, new: Array) -> Array:
        # Where nothing is kept the rows that are there are written again: no copy of the buffer.
        there = lax.dynamic_slice_in_dim(old, at, rows)
        return lax.dynamic_update_slice_in_dim(
            old, jnp.where(is_kept, new[turn].astype(old.dtype), there), at, 0
        )

    count = state.count + jnp.asarray(collects, jnp.int32)
    return DrawBuffer(count, stride, write(draws, positions), write(old_gradients, gradients))


def _kept_rows(rows: int, slots: int) -> Int[Array, " kept"]:
    """Of the slots 0, 2, 4, …"""
    return (jnp.arange(0, slots, 2)[:, None] * rows + jnp.arange(rows)[None, :]).reshape(-1)


def fit_low_rank(state: DrawBuffer, num_chains: int, old: LowRank) -> tuple[LowRank, Bool[Array, ""]]:
    """(the metric of the draws and gradients in the buffer, whether they were enough to say anything).

    The masses are those of `fit_diagonal`; of the draws and gradients in units of these, Σ in the axes in which they
    vary most, and of Σ the eigenvalues beyond the cutoff, those farthest from 1 first. Both covariances have γ I added,
    γ = 10⁻³ (axes / draws)²: with fewer draws than axes one of them may know nothing of a direction, and would have Σ
    go to 0 or infinity there.
    """
    rows, slots = _slots(num_chains)
    filled = jnp.minimum(-(-state.count // state.stride), slots) * rows
    is_row = (jnp.arange(BUFFER_ROWS) < filled) & jnp.isfinite(state.draws).all(axis=1)
    is_row = is_row & jnp.isfinite(state.gradients).all(axis=1)
    n = jnp.sum(is_row).astype(old.mass.dtype)
    x, g = (jnp.where(is_row[:, None], a, 0) for a in (state.draws, state.gradients))
    away, away_g = _centred(x, is_row, n), _centred(g, is_row, n)
    mass, is_known = _masses(_deviation(away, x, n), _deviation(away_g, g, n), old.mass)
    root = jnp.where(is_known, jnp.sqrt(mass), 0)
    x, s = away * root[None, :], away_g * jnp.where(is_known, 1 / jnp.sqrt(mass), 0)[None, :]
    axes = _axes(x, s)
    variances, directions = _geometric_mean(x @ axes, s @ axes, n)
    size = jnp.abs(jnp.log(variances))
    order = lax.top_k(size, min(len(variances), MOST_DIRECTIONS))[1]
    is_far = size[order] > jnp.log(CUTOFF)
    eigenvalues = jnp.where(is_far, 1 / variances[order], 1)
    vectors = axes @ directions[:, order]
    return LowRank(mass, vectors, eigenvalues), n >= FEWEST_ROWS


def num_directions(dimension: int) -> int:
    """Of the low-rank metric of a warm-up."""
    return min(dimension, MOST_DIRECTIONS)


def _centred(rows: Array, is_row: Array, n: Scalar) -> Array:
    """Without their mean; rows that do not count are 0, and stay it."""
    mean = jnp.sum(rows / jnp.maximum(n, 1), axis=0)
    return jnp.where(is_row[:, None], rows - mean[None, :], 0)


def _deviation(away: Array, rows: Array, n: Scalar) -> Vector:
    """Of rows, of which `away` is the distance from the mean; 0 where it is no more than rounding."""
    largest = power_of_two(away)
    unit = jnp.where(largest > _rounding(power_of_two(rows)), largest, 0)
    return unit * jnp.sqrt(
        jnp.sum((away / jnp.where(unit > 0, unit, 1)[None, :]) ** 2, axis=0) / jnp.maximum(n, 1)
    )


def _axes(x: Float[Array, "n d"], s: Float[Array, "n d"]) -> Float[Array, "d m"]:
    """Orthonormal axes: those in which draws vary most, and gradients; all there are, where these are no fewer."""
    d = x.shape[1]
    if d <= 2 * MOST_AXES:
        return jnp.eye(d, dtype=x.dtype)

    def most(rows: Array) -> Array:
        # eigh sorts upwards: the last are the largest.
        return rows.T @ jnp.linalg.eigh(rows @ rows.T)[1][:, -MOST_AXES:]

    both = jnp.concatenate([most(x), most(s)], axis=1)
    length = jnp.sqrt(jnp.sum(both**2, axis=0))
    return jnp.linalg.qr(both / jnp.where(length > 0, length, 1)[None, :])[0]


def _geometric_mean(
    x: Float[Array, "n m"], s: Float[Array, "n m"], n: Scalar
) -> tuple[Float[Array, " m"], Float[Array, "m m"]]:
    """(eigenvalues, eigenvectors) of Cov(s)⁻¹ # Cov(x) = R⁻¹ (R Cov(x) R)^{1/2} R⁻¹, R = Cov(s)^{1/2}."""
    m = x.shape[1]
    eps = float(jnp.finfo(x.dtype).eps)
    gamma = 1e-3 * (m / jnp.maximum(n, 1)) ** 2

    def covariance(rows: Array) -> Array:
        matrix = rows.T @ rows / jnp.maximum(n, 1)
        # Not below what rounding leaves of the smallest eigenvalues.
        return matrix + (gamma + eps * jnp.trace(matrix)) * jnp.eye(m, dtype=rows.dtype)

    values, V = jnp.linalg.eigh(covariance(s))
    root = jnp.sqrt(jnp.maximum(values, eps * values[-1]))
    inner = (V * root[None, :]).T @ covariance(x) @ (V * root[None, :])
    inner_values, W = jnp.linalg.eigh(0.5 * (inner + inner.T))
    half = (V / root[None, :]) @ (W * jnp.maximum(inner_values, eps * inner_values[-1])[None, :] ** 0.25)
    variances, directions = jnp.linalg.eigh(half @ half.T)
    return jnp.maximum(variances, eps * variances[-1]), directions
