"""NumPyro's bijections, two of them in formulas that keep their digits in single precision.

NumPyro's own lose them: a stick that is all but used up, σ(u) rounded to 1, and 1 - tanh² u of a rounded tanh.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hmcvae._numpyro import numpyro_module


def bijection_of(constraint: Any) -> Any:
    """NumPyro's bijection from real numbers onto a constraint, with ours for the parts where we have one.

    Raises:
        NotImplementedError: if NumPyro has none.
    """
    with ours_in_models():
        return numpyro_module("numpyro.distributions").biject_to(constraint)


@contextmanager
def ours_in_models() -> Iterator[None]:
    """NumPyro takes ours as long as this lasts."""
    registry = numpyro_module("numpyro.distributions").biject_to
    ours = _ours()
    theirs = [(constraint, registry(constraint)) for constraint, _ in ours]
    _register(registry, ours)
    try:
        yield
    finally:
        _register(registry, theirs)


def _register(registry: Any, bijections: list[tuple[Any, Any]]) -> None:
    for constraint, bijection in bijections:
        registry.register(constraint, lambda _, bijection=bijection: bijection)


@cache
def _ours() -> list[tuple[Any, Any]]:
    """With the constraints that they are onto."""
    theirs = numpyro_module("numpyro.distributions.transforms")
    constraints = numpyro_module("numpyro.distributions.constraints")

    class StickBreaking(theirs.StickBreakingTransform):
        def __call__(self, x: jax.Array) -> jax.Array:
            return simplex_of(x)

        def _inverse(self, y: jax.Array) -> jax.Array:
            return sticks_of(y)

        def log_abs_det_jacobian(self, x: jax.Array, y: jax.Array, intermediates: Any = None) -> jax.Array:
            return log_det_of_simplex(x)

    class CorrCholesky(theirs.CorrCholeskyTransform):
        def __call__(self, x: jax.Array) -> jax.Array:
            return cholesky_of(x)

        def log_abs_det_jacobian(self, x: jax.Array, y: jax.Array, intermediates: Any = None) -> jax.Array:
            return log_det_of_cholesky(x)

    cholesky = CorrCholesky()
    product = theirs.ComposeTransform([cholesky, theirs.CorrMatrixCholeskyTransform().inv])
    return [
        (constraints.simplex, StickBreaking()),
        (constraints.corr_cholesky, cholesky),
        (constraints.corr_matrix, product),
    ]


def _log_sticks(u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log of the values, [..., k], and log σ(-v), [..., k - 1]: v = u - log(k - 1, k - 2, …, 1), of which 0 gives equal
    shares, σ(v) is the share of the stick that is broken off."""
    shifted = u - jnp.log(jnp.arange(u.shape[-1], 0, -1, dtype=u.dtype))
    kept = jax.nn.log_sigmoid(-shifted)
    nothing = jnp.zeros((*u.shape[:-1], 1), u.dtype)
    left = jnp.concatenate([nothing, jnp.cumsum(kept, axis=-1)], axis=-1)
    return left + jnp.concatenate([jax.nn.log_sigmoid(shifted), nothing], axis=-1), kept


def simplex_of(u: jax.Array) -> jax.Array:
    """x_j = σ(v_j) Π_{i < j} σ(-v_i), the last what is left. The softmax is of what has the sum 1 but for rounding."""
    return above_zero(jax.nn.softmax(_log_sticks(u)[0], axis=-1))


def above_zero(x: jax.Array) -> jax.Array:
    """x, where it underflows a number above the smallest normal one: log x is finite. With the volume's slope of 1 in
    u, a density has a tail that falls from there on, whatever it says of x = 0."""
    return jnp.maximum(x, 4 * jnp.finfo(x.dtype).tiny)


def between(x: jax.Array, low: Any, high: Any) -> jax.Array:
    """x, where it is rounded to a bound a rounding error inside: see `above_zero`. None: there is no such bound."""
    least = 4 * jnp.finfo(x.dtype).tiny

    def distance(bound: Any) -> jax.Array:
        return jnp.maximum(jnp.abs(bound) * jnp.finfo(x.dtype).eps, least)

    if low is not None:
        low = jnp.asarray(low, x.dtype)
        x = jnp.maximum(x, low + distance(low))
    if high is not None:
        high = jnp.asarray(high, x.dtype)
        x = jnp.minimum(x, high - distance(high))
    return x


def bounds_of(constraint: Any) -> tuple[Any, Any]:
    """The values' bounds, None where they have none."""
    constraints = numpyro_module("numpyro.distributions.constraints")
    if constraint is constraints.simplex:
        return 0.0, None
    return getattr(constraint, "lower_bound", None), getattr(constraint, "upper_bound", None)


def log_det_of_simplex(u: jax.Array) -> jax.Array:
    """Σ_j log x_j σ(-v_j), over all x but the last."""
    values, kept = _log_sticks(u)
    return jnp.sum(values[..., :-1] + kept, axis=-1)


def sticks_of(x: jax.Array) -> jax.Array:
    """u of x: v_j = log x_j - log Σ_{i > j} x_i, the sum from the end, where the small ones are."""
    left = lax.cumsum(x[..., 1:], axis=x.ndim - 1, reverse=True)
    return jnp.log(x[..., :-1] / left) + jnp.log(jnp.arange(left.shape[-1], 0, -1, dtype=x.dtype))


def _log_sech(u: jax.Array) -> jax.Array:
    return math.log(2) - jnp.abs(u) - jnp.log1p(jnp.exp(-2 * jnp.abs(u)))


def _rows_and_columns(u: jax.Array) -> tuple[np.ndarray, np.ndarray, int]:
    """Where the numbers stand in a k × k matrix, row after row below the diagonal, and k."""
    size = (1 + math.isqrt(1 + 8 * u.shape[-1])) // 2
    return *np.tril_indices(size, -1), size


def cholesky_of(u: jax.Array) -> jax.Array:
    """L_ij = tanh(u_ij) Π_{j' < j} sech(u_ij')."""
    rows, columns, size = _rows_and_columns(u)
    lower = jnp.zeros((*u.shape[:-1], size, size), u.dtype)
    log_sech = lower.at[..., rows, columns].set(_log_sech(u))
    # Of the entries before each in its row.
    before = jnp.cumsum(log_sech, axis=-1) - log_sech
    tanh = lower.at[..., rows, columns].set(jnp.tanh(u)) + jnp.eye(size, dtype=u.dtype)
    return tanh * jnp.exp(before)


def log_det_of_cholesky(u: jax.Array) -> jax.Array:
    """Σ_{j < i} (1 + (i - 1 - j)/2) log sech²(u_ij)."""
    rows, columns, _ = _rows_and_columns(u)
    return 2 * _log_sech(u) @ jnp.asarray(1 + (rows - 1 - columns) / 2, u.dtype)
