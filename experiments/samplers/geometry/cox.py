"""The log-Gaussian Cox process of Girolami & Calderhead (2011, section 10): 64 × 64 latents."""

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from experiments.samplers.geometry.posteriors import Form, Posterior, Watched
from hmcvae import data

SIDE = 64
VARIANCE, RANGE = 1.91, 1 / 33
MEAN = float(np.log(126) - VARIANCE / 2)


class Field(NamedTuple):
    """counts, [d].  covariance: Σ of the latents, [d, d].  area: m of a cell."""

    counts: np.ndarray
    covariance: np.ndarray
    area: float


def load(data_dir: Path | None, side: int = SIDE) -> Field:
    """The published counts; with a smaller side those of a corner, for tests.

    Raises:
        FileNotFoundError: without the file.
    """
    path = Path(data_dir or os.environ.get(data.DATA_DIR_VARIABLE) or "data") / "log_gaussian_cox_64.npz"
    if not path.is_file():
        raise FileNotFoundError(f"no data at {path}; --data-dir must name the folder that holds {path.name}")
    with np.load(path) as file:
        counts = np.asarray(file["counts"], float).reshape(SIDE, SIDE)[:side, :side].reshape(-1)
    return Field(counts, covariance(side), 1 / SIDE**2)


@cache
def covariance(side: int) -> np.ndarray:
    """Σ_ij = σ² exp(-δ_ij / (64 β)), δ the distance in a unit square whose sides hold 64 points. (The published latent
    field agrees: its increments from cell to cell have variance 0.032, here 0.031.)"""
    points = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2)
    squares = np.sum(points**2, axis=1)
    between = np.maximum(squares[:, None] + squares[None] - 2 * points @ points.T, 0)
    return VARIANCE * np.exp(-np.sqrt(between) / (SIDE - 1) / (SIDE * RANGE))


def cox(field: Field, name: str = "cox", num_samples: int = 150) -> Posterior:
    """y_i ~ Poisson(m exp x_i), x ~ N(μ, Σ). Common coordinates: x.

    Girolami & Calderhead's metric is G = Λ + Σ⁻¹ with Λ = λ I, λ = m exp(μ + σ²), the same everywhere. With
    Σ = V diag(s) Vᵀ, the one factorisation that there is, G = V diag(λ + 1/s) Vᵀ: its root takes nothing more. Two
    forms x = c + V (r ∘ e), whose gradients cost a product with V and one with its transpose:

        whitened  c = μ, r = √s               the prior is N(0, I)
        fisher    c = x̂, r = √(s / (1 + λ s))  the metric is the identity: dynamics with G in the coordinates x

    where x̂ = μ + G⁻¹ (y - m exp(μ + σ²/2)), one scoring step. A third, "mode", has the rates at the mode in its
    metric in place of their mean: see `_at_mode`.
    """
    area, counts, d = field.area, jnp.asarray(field.counts), len(field.counts)
    scales, vectors = linalg.eigh(field.covariance)
    rate = area * float(np.exp(MEAN + VARIANCE))
    variances = scales / (1 + rate * scales)
    V = jnp.asarray(vectors)
    score = vectors.T @ (field.counts - area * np.exp(MEAN + VARIANCE / 2))

    def form(offset: np.ndarray, root: np.ndarray) -> Form:
        """Of x = μ + V (offset + root ∘ e); the prior is diagonal there."""
        offsets, roots, precisions = (jnp.asarray(value) for value in (offset, root, 1 / scales))

        def field_at(e: jax.Array) -> jax.Array:
            return MEAN + V @ (offsets + roots * e)

        def logdensity_fn(e: jax.Array) -> jax.Array:
            x = field_at(e)
            prior = -0.5 * jnp.sum(precisions * (offsets + roots * e) ** 2)
            return jnp.dot(counts, x) - area * jnp.sum(jnp.exp(x)) + prior

        return Form(logdensity_fn, np.zeros(d), field_at, spread=0.5)

    forms = {
        "whitened": form(np.zeros(d), np.sqrt(scales)),
        "fisher": form(variances * score, np.sqrt(variances)),
        "mode": _at_mode(field, vectors * np.sqrt(scales)),
    }
    middle = d // 2 + int(np.sqrt(d)) // 2
    watched = (
        Watched("mean of x", lambda x: x.mean(-1)),
        Watched("mean of x²", lambda x: (x**2).mean(-1)),
        Watched("expected count", lambda x: area * np.exp(x).sum(-1)),
        Watched("x in the middle", lambda x: x[..., middle]),
    )
    return Posterior(
        name, "Log-Gaussian Cox process", forms, watched, num_warmup=150, num_samples=num_samples
    )


def mode(field: Field, root: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(w, x, L): the mode x = μ + S w with S = `root`, S Sᵀ = Σ, and I + Sᵀ Λ S = L Lᵀ there, Λ = diag(m exp x). By
    Newton's method, halved where it goes too far; the density is log-concave."""

    def value(w: np.ndarray) -> float:
        x = MEAN + root @ w
        return float(field.counts @ x - field.area * np.exp(x).sum() - 0.5 * w @ w)

    w = np.zeros(len(field.counts))
    while True:
        x = MEAN + root @ w
        rates = field.area * np.exp(x)
        factor = np.linalg.cholesky(np.eye(len(w)) + root.T @ (rates[:, None] * root))
        step = linalg.cho_solve((factor, True), root.T @ (field.counts - rates) - w)
        halvings = 0
        while value(w + step) < value(w) and halvings < 50:
            step, halvings = step / 2, halvings + 1
        if np.abs(step).max() < 1e-6:  # there, or as near as rounding lets it come
            return w, x, factor
        w = w + step


def _at_mode(field: Field, root: np.ndarray) -> Form:
    """x = x̂ + R e with R Rᵀ = (Λ + Σ⁻¹)⁻¹ and Λ = diag(m exp x̂), the Fisher metric at the mode x̂ = μ + S ŵ, which is
    the Hessian there: R = S L⁻ᵀ. With y = R e the prior is that of e but for what the likelihood's curvature has of it,

        |L⁻ᵀ e|² = |e|² - yᵀ Λ y,

    so that a gradient costs a product with R and one with its transpose, as in the other forms."""
    w, x, factor = mode(field, root)
    R = linalg.solve_triangular(factor, root.T, lower=True).T
    rates = field.area * np.exp(x)
    # Zero at the mode itself.
    slope = R.T @ (field.counts - rates) - linalg.solve_triangular(factor, w, lower=True)
    centre, curvatures, slopes, matrix = (jnp.asarray(value) for value in (x, rates, slope, R))

    def logdensity_fn(e: jax.Array) -> jax.Array:
        y = matrix @ e
        beyond = jnp.expm1(y) - y - 0.5 * y**2
        return jnp.dot(slopes, e) - jnp.dot(curvatures, beyond) - 0.5 * jnp.dot(e, e)

    return Form(logdensity_fn, np.zeros(len(w)), lambda e: centre + matrix @ e, spread=0.5)


def log_joint(field: Field, x: np.ndarray) -> float:
    """By SciPy, from a Cholesky factorisation of Σ; up to a constant. For tests."""
    factor = linalg.cho_factor(field.covariance, lower=True)
    away = x - MEAN
    return float(
        field.counts @ x - field.area * np.exp(x).sum() - 0.5 * away @ linalg.cho_solve(factor, away)
    )
