"""Metrics that do not depend on the position, and what all metrics share.

All are pytrees of arrays, so masses can be traced, differentiated and vmapped like any other parameter.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float

from hmcvae._checks import check_plain, check_positive, is_concrete
from hmcvae._random import normal
from hmcvae.types import ArrayLike, Factor, PRNGKey, Scalar, Vector

# The arrays inside a metric. Their shapes are checked by the constructors and not here: JAX also rebuilds the
# classes below around batches of metrics, axis numbers and placeholders.
Leaf = Any


def identity() -> "Identity":
    """G = I. The dimension is taken from the position."""
    return Identity()


def diagonal(mass: ArrayLike) -> "Diagonal":
    """G = diag(mass), for masses of shape [d] (units of momentum squared).

    Raises:
        ValueError: unless `mass` has shape [d] and, when it is concrete, is finite and positive.
    """
    mass = as_float("mass", mass)
    if mass.ndim != 1:
        raise ValueError(f"mass must have shape [d], got shape {tuple(mass.shape)}; use dense() for a matrix")
    mass = check_positive("mass", mass, is_array=True)
    return Diagonal(mass)


def dense(mass: ArrayLike) -> "Dense":
    """G = mass, for a symmetric positive definite matrix [d, d]; it is factorised once, here.

    Raises:
        ValueError: unless `mass` is square and, when it is concrete, symmetric and positive definite.
    """
    mass = as_float("mass", mass)
    if mass.ndim != 2 or mass.shape[0] != mass.shape[1]:
        raise ValueError(f"mass must have shape [d, d], got shape {tuple(mass.shape)}")
    if jnp.finfo(mass.dtype).bits < 32:
        raise ValueError(f"mass must be float32 or float64, which can be factorised, got {mass.dtype}")
    if is_concrete(mass):
        _check_positive_definite(np.asarray(mass))
    # Everything depends on the symmetric part alone, so that gradients through a traced mass are consistent.
    mass = 0.5 * (mass + mass.T)
    lower = jnp.linalg.cholesky(mass, symmetrize_input=False)
    inverse = cho_solve((lower, True), jnp.eye(mass.shape[0], dtype=mass.dtype))
    return Dense(mass, lower, 0.5 * (inverse + inverse.T))


def as_float(name: str, value: ArrayLike) -> Array:
    """`value` as a real floating-point array (whole numbers are taken as such), or a ValueError."""
    check_plain(name, value)
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be an array of real numbers, got {value!r}") from None
    if jnp.issubdtype(array.dtype, jnp.integer):
        return array.astype(float)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be real numbers, got {value!r}, of dtype {array.dtype}")
    return array


def _check_positive_definite(mass: np.ndarray) -> None:
    """Raise ValueError unless `mass` is finite, symmetric to rounding and positive definite.

    In NumPy: inside `jit` even operations on constants are traced by jax.numpy and could not be looked at.
    """
    if not np.all(np.isfinite(mass)):
        raise ValueError(f"mass must be finite, got {mass}")
    gap = float(np.max(np.abs(mass - mass.T), initial=0.0))
    if gap > 1e-5 * float(np.max(np.abs(mass), initial=0.0)):
        raise ValueError(f"mass must be symmetric, got entries that differ from their mirror by {gap:.3g}")
    try:
        np.linalg.cholesky(mass)
    except np.linalg.LinAlgError:
        smallest = float(np.min(np.linalg.eigvalsh(mass)))
        raise ValueError(f"mass must be positive definite, got smallest eigenvalue {smallest:.3g}") from None


def scale_rows(scale: Vector, b: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
    """diag(scale) b for b of shape [d] or [d, k]."""
    return jax.vmap(jnp.multiply)(scale.astype(b.dtype), b)


class Geometry(NamedTuple):
    """What a position-dependent metric keeps of a position, so that it is built and factorised there once.

    factor: of G(z).  log_det_grad: ∂_z log |G(z)|, [d].
    """

    factor: Factor
    log_det_grad: Vector


class GaussianMomentum:
    """The momentum's law N(0, G(z)), written once in terms of the factor of G; and what integrators and kernels carry
    from step to step, which is nothing where G does not depend on z."""

    def carry(self, z: Vector) -> Any:
        """What states keep of the metric at z: () for a Euclidean metric, a `Geometry` for another."""
        return ()

    def carried_factor(self, z: Vector, carried: Any) -> Factor:
        """The factor of G(z), from `carry(z)` where that holds it."""
        return self.factor(z)

    def factor(self, z: Vector) -> Factor:
        raise NotImplementedError

    def sample_momentum(self, rng_key: PRNGKey, z: Vector) -> Vector:
        """v = L(z) e with e ~ N(0, I), so v ~ N(0, G(z))."""
        return self.factor(z).sqrt_matvec(normal(rng_key, z.shape, z.dtype))

    def kinetic_energy(self, v: Vector, z: Vector) -> Scalar:
        """½ vᵀ G(z)⁻¹ v + ½ log |G(z)| = -log N(v; 0, G(z)) - d/2 log 2π."""
        factor = self.factor(z)
        w = factor.sqrt_solve(v)
        return 0.5 * jnp.dot(w, w) + 0.5 * factor.log_det

    def log_prob_momentum(self, v: Vector, z: Vector) -> Scalar:
        """log N(v; 0, G(z)), normalised."""
        return -self.kinetic_energy(v, z) - 0.5 * v.shape[0] * jnp.log(2 * jnp.pi).astype(v.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IdentityFactor:
    """Factor of G = I."""

    log_det: Leaf

    @property
    def diagonals(self) -> tuple[Array, Array]:
        """The diagonals of G and G⁻¹, or numbers."""
        one = jnp.ones_like(self.log_det)
        return one, one

    def solve(self, b: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return b

    def sqrt_matvec(self, e: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return e

    def sqrt_solve(self, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return v


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Identity(GaussianMomentum):
    """G = I. See `identity`."""

    is_position_dependent = False

    def tensor(self, z: Vector) -> Float[Array, "d d"]:
        return jnp.eye(z.shape[0], dtype=z.dtype)

    def matvec(self, z: Vector, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return v

    def quadratic_form(self, z: Vector, V: Float[Array, "d ..."]) -> Scalar:
        return jnp.sum(V * V)

    def factor(self, z: Vector) -> IdentityFactor:
        return IdentityFactor(jnp.zeros((), z.dtype))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DiagonalFactor:
    """Factor of G = diag(mass), L = diag(√mass), from the masses [d]."""

    mass: Leaf

    @property
    def log_det(self) -> Scalar:
        return jnp.sum(jnp.log(self.mass))

    @property
    def diagonals(self) -> tuple[Vector, Vector]:
        """The diagonals of G and G⁻¹."""
        return self.mass, 1 / self.mass

    def solve(self, b: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        # A product, not a quotient: in a trajectory the reciprocal is the same at every step and leaves the loop.
        return scale_rows(1 / self.mass, b)

    def sqrt_matvec(self, e: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return scale_rows(jnp.sqrt(self.mass), e)

    def sqrt_solve(self, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return scale_rows(lax.rsqrt(self.mass), v)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Diagonal(GaussianMomentum):
    """G = diag(mass). See `diagonal`."""

    mass: Leaf

    is_position_dependent = False

    def tensor(self, z: Vector) -> Float[Array, "d d"]:
        return jnp.diag(self.mass.astype(z.dtype))

    def matvec(self, z: Vector, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return scale_rows(self.mass, v)

    def quadratic_form(self, z: Vector, V: Float[Array, "d ..."]) -> Scalar:
        return jnp.sum(V * self.matvec(z, V))

    def factor(self, z: Vector) -> DiagonalFactor:
        return DiagonalFactor(self.mass.astype(z.dtype))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DenseFactor:
    """Factor of a dense G [d, d]: its Cholesky factor L, and G⁻¹ for the velocity of every leapfrog step."""

    lower: Leaf
    inverse: Leaf

    @property
    def log_det(self) -> Scalar:
        return 2 * jnp.sum(jnp.log(jnp.diagonal(self.lower)))

    @property
    def diagonals(self) -> tuple[Vector, Vector]:
        """The diagonals of G and G⁻¹."""
        return jnp.sum(self.lower**2, axis=1), jnp.diagonal(self.inverse)

    def solve(self, b: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return self.inverse.astype(b.dtype) @ b

    def sqrt_matvec(self, e: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return self.lower.astype(e.dtype) @ e

    def sqrt_solve(self, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        # Solved in float32 at least: there is no triangular solve in half precision.
        dtype = jnp.promote_types(v.dtype, jnp.float32)
        return solve_triangular(self.lower.astype(dtype), v.astype(dtype), lower=True).astype(v.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dense(GaussianMomentum):
    """G = mass, with its Cholesky factor and inverse. See `dense`."""

    mass: Leaf
    lower: Leaf
    inverse: Leaf

    is_position_dependent = False

    def tensor(self, z: Vector) -> Float[Array, "d d"]:
        return self.mass.astype(z.dtype)

    def matvec(self, z: Vector, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return self.mass.astype(v.dtype) @ v

    def quadratic_form(self, z: Vector, V: Float[Array, "d ..."]) -> Scalar:
        return jnp.sum(V * self.matvec(z, V))

    def factor(self, z: Vector) -> DenseFactor:
        return DenseFactor(self.lower.astype(z.dtype), self.inverse.astype(z.dtype))
