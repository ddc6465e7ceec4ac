"""A checksum of trees of arrays."""

import zlib

import jax
import numpy as np

from hmcvae.types import PyTree


def digest(tree: PyTree) -> str:
    """CRC-32 of every leaf's bytes, dtype and shape."""
    checksum = 0
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        checksum = zlib.crc32(f"{array.dtype}{array.shape}".encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(array).tobytes(), checksum)
    return f"{checksum:08x}"
