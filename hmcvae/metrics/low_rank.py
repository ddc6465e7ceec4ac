"""A constant metric of masses and a few directions: O(d k) for all that is asked of it.

With orthonormal U [d, k], positive λ [k] and D = diag(mass),

    G = D^{1/2} (I + U (Λ - I) Uᵀ) D^{1/2},     L = D^{1/2} (I + U (Λ^{1/2} - I) Uᵀ),     L Lᵀ = G,

and every power of the middle matrix is the same with that power of Λ: G⁻¹ from 1/λ, L⁻¹ from 1/√λ. (The form of
Seyboldt, Carlson & Carpenter 2026, there for the inverse.)
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hmcvae._checks import check_positive, is_concrete
from hmcvae.metrics.euclidean import GaussianMomentum, Leaf, as_float, scale_rows
from hmcvae.types import ArrayLike, Scalar, Vector

# How far Uᵀ U of given vectors may be from I: a factorisation in single precision is within.
ORTHONORMAL = 1e-4


def low_rank(mass: ArrayLike, vectors: ArrayLike, eigenvalues: ArrayLike) -> "LowRank":
    """G = D^{1/2} (I + U (Λ - I) Uᵀ) D^{1/2}: the masses D = diag(mass), but for a few directions of the coordinates
    D^{1/2} z, in which they are λ times as large.

    For a posterior with standard deviations σ_i whose scaled coordinates z_i/σ_i have the variance s along a unit
    vector u, take mass = 1/σ², u as a column of U, and λ = 1/s. Products, solves, momenta and log-determinants are of
    O(d k); no d × d matrix is made but by `tensor`. They are good as long as the λ (with 1, that of all other
    directions) are not farther apart than about 0.1 / eps: Λ - I cancels at small ones. Momenta and energies, of L and
    L⁻¹, go on to the square of that.

    Args:
        mass: D, [d], positive.
        vectors: U, [d, k], k ≤ d, with orthonormal columns.
        eigenvalues: λ, [k], positive; where one is 1, its column counts for nothing.

    Raises:
        ValueError: unless the shapes are these and, as far as they are concrete, mass and eigenvalues are finite and
            positive and vectors orthonormal.
    """
    mass, vectors = as_float("mass", mass), as_float("vectors", vectors)
    eigenvalues = as_float("eigenvalues", eigenvalues)
    if mass.ndim != 1:
        raise ValueError(f"mass must have shape [d], got shape {tuple(mass.shape)}")
    d = mass.shape[0]
    if vectors.ndim != 2 or vectors.shape[0] != d or vectors.shape[1] > d:
        raise ValueError(f"vectors must have shape [{d}, k], k ≤ {d}, got shape {tuple(vectors.shape)}")
    if eigenvalues.shape != vectors.shape[1:]:
        raise ValueError(
            f"eigenvalues must have shape {vectors.shape[1:]}, got shape {tuple(eigenvalues.shape)}"
        )
    check_positive("mass", mass, is_array=True)
    if eigenvalues.size:
        check_positive("eigenvalues", eigenvalues, is_array=True)
    if is_concrete(vectors):
        _check_orthonormal(np.asarray(vectors, np.float64))
    dtype = jnp.result_type(mass, vectors, eigenvalues)
    return LowRank(mass.astype(dtype), vectors.astype(dtype), eigenvalues.astype(dtype))


def _check_orthonormal(vectors: np.ndarray) -> None:
    gap = np.max(np.abs(vectors.T @ vectors - np.eye(vectors.shape[1])), initial=0.0)
    if not gap <= ORTHONORMAL:  # NaN, too
        raise ValueError(
            f"vectors must have orthonormal columns, got columns whose products are off by {gap:.3g}"
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRankFactor:
    """Factor of a `LowRank` metric: L = D^{1/2} (I + U (Λ^{1/2} - I) Uᵀ), which is not triangular."""

    mass: Leaf
    vectors: Leaf
    eigenvalues: Leaf

    @property
    def log_det(self) -> Scalar:
        return jnp.sum(jnp.log(self.mass)) + jnp.sum(jnp.log(self.eigenvalues))

    @property
    def diagonals(self) -> tuple[Vector, Vector]:
        """The diagonals of G and G⁻¹."""
        share = self.vectors**2
        # Sums of what is not negative: 1 + Σ u² (λ - 1) would cancel where u is near 1 and λ small.
        rest = jnp.maximum(1 - jnp.sum(share, axis=1), 0)
        return self.mass * (rest + share @ self.eigenvalues), (
            rest + share @ (1 / self.eigenvalues)
        ) / self.mass

    def solve(self, b: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        root = 1 / jnp.sqrt(self.mass)
        return scale_rows(root, self._stretch(1 / self.eigenvalues, scale_rows(root, b)))

    def sqrt_matvec(self, e: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return scale_rows(jnp.sqrt(self.mass), self._stretch(jnp.sqrt(self.eigenvalues), e))

    def sqrt_solve(self, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return self._stretch(1 / jnp.sqrt(self.eigenvalues), scale_rows(1 / jnp.sqrt(self.mass), v))

    def matvec(self, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        """G v."""
        root = jnp.sqrt(self.mass)
        return scale_rows(root, self._stretch(self.eigenvalues, scale_rows(root, v)))

    def _stretch(self, power: Array, b: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        """(I + U (P - I) Uᵀ) b, P = diag(power)."""
        vectors = self.vectors.astype(b.dtype)
        return b + vectors @ scale_rows(power - 1, vectors.T @ b)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRank(GaussianMomentum):
    """G = D^{1/2} (I + U (Λ - I) Uᵀ) D^{1/2}. See `low_rank`."""

    mass: Leaf
    vectors: Leaf
    eigenvalues: Leaf

    is_position_dependent = False

    def tensor(self, z: Vector) -> Float[Array, "d d"]:
        """G; the one d × d matrix here."""
        matrix = self.factor(z).matvec(jnp.eye(z.shape[0], dtype=z.dtype))
        return 0.5 * (matrix + matrix.T)

    def matvec(self, z: Vector, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return self._in(v.dtype).matvec(v)

    def quadratic_form(self, z: Vector, V: Float[Array, "d ..."]) -> Scalar:
        return jnp.sum(V * self.matvec(z, V))

    def factor(self, z: Vector) -> LowRankFactor:
        return self._in(z.dtype)

    def _in(self, dtype: Any) -> LowRankFactor:
        return LowRankFactor(*(a.astype(dtype) for a in (self.mass, self.vectors, self.eigenvalues)))
