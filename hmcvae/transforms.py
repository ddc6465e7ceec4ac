"""Parameters with constraints, sampled without them: x = t(u), with u any real numbers.

The density of u is that of x and the volume that t stretches:

    log p_u(u) = log p_x(t(u)) + log |det ∂t/∂u|

The bijections are NumPyro's (package `numpyro`, imported when a transform is made): those of Stan's reference manual,
"Constraint transforms", of simplices and correlations in formulas that keep their digits in single precision.
`over` puts them before a log density; `interop.numpyro_model` takes a whole model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hmcvae._bijections import between, bijection_of, bounds_of
from hmcvae._checks import check_function, check_real, is_concrete
from hmcvae._numpyro import numpyro_module
from hmcvae.types import PyTree, Scalar

__all__ = [
    "Transform",
    "Unconstrained",
    "cholesky_correlation",
    "from_constraint",
    "greater_than",
    "interval",
    "ordered",
    "over",
    "positive",
    "real",
    "simplex",
]


@dataclass(frozen=True)
class Transform:
    """A bijection t: u -> x onto the arrays that a constraint allows.

    Its last axes are those of one value (none for a number, one for a vector, two for a matrix); all before them are
    many values side by side. Results have the dtype of what is given; between, NumPyro computes in JAX's default one.

    Attributes:
        name: of the values.
        constraint: NumPyro's.
        bijection: NumPyro's, or one of its kind.
    """

    name: str
    constraint: Any
    bijection: Any

    def forward(self, u: jax.Array) -> jax.Array:
        """x = t(u), never rounded to the bound of a half-line or of an interval. Vectors in ascending order may have
        neighbours that are rounded to one number, and Cholesky factors diagonals that underflow.

        Raises:
            ValueError: for an interval without numbers of u's dtype.
        """
        u = _as_real(u)
        return between(self.bijection(_as_default(u)).astype(u.dtype), *bounds_of(self.constraint))

    def inverse(self, x: jax.Array) -> jax.Array:
        """u = t⁻¹(x).

        Raises:
            ValueError: for values that the constraint does not allow, or that lie on its edge, where u is infinite,
                unless they are traced.
        """
        x = _as_real(x)
        if is_concrete(x) and not np.all(np.asarray(self.constraint(x))):
            raise ValueError(f"expected values that are {self.name}, got {x!r}")
        found = self.bijection.inv(_as_default(x)).astype(x.dtype)
        if is_concrete(found) and not np.all(np.isfinite(np.asarray(found, np.float64))):
            raise ValueError(f"expected values that are {self.name} and not on the edge, got {x!r}")
        return found

    def log_det(self, u: jax.Array) -> Scalar:
        """log |det ∂t/∂u|, summed over the values; in single precision at least."""
        u = _as_real(u)
        given = _as_default(u)
        each = self.bijection.log_abs_det_jacobian(given, self.bijection(given))
        return jnp.sum(each).astype(jnp.promote_types(u.dtype, jnp.float32))

    def unconstrained_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of u for x of a shape."""
        return tuple(self.bijection.inverse_shape(tuple(shape)))


class Unconstrained(NamedTuple):
    """A density over unconstrained positions u.

    logdensity_fn: u -> log p_u(u).
    constrain: u -> x, with any leading axes, such as those of `samples.position`.
    unconstrain: x -> u.
    """

    logdensity_fn: Callable[[PyTree], Scalar]
    constrain: Callable[[PyTree], PyTree]
    unconstrain: Callable[[PyTree], PyTree]


def real() -> Transform:
    """Any real numbers: u itself."""
    return _named("real", lambda constraints: constraints.real)


def positive() -> Transform:
    """x > 0: x = exp(u), and at least four times the smallest normal number (5e-38 in single precision)."""
    return _named("positive", lambda constraints: constraints.positive)


def greater_than(low: Any) -> Transform:
    """x > low: x = low + exp(u), at least the next number above it.

    Near a bound other than 0 numbers are as coarse as the bound is large: a density with much of its mass within a
    rounding of it (1000 + Gamma(0.2): a seventh in single precision) loses that. Let the distance be the parameter,
    `positive`, or compute in float64.

    Raises:
        ValueError: unless low is a finite number.
    """
    low = check_real("low", low)
    return _named(f"greater than {low:g}", lambda constraints: constraints.greater_than(low))


def interval(low: Any, high: Any) -> Transform:
    """low < x < high: x = low + (high - low) σ(u), at least the next number from both.

    As for `greater_than`, mass within a rounding of a bound other than 0 is lost: Beta(0.1, 0.1) on (0, 1) has 9 % of
    its own nearer to 1 than single precision tells.

    Raises:
        ValueError: unless both are finite, low < high, and their distance is a number of single precision.
    """
    low = check_real("low", low)
    high = check_real("high", high, low, is_open=True)
    if high - low > float(np.finfo(np.float32).max):
        raise ValueError(
            f"high - low must be a number of single precision, got {high:g} - {low:g} = {high - low:g}"
        )
    return _named(f"between {low:g} and {high:g}", lambda constraints: constraints.interval(low, high))


