"""The masses of a hierarchical metric in warm-up: log-linear in the blocks before, from the gradients of the draws.

Given the blocks before it, the gradients g_j = ∂_{z_j} log p of a block have mean 0 and, as variances, its conditional
information E[g_j² | z₁] = E[-∂²_{z_j} log p | z₁]: the masses that suit it. No conditional mean has to be known, as the
variances of the draws themselves would need. The first block has masses of its gradients, too: on Neal's funnel of 100
dimensions, where all the others pull at it, they give five times as many effective draws a step as its inverse
variances. (Kailas, Vihola & Wallin 2026 fit masses to gradients by stochastic descent.) With g_j | z₁ ~ N(0, m_j) and
log m_j = a_j + B_j z₁,

    E[log g_j² | z₁] = a_j + B_j z₁ + ψ(½) + log 2,     Var[log g_j² | z₁] = π²/2,

so a and B come from a linear regression. It is worth two in five of the draws that maximum likelihood would need
(asymptotic variances 2 to π²/2), but has no iterations that could fail, and running moments are all that is kept.
"""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, Int

from hmcvae.metrics import Hierarchical, LogLinear
from hmcvae.samplers.moments import power_of_two

# -(ψ(½) + log 2), ψ(½) = -γ - 2 log 2: by what the mean of log χ² of one degree of freedom is below 0.
LOG_CHI_SQUARE = 0.5772156649015329 + math.log(2)
# A slope's prior: standard normal for each standard deviation of z₁, against a noise of variance π²/2.
PRIOR_DRAWS = math.pi**2 / 2


class HierarchicalMoments(NamedTuple):
    """Running moments of x, the coordinates of all blocks but the last, p in number, and y = log g², block by block.

    count: n.  unit: powers of two above every |x| so far, as `WelfordState`.  mean_x, mean_y.
    scatter: Σ (x - mean) (x - mean)ᵀ in units of x.  cross: Σ (x - mean) (y - mean)ᵀ likewise.
    """

    count: Int[Array, ""]
    unit: Float[Array, " p"]
    mean_x: Float[Array, " p"]
    mean_y: Float[Array, " d"]
    scatter: Float[Array, "p p"]
    cross: Float[Array, "p d"]


def moments_init(metric: Hierarchical, dtype: Any) -> HierarchicalMoments:
    """No draws yet."""
    sizes = [len(block) for block in metric.blocks]
    p, d = sum(sizes[:-1]), sum(sizes)
    x, y = jnp.zeros(p, dtype), jnp.zeros(d, dtype)
    zero = jnp.zeros((), jnp.int32)
    return HierarchicalMoments(zero, x, x, y, jnp.zeros((p, p), dtype), jnp.zeros((p, d), dtype))


def moments_update(
    state: HierarchicalMoments,
    metric: Hierarchical,
    positions: Float[Array, "n d"],
    gradients: Float[Array, "n d"],
) -> HierarchicalMoments:
    """Take in n draws at once (Chan, Golub & LeVeque 1983, eq. 1.5)."""
    dtype = state.mean_x.dtype
    order = np.concatenate(metric.blocks)
    x = positions.astype(dtype)[:, order[: state.mean_x.shape[0]]]
    g = jnp.abs(gradients.astype(dtype)[:, order])
    y = 2 * jnp.log(jnp.maximum(g, jnp.finfo(dtype).tiny))
    unit = jnp.maximum(state.unit, power_of_two(x))
    divisor = jnp.where(unit > 0, unit, 1)
    shrink = state.unit / divisor
    x, old_x = x / divisor[None, :], state.mean_x / divisor
    count = state.count + x.shape[0]
    mean_x, mean_y = jnp.mean(x, axis=0), jnp.mean(y, axis=0)
    away_x, away_y = x - mean_x[None, :], y - mean_y[None, :]
    shift_x, shift_y = mean_x - old_x, mean_y - state.mean_y
    step = x.shape[0] / count.astype(dtype)
    weight = state.count.astype(dtype) * step
    scatter = state.scatter * jnp.outer(shrink, shrink) + away_x.T @ away_x
    cross = state.cross * shrink[:, None] + away_x.T @ away_y
    return HierarchicalMoments(
        count,
        unit,
        (old_x + step * shift_x) * divisor,
        state.mean_y + step * shift_y,
        scatter + weight * jnp.outer(shift_x, shift_x),
        cross + weight * jnp.outer(shift_x, shift_y),
    )


def fit(state: HierarchicalMoments, metric: Hierarchical) -> Hierarchical:
    """The metric with a = mean(y) + γ + log 2 - B mean(x), B by regression of y on x with a ridge of five draws, for
    each block on all the blocks before it. Of the first block that leaves its constant masses, M₁ = exp(a)."""
    sizes = [len(block) for block in metric.blocks]
    # A coordinate that never moved says nothing: its slopes are 0.
    spread = jnp.diagonal(state.scatter)
    ridge = PRIOR_DRAWS / state.count.astype(spread.dtype) * spread + jnp.where(spread > 0, 0, 1)
    level = state.mean_y + LOG_CHI_SQUARE
    mass_fns = []
    for p, end in pairwise(np.cumsum(sizes)):
        system = state.scatter[:p, :p] + jnp.diag(ridge[:p])
        slopes = cho_solve(cho_factor(system), state.cross[:p, p:end]).T
        slopes = slopes / jnp.where(state.unit > 0, state.unit, 1)[None, :p]
        mass_fns.append(LogLinear(level[p:end] - slopes @ state.mean_x[:p], slopes))
    return Hierarchical(metric.blocks, tuple(mass_fns), jnp.exp(level[: sizes[0]]))
