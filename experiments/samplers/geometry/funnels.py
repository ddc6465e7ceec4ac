"""Neal's funnel in any dimension."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.samplers.geometry.posteriors import Form, Posterior, Watched
from hmcvae import metrics

TAIL = -5.0
# v ~ N(0, 9): P(v < -5) = Φ(-5/3).
TAIL_MASS = 0.5 * math.erfc(5 / 3 / math.sqrt(2))


def funnel(dimension: int) -> Posterior:
    """v ~ N(0, 9), x_i ~ N(0, e^v), z = (v, x_1, …, x_{d-1}) (Neal 2003). Effective sizes are of v alone: E[x²] =
    e^{9/2} comes from tails that no run visits often enough to be judged by."""

    def logdensity_fn(z: jax.Array) -> jax.Array:
        v, x = z[0], z[1:]
        return -v * v / 18 - 0.5 * jnp.sum(x**2) * jnp.exp(-v) - 0.5 * x.shape[0] * v

    form = Form(logdensity_fn, np.zeros(dimension), lambda z: z[:1], spread=1.0)
    hierarchical = form._replace(metric=metrics.hierarchical([0] + [1] * (dimension - 1)))
    softabs = form._replace(metric=metrics.softabs(logdensity_fn, 1.0))
    watched = (
        Watched("P(v < -5)", lambda z: (z[..., 0] < TAIL).astype(float), TAIL_MASS),
        Watched("E[v]", lambda z: z[..., 0], 0.0),
        Watched("E[v²]", lambda z: z[..., 0] ** 2, 9.0),
    )
    return Posterior(
        f"funnel_{dimension}",
        f"Neal's funnel, d = {dimension}",
        {"plain": form, "hierarchical": hierarchical, "softabs": softabs},
        watched,
        num_samples=4000,
        note="v ~ N(0, 9), x ~ N(0, eᵛ). Effective sizes are of v and v².",
    )