def simplex() -> Transform:
    """Vectors of k positive numbers whose sum is 1, from k - 1 numbers by stick-breaking.

        x_j = σ(v_j) Π_{i < j} σ(-v_i),     v_j = u_j - log(k - j),     log |det| = Σ_{j < k} log x_j σ(-v_j)

    Positions have a number less than the shares, and no others say how many: start at `unconstrain` of some shares.
    Computed from log σ, without a limit on it: a density such as Dirichlet(0.1) has a tenth of its mass where σ(u) is 1
    in single precision. Values are at least four times the smallest normal number, 5e-38.
    """
    return _named("on a simplex (positive, with the sum 1)", lambda constraints: constraints.simplex)


def ordered() -> Transform:
    """Vectors of ascending numbers: x₁ = u₁, x_k = x_{k-1} + exp(u_k)."""
    return _named("in ascending order", lambda constraints: constraints.ordered_vector)


def cholesky_correlation() -> Transform:
    """Lower triangular L with a positive diagonal for which L Lᵀ is a k × k correlation matrix, from k (k - 1)/2
    numbers by canonical partial correlations (Lewandowski, Kurowicka & Joe 2009).

        L_ij = tanh(u_ij) Π_{j' < j} sech(u_ij'),     log |det| = Σ_{j < i} (1 + (i - 1 - j)/2) log sech²(u_ij)

    Computed from log sech u: 1 - tanh² u of a rounded tanh has no digits left in single precision from |u| = 8 on.
    """
    return _named("Cholesky factors of correlation matrices", lambda constraints: constraints.corr_cholesky)


def from_constraint(constraint: Any) -> Transform:
    """The bijection for any of `numpyro.distributions.constraints`.

    Raises:
        ValueError: for something that is no constraint, or one onto which NumPyro has no bijection.
    """
    distributions = numpyro_module("numpyro.distributions")
    if not isinstance(constraint, distributions.constraints.Constraint):
        raise ValueError(f"expected one of numpyro.distributions.constraints, got {constraint!r}")
    try:
        bijection = bijection_of(constraint)
    except NotImplementedError as error:
        raise ValueError(
            f"expected a constraint with a bijection from real numbers, got {constraint}"
        ) from error
    return Transform(str(constraint), constraint, bijection)


def over(logdensity_fn: Callable[[PyTree], Any], transforms: PyTree) -> Unconstrained:
    """A log density of constrained values as one over unconstrained positions.

    Args:
        logdensity_fn: x -> log p_x(x) up to a constant, a scalar.
        transforms: a `Transform`, or a tree of them with the structure of x; one stands for all below it.

    Raises:
        ValueError: for other things than transforms; when it is called, for positions of another structure.
    """
    check_function("logdensity_fn", logdensity_fn, "x -> log p(x)")
    # None is a leaf here: a place left empty, and not, as for `jax.tree`, no place at all.
    leaves = jax.tree.leaves(transforms, is_leaf=lambda node: node is None or _is_transform(node))
    strange = [leaf for leaf in leaves if not _is_transform(leaf)]
    if strange or not leaves:
        raise ValueError(
            "transforms must be a tree of hmcvae.transforms, such as positive(), and real() for what may be any "
            f"number, got {transforms!r}"
        )

    def each(function: Callable, values: PyTree) -> PyTree:
        try:
            pairs = jax.tree.map(lambda own, part: (own, part), transforms, values, is_leaf=_is_transform)
        except ValueError as error:
            expected = jax.tree.structure(transforms, is_leaf=_is_transform)
            raise ValueError(
                f"expected values of the transforms' structure {expected}, got {jax.tree.structure(values)}; what may "
                "be any number has real() for its transform"
            ) from error
        return jax.tree.map(
            lambda pair: jax.tree.map(lambda value: function(pair[0], value), pair[1]),
            pairs,
            is_leaf=lambda node: isinstance(node, tuple) and bool(node) and _is_transform(node[0]),
        )

    def constrain(u: PyTree) -> PyTree:
        return each(lambda own, value: own.forward(jnp.asarray(value)), u)

    def density(u: PyTree) -> Scalar:
        logdensity = jnp.asarray(logdensity_fn(constrain(u)))
        if logdensity.ndim:
            raise ValueError(f"logdensity_fn must return a scalar, got shape {logdensity.shape}")
        return logdensity + sum(jax.tree.leaves(each(lambda own, value: own.log_det(jnp.asarray(value)), u)))

    return Unconstrained(
        density, constrain, lambda x: each(lambda own, value: own.inverse(jnp.asarray(value)), x)
    )


def _as_real(value: jax.Array) -> jax.Array:
    """Whole numbers as such of JAX's default precision."""
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))


def _as_default(value: jax.Array) -> jax.Array:
    return value.astype(jnp.result_type(float))


def _is_transform(node: Any) -> bool:
    return isinstance(node, Transform)


def _named(name: str, choose: Callable[[Any], Any]) -> Transform:
    distributions = numpyro_module("numpyro.distributions")
    constraint = choose(distributions.constraints)
    return Transform(name, constraint, bijection_of(constraint))
