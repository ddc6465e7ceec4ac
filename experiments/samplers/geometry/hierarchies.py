"""Hierarchical models in their centred form: eight schools, and a horseshoe regression."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.samplers.geometry.posteriors import Form, Posterior, Watched
from hmcvae import metrics

EFFECTS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
ERRORS = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def eight_schools() -> Posterior:
    """Rubin's eight schools, centred: z = (μ, log τ, θ_1, …, θ_8); μ ~ N(0, 5²), τ ~ half-Cauchy(5), θ_j ~ N(μ, τ²)."""
    effects, errors = jnp.asarray(EFFECTS), jnp.asarray(ERRORS)

    def logdensity_fn(z: jax.Array) -> jax.Array:
        mu, log_tau, theta = z[0], z[1], z[2:]
        prior = -0.5 * (mu / 5) ** 2 - jnp.log1p(jnp.exp(2 * log_tau) / 25) + log_tau
        spread = -0.5 * jnp.sum((theta - mu) ** 2) * jnp.exp(-2 * log_tau) - theta.shape[0] * log_tau
        return prior + spread - 0.5 * jnp.sum(((effects - theta) / errors) ** 2)

    exact = schools_moments()
    watched = (
        Watched("E[μ]", lambda z: z[..., 0], exact["E[μ]"]),
        Watched("E[log τ]", lambda z: z[..., 1], exact["E[log τ]"]),
        Watched("P(τ < 1)", lambda z: (z[..., 1] < 0).astype(float), exact["P(τ < 1)"]),
        Watched("E[θ₁]", lambda z: z[..., 2], exact["E[θ₁]"]),
    )
    form = Form(logdensity_fn, np.concatenate([[4.0, 1.0], np.full(8, 4.0)]), spread=1.0)
    hierarchical = form._replace(metric=metrics.hierarchical([0, 0] + [1] * 8))
    forms = {
        "plain": form,
        "hierarchical": hierarchical,
        "softabs": form._replace(metric=metrics.softabs(logdensity_fn, 1.0)),
    }
    return Posterior("schools", "Eight schools, centred", forms, watched, num_samples=4000)


def schools_moments(num_points: int = 20_001) -> dict[str, float]:
    """By quadrature over log τ; given τ, μ and θ are normal."""
    log_tau = np.linspace(-18, 8, num_points)
    tau2 = np.exp(2 * log_tau)
    variance = ERRORS**2 + tau2[:, None]
    precision = 1 / 25 + np.sum(1 / variance, axis=1)
    mean = np.sum(EFFECTS / variance, axis=1) / precision
    logs = -0.5 * np.sum(np.log(variance) + EFFECTS**2 / variance, axis=1)
    logs += 0.5 * mean**2 * precision - 0.5 * np.log(precision) - np.log1p(tau2 / 25) + log_tau
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    shrunk = (EFFECTS[0] * tau2 + mean * ERRORS[0] ** 2) / (tau2 + ERRORS[0] ** 2)
    return {
        "E[μ]": float(weights @ mean),
        "E[log τ]": float(weights @ log_tau),
        "P(τ < 1)": float(weights @ (log_tau < 0)),
        "E[θ₁]": float(weights @ shrunk),
    }


def horseshoe(num_rows: int = 100, num_columns: int = 50, seed: int = 0) -> Posterior:
    """y ~ N(X β, s²), β_j ~ N(0, (τ λ_j)²), λ_j, τ, s ~ half-Cauchy(1); five coefficients are not 0 (Carvalho, Polson &
    Scott 2010). Common coordinates: (log τ, log s, log λ, β); not centred, β_j / (τ λ_j) in place of β_j."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num_rows, num_columns))
    truth = np.zeros(num_columns)
    truth[:5] = [3.0, -2.0, 1.5, 1.0, -0.5][:num_columns]
    X, y = jnp.asarray(rows), jnp.asarray(rows @ truth + rng.normal(size=num_rows))
    p = num_columns

    def centred(z: jax.Array) -> jax.Array:
        log_scales, beta = z[: p + 2], z[p + 2 :]
        log_tau, log_s, log_lambda = z[0], z[1], z[2 : p + 2]
        # Half-Cauchy, with the Jacobian of the logarithm.
        prior = jnp.sum(log_scales - jnp.log1p(jnp.exp(2 * log_scales)))
        log_sd = log_tau + log_lambda
        shrinkage = -0.5 * jnp.sum(beta**2 * jnp.exp(-2 * log_sd)) - jnp.sum(log_sd)
        return prior + shrinkage - 0.5 * jnp.sum((y - X @ beta) ** 2) * jnp.exp(-2 * log_s) - num_rows * log_s

    def scaled(z: jax.Array) -> jax.Array:
        return jnp.concatenate([z[: p + 2], z[p + 2 :] * jnp.exp(z[0] + z[2 : p + 2])])

    def noncentred(z: jax.Array) -> jax.Array:
        return centred(scaled(z)) + p * z[0] + jnp.sum(z[2 : p + 2])

    blocks = [0, 0] + [1] * p + [2] * p
    start = np.concatenate([[-1.0, 0.0], np.zeros(p), 0.1 * np.ones(p)])
    form = Form(centred, start, spread=0.1)
    forms = {
        "centred": form,
        "hierarchical": form._replace(metric=metrics.hierarchical(blocks)),
        "noncentred": Form(noncentred, start, scaled, spread=0.1),
    }
    watched = (
        Watched("E[log τ]", lambda z: z[..., 0]),
        Watched("E[log s]", lambda z: z[..., 1]),
        Watched("E[β₁]", lambda z: z[..., p + 2]),
        Watched("E[β₅]", lambda z: z[..., p + 6]),
        Watched("E[β₆²]", lambda z: z[..., p + 7] ** 2),
    )
    return Posterior("horseshoe", "Horseshoe regression, 100 × 50", forms, watched, num_samples=2000)
