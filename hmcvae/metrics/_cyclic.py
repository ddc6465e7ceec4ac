"""Cyclic reduction of block tridiagonal matrices: see `metrics.banded`.

Blocks come as [n, b, b] with n = 2^p - 1, filled up with the identity; in every round blocks 0, 2, 4, … are eliminated,
m + 1 of them, and m are left. Vectors come as [n, b, k].
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

# bands[k, i] = G[i + k, i].
Bands = Float[Array, "rows d"]
# [n, b, k]; n and k differ from argument to argument.
Blocks = Float[Array, "_ _ _"]


class Level(NamedTuple):
    """One round.

    root: C of the eliminated blocks, [m + 1, b, b].  after, before: W of the neighbours after and before each of them,
    [m + 1, b, b]; 0 where there is none.
    """

    root: Any
    after: Any
    before: Any


Levels = tuple[Level, ...]


def num_blocks(dimension: int, size: int) -> int:
    """2^p - 1, enough of them for d."""
    return 2 ** int(np.ceil(np.log2(-(-dimension // size) + 1))) - 1


def block_size(bands: Bands) -> int:
    return max(bands.shape[0] - 1, 1)


def to_blocks(bands: Bands) -> tuple[Blocks, Blocks]:
    """(diagonal blocks [n, b, b], those below them [n - 1, b, b])."""
    size = block_size(bands)
    n = num_blocks(bands.shape[1], size)
    missing = n * size - bands.shape[1]
    ones = jnp.ones((1, missing), bands.dtype)
    filled = jnp.concatenate([ones, jnp.zeros((bands.shape[0] - 1, missing), bands.dtype)])
    padded = jnp.concatenate([bands, filled], axis=1)
    if size == 1:
        below = padded[1, : n - 1] if bands.shape[0] > 1 else jnp.zeros(n - 1, bands.dtype)
        return padded[0][:, None, None], below[:, None, None]
    padded = jnp.moveaxis(padded.reshape(size + 1, n, size), 1, 0)
    i, j = np.indices((size, size))
    below = jnp.where(i <= j, padded[:, np.clip(size + i - j, 0, size), j], jnp.zeros((), bands.dtype))
    return padded[:, np.abs(i - j), np.minimum(i, j)], below[: n - 1]


def to_bands(diagonal: Blocks, below: Blocks, rows: int, dimension: int) -> Bands:
    """What of a symmetric matrix lies in the band."""
    size = diagonal.shape[1]
    both = jnp.concatenate([diagonal, jnp.pad(below, ((0, 1), (0, 0), (0, 0)))], axis=1)
    if size == 1:
        return both[:, :rows, 0].T[:, :dimension]
    k, j = np.indices((rows, size))
    return jnp.moveaxis(both[:, j + k, j], 1, 0).reshape(rows, -1)[:, :dimension]


def eliminate(diagonal: Blocks, below: Blocks) -> Levels:
    """All rounds; the last has one block and no neighbours."""
    levels = []
    while diagonal.shape[0] > 1:
        root = _root(diagonal[::2])
        after = _at_end(_transposed(_solve(root[:-1], _transposed(below[::2]))))
        before = _at_start(_transposed(_solve(root[1:], below[1::2])))
        levels.append(Level(root, after, before))
        left = diagonal[1::2] - _product(after[:-1], _transposed(after[:-1]))
        diagonal = left - _product(before[1:], _transposed(before[1:]))
        below = -_product(after[1:-1], _transposed(before[1:-1]))
    nothing = jnp.zeros_like(diagonal)
    return (*levels, Level(_root(diagonal), nothing, nothing))


def forward(levels: Levels, x: Blocks) -> Blocks:
    """R⁻¹ x."""
    level, later = levels[0], levels[1:]
    own = _solve(level.root, x[::2])
    if not later:
        return own
    rest = x[1::2] - _product(level.after[:-1], own[:-1]) - _product(level.before[1:], own[1:])
    return _interleaved(own, forward(later, rest))


def backward(levels: Levels, x: Blocks) -> Blocks:
    """R⁻ᵀ x."""
    level, later = levels[0], levels[1:]
    if not later:
        return _solve_transposed(level.root, x)
    rest = backward(later, x[1::2])
    pull = _product(_transposed(level.after), _at_end(rest))
    pull = pull + _product(_transposed(level.before), _at_start(rest))
    return _interleaved(_solve_transposed(level.root, x[::2] - pull), rest)


def multiply(levels: Levels, x: Blocks) -> Blocks:
    """R x."""
    level, later = levels[0], levels[1:]
    own = _product(level.root, x[::2])
    if not later:
        return own
    rest = multiply(later, x[1::2]) + _product(level.after[:-1], x[:-1:2])
    return _interleaved(own, rest + _product(level.before[1:], x[2::2]))


def selected_inverse(levels: Levels) -> tuple[Blocks, Blocks]:
    """Of S = G⁻¹ the diagonal blocks and those below them, from the last round to the first: with K_k = W_k C⁻¹

    S_ke = -Σ_l S_kl K_l,   S_ee = C⁻ᵀ C⁻¹ - Σ_k K_kᵀ S_ke   over the neighbours k, l = e ± 1.
    """
    level, later = levels[0], levels[1:]
    identity = jnp.broadcast_to(jnp.eye(level.root.shape[1], dtype=level.root.dtype), level.root.shape)
    half = _solve(level.root, identity)
    own = _product(_transposed(half), half)
    if not later:
        return own, own[:0]
    rest, across = selected_inverse(later)
    k_after, k_before = _product(level.after, half), _product(level.before, half)
    across = _at_end(_at_start(across))  # S_{e+1,e-1}
    by_after = -_product(_at_end(rest), k_after) - _product(across, k_before)
    by_before = -_product(_at_start(rest), k_before) - _product(_transposed(across), k_after)
    own = own - _product(_transposed(k_after), by_after) - _product(_transposed(k_before), by_before)
    below = jnp.stack([by_after[:-1], _transposed(by_before[1:])], axis=1)
    return _interleaved(own, rest), below.reshape(-1, *own.shape[1:])


def _interleaved(even: Blocks, odd: Blocks) -> Blocks:
    """Of m + 1 and m blocks."""
    pairs = jnp.stack([even[:-1], odd], axis=1).reshape(-1, *odd.shape[1:])
    return jnp.concatenate([pairs, even[-1:]])


def _at_end(blocks: Blocks) -> Blocks:
    """With a block of zeros after them."""
    return jnp.pad(blocks, ((0, 1), (0, 0), (0, 0)))


def _at_start(blocks: Blocks) -> Blocks:
    return jnp.pad(blocks, ((1, 0), (0, 0), (0, 0)))


# Blocks of one number are by far the most frequent, and these are then operations entry by entry.
def _transposed(A: Blocks) -> Blocks:
    return A if A.shape[1] == A.shape[2] == 1 else jnp.swapaxes(A, 1, 2)


def _product(A: Blocks, B: Blocks) -> Blocks:
    return A * B if A.shape[2] == 1 and A.shape[1] == 1 else A @ B


def _root(A: Blocks) -> Blocks:
    """C of A = C Cᵀ; NaN unless it is positive definite."""
    if A.shape[1] == 1:
        return jnp.sqrt(jnp.where(A > 0, A, jnp.nan))
    return jnp.linalg.cholesky(A, symmetrize_input=False)


def _solve(C: Blocks, x: Blocks) -> Blocks:
    """C⁻¹ x."""
    return x / C if C.shape[1] == 1 else solve_triangular(C, x, lower=True)


def _solve_transposed(C: Blocks, x: Blocks) -> Blocks:
    """C⁻ᵀ x."""
    return x / C if C.shape[1] == 1 else solve_triangular(C, x, lower=True, trans=1)
