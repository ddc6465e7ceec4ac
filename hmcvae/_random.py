"""Independent streams of random numbers from one seed."""

import zlib

import jax

from hmcvae.types import PRNGKey


def stream(seed: int, purpose: str) -> PRNGKey:
    """The key of one purpose. Keys made by `split(key(seed))` or `fold_in(key(seed), 0)` would be one and the same, so
    what a run draws for different ends is told apart by name."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), zlib.crc32(purpose.encode()))
