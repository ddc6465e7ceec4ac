"""Independent streams of random numbers from one seed, numbers of every precision, and some for loops."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from hmcvae.types import PRNGKey


def stream(seed: int, purpose: str) -> PRNGKey:
    """The key of one purpose. Keys made by `split(key(seed))` or `fold_in(key(seed), 0)` would be one and the same, so
    what a run draws for different ends is told apart by name."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), zlib.crc32(purpose.encode()))


def normal(rng_key: PRNGKey, shape: tuple[int, ...], dtype: Any) -> Array:
    """N(0, 1). In half precision drawn in single and rounded: of its own uniform numbers, which are multiples of 2⁻⁷,
    JAX makes bfloat16 numbers none of which is beyond 2.9."""
    return jax.random.normal(rng_key, shape, _at_least_single(dtype)).astype(dtype)


def happens(rng_key: PRNGKey, probability: Float[Array, "..."]) -> Bool[Array, "..."]:
    """True with these probabilities, by uniform numbers of at least single precision: one of bfloat16 is 0 once in a
    hundred times, and with it happens what has hardly a probability at all."""
    dtype = _at_least_single(probability.dtype)
    return jax.random.uniform(rng_key, probability.shape, dtype) < probability


def _at_least_single(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)


# Threefry-2x32 (Salmon, Moraes, Dror & Shaw 2011, section 4.3): its rotations, and the constant of its key schedule.
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two words of 32 random bits: Threefry-2x32 in 20 rounds, the function that JAX's own keys rest on.

    Written out, where `jax.random` has a loop: XLA makes one kernel of it with what it feeds. On a CPU that loop is
    five turns of some fifteen kernels, as much as the rest of a small integrator step.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    x, y = counter[0] + schedule[0], counter[1] + schedule[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = ((y << rotation) | (y >> (32 - rotation))) ^ x
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y


def uniform_at(
    seed: UInt32[Array, " 2"], purpose: int, index: Int[Array, ""], dtype: Any
) -> Float[Array, ""]:
    """A uniform number in [0, 1): the one with this index, of those for one purpose.

    `seed` is two words from `jax.random.bits`. As many bits as the dtype's significand has, up to 53.
    """
    x, y = threefry((seed[0], seed[1]), (jnp.uint32(purpose), index.astype(jnp.uint32)))
    num_bits = min(jnp.finfo(dtype).nmant + 1, 53)
    if num_bits <= 32:
        return (x >> (32 - num_bits)).astype(dtype) * jnp.asarray(2.0**-num_bits, dtype)
    high = (x >> 5).astype(dtype) * jnp.asarray(2.0**26, dtype)
    return (high + (y >> 6).astype(dtype)) * jnp.asarray(2.0**-53, dtype)
