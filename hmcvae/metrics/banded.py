"""Metrics whose tensor is banded: everything in O(d b²) time and O(d b) memory, no d × d matrix anywhere.

G is cut into blocks of b × b, b its number of sub-diagonals, and so is block tridiagonal. It is factorised by cyclic
reduction (Heller 1976): every second block is eliminated, all at once, and what is left is block tridiagonal again,

    G_ee = C Cᵀ,   W_k = G_ke C⁻ᵀ for both neighbours k = e ± 1,   G_kk ← G_kk - W_k W_kᵀ,   G_kl ← -W_k W_lᵀ

so log₂(d / b) rounds of array operations take the place of a loop over d: a Cholesky factorisation G = R Rᵀ in another
order, with R triangular in the order of elimination. The same recursion backwards gives those entries of G⁻¹ that lie
in the band (the selected inverse of Takahashi, Fagan & Chin 1973), and they are all that the log-determinant's gradient
needs: ∂ log |G| = Σ_ij (G⁻¹)_ij ∂G_ij over the band.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hmcvae._checks import is_concrete
from hmcvae.metrics import _cyclic as cyclic
from hmcvae.metrics._cyclic import Bands, Blocks, Levels
from hmcvae.metrics.euclidean import GaussianMomentum, Geometry, Leaf, as_float
from hmcvae.metrics.riemannian import ForceFn, RiemannianMetric
from hmcvae.types import Scalar, Vector


def banded(bands: Any) -> "Banded | ConstantBanded":
    """A banded G: constant, or a function of the position.

    Args:
        bands: the diagonal of G and those below it, [b + 1, d], as SciPy's `cholesky_banded(lower=True)` takes them:
            bands[k, i] = G[i + k, i], where the last k entries of row k are not used. A tridiagonal G has two rows. Or
            a function z [d] -> such bands, differentiable by JAX: the latent path of a state-space model has a
            tridiagonal precision given its parameters.

    A constant one serves `leapfrog`, `hmc` and `nuts`; one of the position `generalized_leapfrog` and `rmhmc`. Where
    G(z) is not positive definite its factor is NaN, and a trajectory that comes there is reported as not converged.

    Raises:
        ValueError: unless bands is a function or an array [b + 1, d] with b < d, and, where it is concrete, finite and
            of a positive definite matrix. When G is built: for a function that returns bands of another shape.
    """
    if callable(bands):
        return Banded(bands)
    bands = as_float("bands", bands)
    if bands.ndim != 2 or not 0 < bands.shape[0] <= bands.shape[1]:
        raise ValueError(f"bands must have shape [b + 1, d] with b < d, got shape {tuple(bands.shape)}")
    if jnp.finfo(bands.dtype).bits < 32:
        raise ValueError(f"bands must be float32 or float64, which can be factorised, got {bands.dtype}")
    bands = _without_corner(bands)
    if is_concrete(bands):
        values = np.asarray(bands)
        if not np.all(np.isfinite(values)):
            raise ValueError(f"bands must be finite, got {values}")
        with jax.ensure_compile_time_eval():
            log_det = float(_factorise(bands).log_det)
        if not np.isfinite(log_det):
            raise ValueError(f"bands must be those of a positive definite matrix, got {values}")
    return ConstantBanded(bands, _factorise(bands))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BandedFactor:
    """G = R Rᵀ, from the rounds of the elimination.

    dimension: d.  levels: the rounds.  diagonal: of G.  inverse: of G⁻¹ the bands.
    """

    dimension: int = field(metadata={"static": True})
    levels: tuple
    diagonal: Leaf
    inverse: Leaf

    @property
    def log_det(self) -> Scalar:
        roots = [jnp.diagonal(level.root, axis1=1, axis2=2).ravel() for level in self.levels]
        return 2 * jnp.sum(jnp.log(jnp.concatenate(roots)))

    @property
    def diagonals(self) -> tuple[Vector, Vector]:
        return self.diagonal, self.inverse[0]

    def _through(
        self, function: Callable[[Levels, Blocks], Blocks], b: Float[Array, "d ..."]
    ) -> Float[Array, "d ..."]:
        """A function of the blocks of vectors [n, b, k], of one vector or of many."""
        levels = jax.tree.map(lambda leaf: leaf.astype(b.dtype), self.levels)
        columns = b if b.ndim == 2 else b[:, None]
        size, num_columns = levels[0].root.shape[1], columns.shape[1]
        missing = size * cyclic.num_blocks(self.dimension, size) - self.dimension
        padded = jnp.pad(columns, ((0, missing), (0, 0)))
        blocks = function(levels, padded.reshape(-1, size, num_columns))
        result = blocks.reshape(-1, num_columns)[: self.dimension]
        return result if b.ndim == 2 else result[:, 0]

    def solve(self, b: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return self._through(lambda levels, x: cyclic.backward(levels, cyclic.forward(levels, x)), b)

    def sqrt_matvec(self, e: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return self._through(cyclic.multiply, e)

    def sqrt_solve(self, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return self._through(cyclic.forward, v)

    def inverse_sqrt_matvec(self, e: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        """R⁻ᵀ e: turns white noise into N(0, G⁻¹)."""
        return self._through(cyclic.backward, e)


class BandedTensor(GaussianMomentum):
    """What constant and position-dependent banded metrics share, from `bands_at`."""

    # `tensor` is there for those who ask for it; nobody builds it to look at.
    has_small_tensor = False

    def bands_at(self, z: Vector) -> Bands:
        raise NotImplementedError

    def tensor(self, z: Vector) -> Float[Array, "d d"]:
        """G(z), [d, d]: for small d, and for tests."""
        bands = self.bands_at(z)
        lower = sum(
            (jnp.diag(row[: row.shape[0] - k], -k) for k, row in enumerate(bands)), jnp.zeros((), z.dtype)
        )
        return lower + jnp.tril(lower, -1).T

    def matvec(self, z: Vector, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return _band_matvec(self.bands_at(z).astype(v.dtype), v)

    def quadratic_form(self, z: Vector, V: Float[Array, "d ..."]) -> Scalar:
        return jnp.sum(self.bands_at(z).astype(V.dtype) * _band_of_outer(V, self.num_rows(z)))

    def num_rows(self, z: Vector) -> int:
        """b + 1."""
        return jax.eval_shape(self.bands_at, z).shape[0]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ConstantBanded(BandedTensor):
    """The same G everywhere, factorised once. See `banded`."""

    bands: Leaf
    factorised: Any

    is_position_dependent = False

    def bands_at(self, z: Vector) -> Bands:
        return self.bands.astype(z.dtype)

    def factor(self, z: Vector) -> BandedFactor:
        return jax.tree.map(lambda leaf: leaf.astype(z.dtype), self.factorised)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Banded(BandedTensor, RiemannianMetric):
    """G(z) from bands_fn. See `banded`."""

    bands_fn: Callable = field(metadata={"static": True})

    def bands_at(self, z: Vector) -> Bands:
        bands = self.bands_fn(z).astype(z.dtype)
        if bands.ndim != 2 or bands.shape[1] != z.shape[0] or not 0 < bands.shape[0] <= bands.shape[1]:
            raise ValueError(
                f"bands must have shape [b + 1, {z.shape[0]}] with b < {z.shape[0]}, got shape {bands.shape}"
            )
        return _without_corner(bands)

    def factor(self, z: Vector) -> BandedFactor:
        return _factorise(self.bands_at(z))

    def geometry(self, z: Vector) -> tuple[Geometry, ForceFn]:
        bands, pull_back = jax.vjp(self.bands_at, z)
        factor = _factorise(bands)

        def force(u: Vector) -> Vector:
            return pull_back(_band_of_outer(u, bands.shape[0]))[0]

        # An entry below the diagonal stands for its mirror too.
        return Geometry(factor, pull_back(_twice_below(factor.inverse))[0]), force


def _factorise(bands: Bands) -> BandedFactor:
    """NaN unless the matrix is positive definite."""
    levels = cyclic.eliminate(*cyclic.to_blocks(bands))
    inverse = cyclic.to_bands(*cyclic.selected_inverse(levels), *bands.shape)
    return BandedFactor(bands.shape[1], levels, bands[0], inverse)


def _without_corner(bands: Bands) -> Bands:
    """0 where a diagonal has ended."""
    rows, d = bands.shape
    inside = np.arange(d)[None, :] < d - np.arange(rows)[:, None]
    return jnp.where(inside, bands, jnp.zeros((), bands.dtype))


def _twice_below(bands: Bands) -> Bands:
    return bands * np.where(np.arange(bands.shape[0]) == 0, 1, 2)[:, None].astype(bands.dtype)


def _shifted(v: Float[Array, "d ..."], k: int) -> Float[Array, "d ..."]:
    """v[i + k] at i, 0 past the end."""
    return v if k == 0 else jnp.concatenate([v[k:], jnp.zeros((k, *v.shape[1:]), v.dtype)])


def _band_of_outer(V: Float[Array, "d ..."], rows: int) -> Bands:
    """Weights of the bands in Σ_j V_jᵀ G V_j: Σ_j V_ij V_{i+k,j}, twice below the diagonal."""
    columns = V if V.ndim == 2 else V[:, None]
    return _twice_below(jnp.stack([jnp.sum(columns * _shifted(columns, k), axis=1) for k in range(rows)]))


def _band_matvec(bands: Bands, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
    columns = v if v.ndim == 2 else v[:, None]
    total = bands[0][:, None] * columns
    for k in range(1, bands.shape[0]):
        row = bands[k][:, None]
        below = (row * columns)[: columns.shape[0] - k]
        down = jnp.concatenate([jnp.zeros((k, columns.shape[1]), below.dtype), below])
        total = total + row * _shifted(columns, k) + down
    return total if v.ndim == 2 else total[:, 0]
