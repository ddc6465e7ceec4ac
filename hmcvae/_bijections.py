"""NumPyro's bijections, two of them in formulas that keep their digits in single precision, and those onto intervals
and half-lines without values that are rounded to a bound.

NumPyro's own lose digits: a stick that is all but used up, σ(u) rounded to 1, and 1 - tanh² u of a rounded tanh.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hmcvae._checks import is_concrete
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
    # There is no public way to read a registry's factories.
    factories = numpyro_module("numpyro.distributions").biject_to._registry
    theirs = dict(factories)
    factories.update(_ours())
    factories.update({kind: partial(_inside, theirs[kind]) for kind in _bounded() if kind in theirs})
    try:
        yield
    finally:
        factories.update(theirs)


def _inside(make: Callable[[Any], Any], constraint: Any) -> Any:
    """NumPyro's bijection onto a half-line or an interval, without its ends."""
    return _inside_kind()(make(constraint), *bounds_of(constraint))


@cache
def _bounded() -> tuple[type, ...]:
    constraints = numpyro_module("numpyro.distributions.constraints")
    found = [
        constraints.greater_than,
        constraints.greater_than_eq,
        constraints.less_than,
        constraints.less_than_eq,
    ]
    found += [constraints.interval, constraints.open_interval]
    singletons = (
        constraints.positive,
        constraints.nonnegative,
        constraints.unit_interval,
        constraints.circular,
    )
    return (*found, *map(type, singletons))


class _Kinds(NamedTuple):
    """Of bijections."""

    stick_breaking: type
    corr_cholesky: type


@cache
def _ours() -> dict[type, Callable[[Any], Any]]:
    """How ours are made, by the constraints that they are onto."""
    theirs = numpyro_module("numpyro.distributions.transforms")
    constraints = numpyro_module("numpyro.distributions.constraints")
    kinds = _kinds()
    sticks, cholesky = kinds.stick_breaking(), kinds.corr_cholesky()
    product = theirs.ComposeTransform([cholesky, theirs.CorrMatrixCholeskyTransform().inv])
    return {
        type(constraints.simplex): lambda _: sticks,
        type(constraints.corr_cholesky): lambda _: cholesky,
        type(constraints.corr_matrix): lambda _: product,
    }


@cache
def _kinds() -> _Kinds:
    theirs = numpyro_module("numpyro.distributions.transforms")

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

    return _Kinds(StickBreaking, CorrCholesky)


@cache
def _inside_kind() -> type:
    theirs = numpyro_module("numpyro.distributions.transforms")

    class Inside(theirs.Transform):
        def __init__(self, base: Any, low: Any, high: Any):
            self.base, self.low, self.high = base, low, high

        @property
        def domain(self) -> Any:
            return self.base.domain

        @property
        def codomain(self) -> Any:
            return self.base.codomain

        @property
        def sign(self) -> Any:
            return self.base.sign

        def __call__(self, x: jax.Array) -> jax.Array:
            return between(self.base(x), self.low, self.high)

        def _inverse(self, y: jax.Array) -> jax.Array:
            return self.base._inverse(y)

        def log_abs_det_jacobian(self, x: jax.Array, y: jax.Array, intermediates: Any = None) -> jax.Array:
            # At the base's own value, which is not cut off.
            return self.base.log_abs_det_jacobian(x, self.base(x))

        def tree_flatten(self) -> tuple:
            return (self.base, self.low, self.high), (("base", "low", "high"), {})

        def eq(self, other: object, static: bool = False) -> Any:
            return isinstance(other, Inside) and self.base.eq(other.base, static=static)

    return Inside


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
    """x, where it is rounded to a bound the number next to it: see `above_zero`. None: there is no such bound.

    Raises:
        ValueError: if no number of x's dtype lies between the bounds, unless they are traced.
    """
    least = None if low is None else _next_to(low, x.dtype, 1)
    most = None if high is None else _next_to(high, x.dtype, -1)
    if isinstance(least, np.ndarray) and isinstance(most, np.ndarray) and np.any(least > most):
        raise ValueError(f"expected bounds with numbers of {x.dtype} between them, got {low} and {high}")
    if least is not None:
        x = jnp.maximum(x, least)
    return x if most is None else jnp.minimum(x, most)


def _next_to(bound: Any, dtype: Any, sign: int) -> Any:
    """The next number above (sign 1) or below (-1); of 0 none that is flushed to it. In NumPy where it can be."""
    # NumPy's where bounds are known: inside `jit` all that jax.numpy makes is traced.
    own, is_known = jnp.finfo(dtype), is_concrete(bound)
    numbers: Any = np if is_known else jnp
    with np.errstate(over="ignore"):
        bound = np.asarray(bound).astype(dtype) if is_known else jnp.asarray(bound, dtype)
    least = numbers.asarray(sign * 4 * float(own.tiny), dtype)
    moved = numbers.nextafter(bound, numbers.asarray(sign * float(own.max), dtype))
    return numbers.where(abs(bound) < abs(least), least, moved)


def bounds_of(constraint: Any) -> tuple[Any, Any]:
    """The values' bounds, None where they have none."""
    constraints = numpyro_module("numpyro.distributions.constraints")
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
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
