"""The FitzHugh–Nagumo equations (Girolami & Calderhead 2011, section 11): parameters of a differential equation."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from experiments.samplers.geometry.posteriors import Form, Posterior, Watched
from hmcvae import metrics

TRUTH = np.array([0.2, 0.2, 3.0])
START, NOISE, PRIOR_SD = np.array([-1.0, 1.0]), 0.5, 5.0
NUM_TIMES, END, SUBSTEPS = 200, 20.0, 4


def slope(state: Float[Array, " 2"], theta: Float[Array, " 3"]) -> Float[Array, " 2"]:
    """V' = c (V - V³/3 + R), R' = -(V - a + b R) / c."""
    (v, r), (a, b, c) = state, theta
    return jnp.stack([c * (v - v**3 / 3 + r), -(v - a + b * r) / c])


def solution(theta: Float[Array, " 3"]) -> Float[Array, "times 2"]:
    """(V, R) at NUM_TIMES times to END, by Runge & Kutta's rule of order 4 with SUBSTEPS steps between them."""
    h = END / (NUM_TIMES - 1) / SUBSTEPS

    def step(_: int, y: Array) -> Array:
        k1 = slope(y, theta)
        k2 = slope(y + h / 2 * k1, theta)
        k3 = slope(y + h / 2 * k2, theta)
        k4 = slope(y + h * k3, theta)
        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    def between(y: Array, _: None) -> tuple[Array, Array]:
        y = lax.fori_loop(0, SUBSTEPS, step, y, unroll=True)
        return y, y

    first = jnp.asarray(START, theta.dtype)
    return jnp.concatenate([first[None], lax.scan(between, first, None, length=NUM_TIMES - 1)[1]])


def fitzhugh_nagumo(seed: int = 0) -> Posterior:
    """θ = (a, b, c) ~ N(0, 5²) each; V and R seen with noise of 0.5. Fisher metric from the sensitivities ∂(V, R)/∂θ.
    Chains begin near the truth: there are other modes."""
    clean = np.asarray(solution(jnp.asarray(TRUTH)))
    data = jnp.asarray(clean + NOISE * np.random.default_rng(seed).normal(size=clean.shape))

    def logdensity_fn(theta: jax.Array) -> jax.Array:
        misfit = (data - solution(theta)) / NOISE
        return -0.5 * jnp.sum(misfit**2) - 0.5 * jnp.sum((theta / PRIOR_SD) ** 2)

    metric = metrics.fisher(solution, lambda f: jnp.full_like(f, NOISE**-2), PRIOR_SD**-2, linear=False)
    constant = metrics.dense(metric.tensor(jnp.asarray(TRUTH)))
    form = Form(logdensity_fn, TRUTH, spread=0.01)
    forms = {
        "plain": form,
        "fisher": form._replace(metric=metric),
        "constant": form._replace(metric=constant),
    }
    watched = tuple(Watched(f"E[{name}]", lambda z, i=i: z[..., i]) for i, name in enumerate("abc"))
    title = "FitzHugh–Nagumo equations"
    return Posterior("neurons", title, forms, watched, num_warmup=300, num_samples=1000)
