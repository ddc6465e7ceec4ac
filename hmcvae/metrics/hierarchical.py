"""Metrics of a hierarchy of blocks: the masses of a block are functions of the blocks before it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hmcvae._checks import check_positive, check_vector, is_concrete
from hmcvae.metrics.euclidean import DiagonalFactor, Geometry, Leaf
from hmcvae.metrics.riemannian import ForceFn, RiemannianMetric
from hmcvae.types import PyTree, Vector

# (z₁, …, z_{k-1}) -> masses of block k, [d_k] or a scalar.
MassFn = Callable[..., Any]
# Of one block: blocks have lengths of their own.
Part = Float[Array, "..."]
Parts = tuple[Part, ...]


def hierarchical(blocks: Any, mass_fn: Any = None, first_mass: Any = 1.0) -> "Hierarchical":
    """G(z) = diag(M₁, M₂(z₁)): the masses of one block of coordinates are a function of another block.

    With more blocks G(z) = diag(M₁, M₂(z₁), M₃(z₁, z₂), …), each M_k diagonal. Hamilton's equations then split into
    pieces that are solved exactly: see `integrators.hierarchical_leapfrog` (Kailas, Vihola & Wallin 2026). Neal's
    funnel, v ~ N(0, 9), x_i ~ N(0, exp v), with z = (v, x_1, …, x_9):

        metric = metrics.hierarchical([0] + [1] * 9, lambda v: jnp.exp(-v[0]))
        step = integrators.hierarchical_leapfrog
        algorithm = hmc(logdensity_fn, 0.3, uniform_steps(1, 20), metric, integrator=step)

    Args:
        blocks: for each coordinate of the ravelled position the number of its block, 0, 1, …; or for each block the
            indices of its coordinates. For positions that are pytrees `block_numbers` makes the first from their
            leaves.
        mass_fn: z₁ [d₁] -> the masses of the second block, [d₂] or a scalar for all of them, finite and positive, with
            derivatives by JAX. With K > 2 blocks a sequence of K - 1 functions; that of block k takes z₁, …, z_{k-1}.
            A function that is a pytree (`log_linear`, `jax.tree_util.Partial`) has its arrays traced. None: masses of
            `log_linear` that are all 1, for `sample(…, adapt_mass="hierarchical")` to tune.
        first_mass: M₁, a number or [d₁].

    Where a mass is not positive it counts as NaN: a trajectory that comes there is reported as divergent.

    Raises:
        ValueError: unless the blocks are two or more and hold every coordinate once; unless there is a function for
            each block but the first; or unless first_mass is positive and a number or [d₁]. When G is built: for masses
            of another shape, or a position of another dimension.
    """
    indices = _as_blocks(blocks)
    if mass_fn is None:
        mass_fns: Any = _constant_masses(indices)
    else:
        mass_fns = tuple(mass_fn) if isinstance(mass_fn, (list, tuple)) else (mass_fn,)
    if len(mass_fns) != len(indices) - 1:
        raise ValueError(
            f"mass_fn must be one function for each of the {len(indices)} blocks but the first, got {len(mass_fns)}"
        )
    for function in mass_fns:
        if not callable(function):
            raise ValueError(f"mass_fn must be a function z1 -> masses of the next block, got {function!r}")
    first_mass = jnp.asarray(check_positive("first_mass", first_mass, is_array=True), float)
    if first_mass.shape not in ((), (len(indices[0]),)):
        raise ValueError(
            f"first_mass must be a number or of shape ({len(indices[0])},), got {first_mass.shape}"
        )
    return Hierarchical(indices, tuple(map(_as_pytree, mass_fns)), first_mass)


def block_numbers(position: PyTree, blocks: PyTree) -> np.ndarray:
    """The number of each coordinate's block, [d], for the ravelled position; `blocks` is a pytree of numbers like the
    position, or one whose leaves stand for whole subtrees of it: {"v": 0, "x": 1}.

    Raises:
        ValueError: unless blocks fits the position.
    """
    try:
        spread = jax.tree.broadcast(blocks, position)
        numbers = jax.tree.map(lambda leaf, number: np.full(np.shape(leaf), number), position, spread)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"blocks must be a pytree of block numbers that fits the position, got {blocks!r}"
        ) from error
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(numbers)])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LogLinear:
    """Masses log m = a + B (z₁, …, z_{k-1}). See `log_linear`."""

    intercept: Leaf
    slopes: Leaf

    def __call__(self, *earlier: Part) -> Part:
        x = jnp.concatenate(earlier)
        return jnp.exp(self.intercept.astype(x.dtype) + self.slopes.astype(x.dtype) @ x)


def log_linear(intercept: Any, slopes: Any) -> LogLinear:
    """The mass function log m_j(z₁) = a_j + B_j z₁, of `intercept` a [d₂] and `slopes` B [d₂, d₁]. Of a block k > 2, z₁
    stands for all the blocks before it, one after the other. The funnel's is a = 0, B = -1.

    Raises:
        ValueError: for other shapes; or, where they are concrete, numbers that are not finite.
    """
    intercept, slopes = check_vector("intercept", jnp.asarray(intercept, float)), jnp.asarray(slopes, float)
    if slopes.ndim != 2 or slopes.shape[0] != intercept.shape[0]:
        raise ValueError(f"slopes must have shape ({intercept.shape[0]}, d1), got {slopes.shape}")
    if is_concrete(slopes) and not np.all(np.isfinite(np.asarray(slopes))):
        raise ValueError(f"slopes must be finite, got {slopes}")
    return LogLinear(intercept, slopes)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hierarchical(RiemannianMetric):
    """See `hierarchical`."""

    blocks: tuple[tuple[int, ...], ...] = field(metadata={"static": True})
    mass_fns: tuple
    first_mass: Leaf

    @property
    def dimension(self) -> int:
        return sum(map(len, self.blocks))

    def split(self, z: Vector) -> Parts:
        """(z₁, …, z_K)."""
        if z.shape != (self.dimension,):
            raise ValueError(
                f"the blocks hold {self.dimension} coordinates, got a position of shape {z.shape}"
            )
        order, sizes = self._order()
        ends = np.cumsum(sizes)
        z = z if order is None else z[order]
        return tuple(z[end - size : end] for size, end in zip(sizes, ends, strict=True))

    def join(self, parts: Sequence[Part]) -> Vector:
        """z of (z₁, …, z_K)."""
        order, _ = self._order()
        z = jnp.concatenate(parts)
        # A gather this way too, which is faster than writing here and there.
        return z if order is None else z[np.argsort(order)]

    def _order(self) -> tuple[np.ndarray | None, list[int]]:
        """(the coordinates block after block, or None where they stand so; the sizes of the blocks)."""
        order = np.concatenate([np.asarray(block) for block in self.blocks])
        is_sorted = np.array_equal(order, np.arange(len(order)))
        return None if is_sorted else order, [len(block) for block in self.blocks]

    def block_mass(self, index: int, *earlier: Part) -> Part:
        """The masses of block `index` (from 0) given the blocks before it; NaN where they are not positive."""
        size = len(self.blocks[index])
        if index == 0:
            return jnp.broadcast_to(self.first_mass, (size,))
        mass = jnp.asarray(self.mass_fns[index - 1](*earlier))
        if mass.shape not in ((), (size,)):
            raise ValueError(
                f"mass_fn must return the masses of block {index}, a scalar or of shape ({size},), "
                f"got shape {mass.shape}"
            )
        mass = jnp.broadcast_to(mass.astype(earlier[0].dtype), (size,))
        return jnp.where(mass > 0, mass, jnp.nan)

    def masses(self, z: Vector) -> Vector:
        """The diagonal of G(z)."""
        parts = self.split(z)
        of_blocks = [self.block_mass(k, *parts[:k]).astype(z.dtype) for k in range(len(parts))]
        return self.join(of_blocks)

    def tensor(self, z: Vector) -> Float[Array, "d d"]:
        return jnp.diag(self.masses(z))

    def matvec(self, z: Vector, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        return jax.vmap(jnp.multiply)(self.masses(z), v)

    def factor(self, z: Vector) -> DiagonalFactor:
        return DiagonalFactor(self.masses(z))

    def geometry(self, z: Vector) -> tuple[Geometry, ForceFn]:
        masses, pull_back = jax.vjp(self.masses, z)
        geometry = Geometry(DiagonalFactor(masses), pull_back(1 / masses)[0])
        return geometry, lambda u: pull_back(u * u)[0]


def _as_pytree(function: MassFn) -> MassFn:
    """A plain function as a pytree without arrays."""
    return jax.tree_util.Partial(function) if jax.tree_util.all_leaves([function]) else function


def _constant_masses(blocks: tuple[tuple[int, ...], ...]) -> tuple[LogLinear, ...]:
    sizes = [len(block) for block in blocks]
    return tuple(
        LogLinear(jnp.zeros(sizes[k]), jnp.zeros((sizes[k], sum(sizes[:k])))) for k in range(1, len(sizes))
    )


def _as_blocks(blocks: Any) -> tuple[tuple[int, ...], ...]:
    """The indices of each block's coordinates, in the blocks' own order."""
    expected = "blocks must be the number of each coordinate's block, 0, 1, …, or each block's coordinates"
    if not is_concrete(blocks):
        raise ValueError(f"{expected}, known when the metric is made, got traced ones")
    try:
        entries = [np.asarray(entry) for entry in blocks]
    except (TypeError, ValueError):
        raise ValueError(f"{expected}, got {blocks!r}") from None
    if not entries or any(entry.dtype.kind not in "iu" or entry.size == 0 for entry in entries):
        raise ValueError(f"{expected}, whole numbers all, got {blocks!r}")
    if all(entry.ndim == 0 for entry in entries):
        numbers, dimension = np.asarray(entries), len(entries)
        entries = [np.flatnonzero(numbers == k) for k in range(int(numbers.max()) + 1)]
    elif all(entry.ndim == 1 for entry in entries):
        dimension = sum(entry.size for entry in entries)
    else:
        raise ValueError(f"{expected}, got {blocks!r}")
    indices = np.sort(np.concatenate([*entries, np.zeros(0, int)]))
    if not np.array_equal(indices, np.arange(dimension)) or any(entry.size == 0 for entry in entries):
        raise ValueError(
            f"the blocks must hold each of 0 … {dimension - 1} once and none be empty, got {blocks!r}"
        )
    if len(entries) < 2:
        raise ValueError(f"there must be two blocks at least, got {len(entries)}; see metrics.diagonal")
    return tuple(tuple(map(int, entry)) for entry in entries)
