"""Metrics that depend on the position: what they share, any function z ↦ G(z), and the Monge metric.

The generalized leapfrog needs two derivatives of a metric. With the vectors held constant,

    ∂_z ½ vᵀ G(z)⁻¹ v = -½ ∂_z Q(z, u),     u = G(z)⁻¹ v
    ∂_z log |G(z)|    =    ∂_z Σ_j Q(z, c_j), c_j the columns of L⁻ᵀ,     Q(z, u) = uᵀ G(z) u,

so neither differentiates a factorisation, and G is factorised once for each position.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from hmcvae._checks import check_positive, is_concrete
from hmcvae.metrics.euclidean import DenseFactor, DiagonalFactor, GaussianMomentum, Geometry, Leaf
from hmcvae.types import Factor, LogDensityFn, Metric, Scalar, Vector

TensorFn = Callable[[Vector], Float[Array, "d *d"]]
# u -> ∂_z uᵀ G(z) u at the position it was made for.
ForceFn = Callable[[Vector], Vector]


class RiemannianMetric(GaussianMomentum):
    """A metric with `tensor` and `quadratic_form`; the rest follows from these two, at the cost of dense matrices."""

    is_position_dependent = True

    def tensor(self, z: Vector) -> Float[Array, "d d"]:
        raise NotImplementedError

    def quadratic_form(self, z: Vector, V: Float[Array, "d ..."]) -> Scalar:
        return jnp.sum(V * self.matvec(z, V))

    def matvec(self, z: Vector, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return self.tensor(z) @ v

    def factor(self, z: Vector) -> Factor:
        return factorise(self.tensor(z))[0]

    def geometry(self, z: Vector) -> tuple[Geometry, ForceFn]:
        """What is kept of z, and u ↦ ∂_z uᵀ G(z) u there. Both share their work; what is not used costs nothing."""
        # ∂_z Σ_ij W_ij G_ij(z), for W = G⁻¹ and W = u uᵀ, by one linearisation of G.
        G, pull_back = jax.vjp(self.tensor, z)
        factor, _ = factorise(G)
        return Geometry(factor, pull_back(factor.inverse)[0]), lambda u: pull_back(jnp.outer(u, u))[0]

    def carry(self, z: Vector) -> Geometry:
        return self.geometry(z)[0]

    def carried_factor(self, z: Vector, carried: Any) -> Factor:
        return carried.factor


def factorise(G: Float[Array, "d d"]) -> tuple[DenseFactor, Float[Array, "d d"]]:
    """(factor, L⁻ᵀ) of G = L Lᵀ; all NaN unless G is positive definite."""
    lower = jnp.linalg.cholesky(G, symmetrize_input=False)
    columns = solve_triangular(lower, jnp.eye(G.shape[0], dtype=G.dtype), lower=True).T
    return DenseFactor(lower, columns @ columns.T), columns


def check_is_metric(metric: Any) -> None:
    """Raise ValueError for what is no metric at all: an array, a function, a constructor that was not called."""
    if hasattr(metric, "is_position_dependent") and hasattr(metric, "tensor"):
        return
    if hasattr(metric, "description"):  # samples.MissingMetric
        raise ValueError(
            f"the metric was left behind when the samples were pickled: it was {metric.description}. Make it anew, and "
            "give it in place of this one"
        )
    came, instead = repr(metric), "see hmcvae.metrics"
    if callable(metric):
        came = f"the function {getattr(metric, '__name__', type(metric).__name__)}"
        instead = "for a function z -> G(z) of the ravelled position use metrics.from_tensor(function)"
    elif hasattr(metric, "shape"):
        came = f"an array of shape {tuple(metric.shape)}"
        instead = "for a constant mass use metrics.diagonal(mass) or metrics.dense(mass)"
    raise ValueError(f"metric must be one of hmcvae.metrics or have their methods, got {came}; {instead}")


def check_metric(metric: Metric, z: Vector) -> None:
    """Raise ValueError unless G(z) is [d, d], finite, symmetric to rounding and positive definite. A traced position
    passes unseen but for the shape."""
    d = z.shape[0]
    shape = jax.eval_shape(metric.tensor, z).shape
    if shape != (d, d):
        raise ValueError(f"the metric's tensor must have shape ({d}, {d}) at a position [{d}], got {shape}")
    if not is_concrete(z):
        return
    if not getattr(metric, "has_small_tensor", True):
        with jax.ensure_compile_time_eval():
            log_det = metric.factor(z).log_det
        if is_concrete(log_det) and not np.isfinite(float(log_det)):
            raise ValueError(
                f"the metric must be finite and positive definite at the position {np.asarray(z)}"
            )
        return
    with jax.ensure_compile_time_eval():
        tensor = metric.tensor(z)
    if not is_concrete(tensor):
        return
    G = np.asarray(tensor, np.float64)
    where = f"at the position {np.asarray(z)}"
    if not np.all(np.isfinite(G)):
        raise ValueError(f"the metric must be finite {where}, got\n{G}")
    gap, size = np.max(np.abs(G - G.T)), np.max(np.abs(G))
    if gap > 1e-3 * float(jnp.finfo(z.dtype).eps) ** 0.5 * size:
        raise ValueError(f"the metric must be symmetric {where}, got entries that differ by {gap:.3g}")
    smallest = float(np.linalg.eigvalsh(G)[0])
    if smallest <= 0:
        raise ValueError(
            f"the metric must be positive definite {where}, got smallest eigenvalue {smallest:.3g}"
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FromTensor(RiemannianMetric):
    """G = tensor_fn(z). See `from_tensor`."""

    tensor_fn: TensorFn = field(metadata={"static": True})

    def _values(self, z: Vector) -> Float[Array, "..."]:
        """In the position's dtype: constants inside the function may be wider."""
        return self.tensor_fn(z).astype(z.dtype)

    def tensor(self, z: Vector) -> Float[Array, "d d"]:
        values = self._values(z)
        return values if values.ndim == 2 else jnp.diag(values)

    def matvec(self, z: Vector, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        values = self._values(z)
        return values @ v if values.ndim == 2 else jax.vmap(jnp.multiply)(values, v)

    def factor(self, z: Vector) -> Factor:
        values = self._values(z)
        return factorise(values)[0] if values.ndim == 2 else DiagonalFactor(_positive(values))

    def geometry(self, z: Vector) -> tuple[Geometry, ForceFn]:
        values, pull_back = jax.vjp(self._values, z)
        if values.ndim == 2:
            return super().geometry(z)
        factor = DiagonalFactor(_positive(values))
        return Geometry(factor, pull_back(1 / values)[0]), lambda u: pull_back(u * u)[0]


def _positive(values: Vector) -> Vector:
    """NaN where a mass is not positive, as a Cholesky factor would be: a sampler must not go on from there."""
    return jnp.where(values > 0, values, jnp.nan)


def from_tensor(tensor_fn: TensorFn) -> FromTensor:
    """G(z) = tensor_fn(z), for any function z [d] -> [d, d] symmetric positive definite; or -> [d], the diagonal of a
    diagonal metric, for which no matrix is ever built. The function must be differentiable by JAX.

    Where G(z) is not positive definite its factor is NaN: a trajectory that comes there is reported as not converged.

    Raises:
        ValueError: if tensor_fn is not callable.
    """
    if not callable(tensor_fn):
        raise ValueError(f"tensor_fn must be a function z -> G(z), got {tensor_fn!r}")
    return FromTensor(tensor_fn)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RankOneFactor:
    """Factor of G = I + a g gᵀ (g [d], a ≥ 0) with the symmetric root L = I + c g gᵀ, in closed form."""

    direction: Leaf
    weight: Leaf

    @property
    def _size(self) -> Scalar:
        return self.weight * jnp.dot(self.direction, self.direction)

    @property
    def log_det(self) -> Scalar:
        return jnp.log1p(self._size)

    @property
    def diagonals(self) -> tuple[Vector, Vector]:
        """The diagonals of G and G⁻¹."""
        squares = self.weight * self.direction**2
        # 1 - a g_i² / (1 + a |g|²), in a form that rounding does not take to 0.
        return 1 + squares, (1 + jnp.maximum(self._size - squares, 0)) / (1 + self._size)

    def _add(self, b: Float[Array, "d ..."], coefficient: Scalar) -> Float[Array, "d ..."]:
        along = coefficient * (self.direction @ b)
        return b + (self.direction * along if b.ndim == 1 else self.direction[:, None] * along[None, :])

    def solve(self, b: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return self._add(b, -self.weight / (1 + self._size))

    def sqrt_matvec(self, e: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return self._add(e, self.weight / (jnp.sqrt(1 + self._size) + 1))

    def sqrt_solve(self, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        root = jnp.sqrt(1 + self._size)
        return self._add(v, -self.weight / (root * (root + 1)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Monge(RiemannianMetric):
    """G = I + α² ∇ℓ ∇ℓᵀ. See `monge`."""

    logdensity_fn: LogDensityFn = field(metadata={"static": True})
    alpha: Leaf

    def _gradient(self, z: Vector) -> Vector:
        return jax.grad(self.logdensity_fn)(z)

    def _weight(self, z: Vector) -> Scalar:
        return jnp.asarray(self.alpha, z.dtype) ** 2

    def tensor(self, z: Vector) -> Float[Array, "d d"]:
        g = self._gradient(z)
        return jnp.eye(z.shape[0], dtype=z.dtype) + self._weight(z) * jnp.outer(g, g)

    def matvec(self, z: Vector, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return RankOneFactor(self._gradient(z), self._weight(z))._add(v, self._weight(z))

    def quadratic_form(self, z: Vector, V: Float[Array, "d ..."]) -> Scalar:
        return jnp.sum(V * V) + self._weight(z) * jnp.sum((self._gradient(z) @ V) ** 2)

    def factor(self, z: Vector) -> RankOneFactor:
        return RankOneFactor(self._gradient(z), self._weight(z))

    def geometry(self, z: Vector) -> tuple[Geometry, ForceFn]:
        g, hessian_product = jax.linearize(jax.grad(self.logdensity_fn), z)
        factor = RankOneFactor(g, self._weight(z))
        log_det_grad = 2 * factor.weight / (1 + factor._size) * hessian_product(g)

        def force(u: Vector) -> Vector:
            return 2 * factor.weight * jnp.dot(g, u) * hessian_product(u)

        return Geometry(factor, log_det_grad), force


def monge(logdensity_fn: LogDensityFn, alpha: Any = 1.0) -> Monge:
    """The Monge metric G = I + α² ∇ℓ ∇ℓᵀ of the graph of ℓ = log p (Hartmann, Girolami & Klami 2022).

    Rank one beside the identity: inverse, root and determinant in closed form, no matrix is built, and each derivative
    costs one Hessian-vector product.

    Raises:
        ValueError: unless alpha is finite and positive.
    """
    check_positive("alpha", alpha)
    return Monge(logdensity_fn, jnp.asarray(alpha, float))
