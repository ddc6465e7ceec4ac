"""The Fisher information of a model as a metric: G(z) = J(z)ᵀ diag(w(f)) J(z) + Λ, with f = predict(z), J = ∂f/∂z."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.interpreters import partial_eval
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from hmcvae._checks import is_concrete
from hmcvae._sharding import vary_as
from hmcvae.metrics.euclidean import Geometry, Leaf
from hmcvae.metrics.riemannian import ForceFn, RiemannianMetric, factorise
from hmcvae.types import ArrayLike, PyTree, Scalar, Vector

# A table of products larger than this is not made: it would leave the caches, and programs hold it as a constant.
MAX_TABLE_BYTES = 16 * 2**20


def fisher(
    predict_fn: Callable[[Vector], PyTree],
    weight_fn: Callable[[PyTree], PyTree],
    prior_precision: ArrayLike = 1.0,
    *,
    linear: bool | None = None,
) -> "Fisher":
    """G(z) = J(z)ᵀ diag(w(f)) J(z) + Λ: Fisher information of p(x | f) at f = predict_fn(z), plus the prior's
    precision (Girolami & Calderhead 2011, section 3.4; the generalised Gauss-Newton matrix, Schraudolph 2002).

    For a Bernoulli decoder f are the logits, w = σ(f) σ(-f), Λ = I; for Bayesian logistic regression f = X z, Λ = I/α.
    `hmcvae.likelihoods` gives the weights as `fisher_weights`. Products with G and derivatives of uᵀ G u are
    matrix-free: one derivative of predict_fn forward, one backward.

    Args:
        predict_fn: z [d] -> f, an array or a pytree of them, N numbers in all.
        weight_fn: f -> w ≥ 0, shaped like f.
        prior_precision: Λ: a number, its diagonal [d], or the whole matrix [d, d].
        linear: whether J is the same everywhere, which makes it a constant of the program. None: found out from the
            traced function (an affine predict_fn is seen to be one).

    Raises:
        ValueError: unless the functions are callable, and prior_precision is finite, of at most two axes, not negative
            (a number or a diagonal) and, as a matrix, square and symmetric.
    """
    if not callable(predict_fn) or not callable(weight_fn):
        raise ValueError(f"predict_fn and weight_fn must be functions, got {predict_fn!r} and {weight_fn!r}")
    precision = jnp.asarray(prior_precision, jnp.result_type(prior_precision, float))
    if precision.ndim > 2 or (precision.ndim == 2 and precision.shape[0] != precision.shape[1]):
        raise ValueError(f"prior_precision must be a number, [d] or [d, d], got shape {precision.shape}")
    if is_concrete(precision):
        values = np.asarray(precision)
        if not np.all(np.isfinite(values)) or (values.ndim < 2 and np.any(values < 0)):
            raise ValueError(f"prior_precision must be finite and not negative, got {values}")
        if values.ndim == 2 and not np.allclose(values, values.T, rtol=1e-5):
            raise ValueError(f"prior_precision must be symmetric, got\n{values}")
    return Fisher(predict_fn, weight_fn, linear, precision)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Fisher(RiemannianMetric):
    """See `fisher`."""

    predict_fn: Callable = field(metadata={"static": True})
    weight_fn: Callable = field(metadata={"static": True})
    linear: bool | None = field(metadata={"static": True})
    precision: Leaf

    def _predict(self, z: Vector) -> Float[Array, " N"]:
        return ravel_pytree(self.predict_fn(z))[0].astype(z.dtype)

    def _weights(self, z: Vector, f: Float[Array, " N"]) -> Float[Array, " N"]:
        shape = jax.eval_shape(self.predict_fn, z)
        # The zeros give the structure alone; XLA drops them.
        unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape))[1]
        weights, _ = ravel_pytree(self.weight_fn(unravel(f)))
        if weights.shape != f.shape:
            raise ValueError(
                "weight_fn (of a decoder's metric the likelihood's fisher_weights) must return weights shaped like the "
                f"outputs f, {f.shape}, got {weights.shape}"
            )
        return weights.astype(z.dtype)

    def _prior_product(self, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        precision = self.precision.astype(v.dtype)
        if precision.ndim == 2:
            return precision @ v
        return precision * v if precision.ndim == 0 else jax.vmap(jnp.multiply)(precision, v)

    def _add_prior(self, G: Float[Array, "d d"]) -> Float[Array, "d d"]:
        precision = self.precision.astype(G.dtype)
        d = G.shape[0]
        if precision.ndim < 2:
            precision = jnp.diag(jnp.broadcast_to(precision, (d,)))
        return G + precision

    def _jacobian(self, z: Vector) -> tuple[Float[Array, " N"], Float[Array, "d N"]]:
        """(f, Jᵀ): d derivatives forward as one wide product; a constant where predict_fn is affine."""
        if self._is_linear(z):
            offset, rows = self._constants(z)
            return offset + z @ rows, rows
        f, push_forward = jax.linearize(self._predict, z)
        return f, jax.vmap(push_forward)(vary_as(jnp.eye(z.shape[0], dtype=z.dtype), z))

    def _constants(self, z: Vector) -> tuple[Float[Array, " N"], Float[Array, "d N"]]:
        """(f(0), Jᵀ) of an affine predict_fn, known when the program is made unless predict_fn closes over tracers."""
        with jax.ensure_compile_time_eval():
            basis, at = jnp.eye(z.shape[0], dtype=z.dtype), jnp.zeros(z.shape, z.dtype)
            offset, push_forward = jax.linearize(self._predict, at)
            return offset, jax.vmap(push_forward)(basis)

    def _is_linear(self, z: Vector) -> bool:
        return is_affine(self._predict, z) if self.linear is None else self.linear

    def tensor(self, z: Vector) -> Float[Array, "d d"]:
        f, rows = self._jacobian(z)
        return self._add_prior((rows * self._weights(z, f)[None, :]) @ rows.T)

    def inverse_root(self, z: Vector) -> tuple[Float[Array, "d d"], Scalar]:
        """(A, log |det A|) with A upper triangular and A Aᵀ = G(z)⁻¹: see `inverse_root`."""
        f, rows = self._jacobian(z)
        precision = self._add_prior(jnp.zeros((z.shape[0], z.shape[0]), z.dtype))
        return inverse_root(rows, self._weights(z, f), precision)

    def matvec(self, z: Vector, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        if v.ndim == 1 and self._is_linear(z):
            offset, rows = self._constants(z)
            f, moved = jnp.stack([z, v]) @ rows  # one pass over the Jacobian for both
            return self._prior_product(v) + rows @ (self._weights(z, offset + f) * moved)
        f, push_forward = jax.linearize(self._predict, z)
        weights, pull_back = self._weights(z, f), jax.linear_transpose(push_forward, z)

        def product(u: Vector) -> Vector:
            return pull_back(weights * push_forward(u))[0]

        return self._prior_product(v) + (product(v) if v.ndim == 1 else jax.vmap(product, 1, 1)(v))

    def quadratic_form(self, z: Vector, V: Float[Array, "d ..."]) -> Scalar:
        f, push_forward = jax.linearize(self._predict, z)
        moved = push_forward(V) if V.ndim == 1 else jax.vmap(push_forward, 1, 1)(V)
        squares = moved**2 if V.ndim == 1 else jnp.sum(moved**2, axis=1)
        return jnp.dot(self._weights(z, f), squares) + jnp.sum(V * self._prior_product(V))

    def geometry(self, z: Vector) -> tuple[Geometry, ForceFn]:
        if not self._is_linear(z):
            return self._geometry(z)
        f, rows = self._jacobian(z)
        weights, pull_back = jax.vjp(lambda f: self._weights(z, f), f)
        # uᵀ G u depends on z through w alone: its gradient is Jᵀ ∂w (J u)², and that of log |G| the same with the
        # leverages x_nᵀ G⁻¹ x_n in place of (x_nᵀ u)².
        pairs = _pair_table(rows)
        if pairs is None:
            factor, columns = factorise(self._add_prior((rows * weights[None, :]) @ rows.T))
            leverages = jnp.sum((columns.T @ rows) ** 2, axis=0)
        else:
            factor, _ = factorise(self._add_prior(pairs.assemble(weights)))
            leverages = pairs.quadratic_forms(factor.inverse)
        return Geometry(
            factor, rows @ pull_back(leverages)[0]
        ), lambda u: rows @ pull_back((u @ rows) ** 2)[0]

    def _geometry(self, z: Vector) -> tuple[Geometry, ForceFn]:
        # ∂_z log |G| = ∂_z Σ_ij W_ij G_ij, W = G⁻¹: by w, the leverages |c_n|² with C = J L⁻ᵀ; by J, 2 w_n J_n W. The
        # Jacobian's own derivative is the dear one: it goes back through the d products that made G. That of uᵀ G u
        # goes back through J u alone. All share one linearisation, and one way back from it to z: so the pass of
        # predict_fn itself, and in training what comes back to it, is done once and not for each.
        (f, push_forward), pull_back = jax.vjp(lambda z: jax.linearize(self._predict, z), z)
        weights, pull_weights = jax.vjp(lambda f: self._weights(z, f), f)
        basis = vary_as(jnp.eye(z.shape[0], dtype=z.dtype), z)
        rows, pull_rows = jax.vjp(lambda push: jax.vmap(push)(basis), push_forward)
        factor, columns = factorise(self._add_prior((rows * weights[None, :]) @ rows.T))
        spread = columns.T @ rows
        by_rows = 2 * weights[None, :] * (columns @ spread)
        log_det_grad = pull_back((pull_weights(jnp.sum(spread**2, axis=0))[0], pull_rows(by_rows)[0]))[0]

        def force(u: Vector) -> Vector:
            moved, pull_moved = jax.vjp(lambda push: push(u), push_forward)
            return pull_back((pull_weights(moved**2)[0], pull_moved(2 * weights * moved)[0]))[0]

        return Geometry(factor, log_det_grad), force


def inverse_root(
    rows: Float[Array, "d N"], weights: Float[Array, " N"], precision: Float[Array, "d d"]
) -> tuple[Float[Array, "d d"], Scalar]:
    """(A, log |det A|), A upper triangular with A Aᵀ = G⁻¹, of G = Jᵀ diag(w) J + Λ given Jᵀ.

    A Cholesky factor of G itself is lost where the eigenvalues of G span more than 1/eps (10⁷ in single precision), as
    sharp pixels make them: rounding G moves its least eigenvalue below 0. So G is factorised twice (Cholesky QR:
    Fukaya, Kannan, Nakatsukasa, Yamamoto & Yanagisawa 2020). The first factor, of a G whose diagonal is raised by the
    size of its rounding, gives coordinates P in which

        H = (J P)ᵀ diag(w) (J P) + Pᵀ Λ P

    is well conditioned, and is made from J P, not from G: A = P chol(H)⁻ᵀ is right to spans of about 1/eps². A does not
    depend on P, so P takes no part in derivatives.
    """
    d = rows.shape[0]
    identity = jnp.eye(d, dtype=rows.dtype)
    G = (rows * weights[None, :]) @ rows.T + precision
    raised = G + 4 * d * jnp.finfo(G.dtype).eps * jnp.diag(jnp.diag(G))
    P = lax.stop_gradient(_inverse_root(raised, identity))
    moved = P.T @ rows
    A = P @ _inverse_root((moved * weights[None, :]) @ moved.T + P.T @ precision @ P, identity)
    return A, jnp.sum(jnp.log(jnp.diag(A)))


def _inverse_root(G: Float[Array, "d d"], identity: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """L⁻ᵀ of G = L Lᵀ."""
    return solve_triangular(jnp.linalg.cholesky(G), identity, lower=True).T


class _PairTable(NamedTuple):
    """The products x_ni x_nj, i ≤ j, of a constant Jacobian, [N, d (d + 1) / 2]: Σ_n w_n x_n x_nᵀ and x_nᵀ W x_n are
    then products of this table with a vector, at half the operations; and for many chains one matrix product."""

    products: np.ndarray
    dimension: int

    def assemble(self, weights: Float[Array, " N"]) -> Float[Array, "d d"]:
        upper = np.triu_indices(self.dimension)
        place = np.zeros((self.dimension, self.dimension), np.int32)
        place[upper] = np.arange(len(upper[0]))
        return (weights @ self.products)[np.maximum(place, place.T)]

    def quadratic_forms(self, W: Float[Array, "d d"]) -> Float[Array, " N"]:
        rows, columns = np.triu_indices(self.dimension)
        return jnp.asarray(self.products) @ (
            np.where(rows == columns, 1, 2).astype(W.dtype) * W[rows, columns]
        )


def _pair_table(rows: Float[Array, "d N"]) -> _PairTable | None:
    """The table of a Jacobian that is known when the program is made; None if it is not, or too large to hold."""
    d, num_outputs = rows.shape
    if not is_concrete(rows) or num_outputs * d * (d + 1) // 2 * rows.dtype.itemsize > MAX_TABLE_BYTES:
        return None
    x, (i, j) = np.asarray(rows).T, np.triu_indices(d)
    return _PairTable(x[:, i] * x[:, j], d)


def is_affine(function: Callable[[Vector], Array], z: Vector) -> bool:
    """Whether the derivative of `function`, as traced, has no use for the position, and nothing in it is a step, whose
    derivative is 0. False where it cannot be told."""
    like = jax.ShapeDtypeStruct(z.shape, z.dtype)
    jaxpr = jax.make_jaxpr(lambda x, t: jax.jvp(function, (x,), (t,))[1])(like, like).jaxpr
    try:
        _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
        return not used[0] and not _has_steps(jax.make_jaxpr(function)(like).jaxpr)
    except (AttributeError, TypeError):  # not documented functions of JAX
        return False


# What has a value that depends on its argument, and a derivative that may not tell.
_STEPS = {"stop_gradient", "round", "floor", "ceil", "sign"}
_STEPS |= {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}


def _has_steps(jaxpr: Any) -> bool:
    """Whether something that depends on the arguments of a traced function goes through a step, or whole numbers."""
    moving = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if not any(
            not hasattr(own, "val") and own in moving for own in equation.invars
        ):  # constants have a val
            continue
        is_real = all(jnp.issubdtype(own.aval.dtype, jnp.inexact) for own in equation.outvars)
        inner = [getattr(own, "jaxpr", own) for own in equation.params.values()]
        if (
            not is_real
            or equation.primitive.name in _STEPS
            or any(_has_steps(own) for own in inner if hasattr(own, "eqns"))
        ):
            return True
        moving.update(equation.outvars)
    return False
