"""Reductions that see every NaN, and a constant that several rooms share.

XLA's CPU compiler may drop NaN in a `max` or `min` over the last axis once the array has a few thousand elements
(jax and jaxlib 0.10.2). The smallest reproduction:

    jax.jit(jax.vmap(lambda r: jnp.max(jnp.abs(r))))(jnp.full((1000, 10), jnp.nan))

gives -inf in every row; with 100 rows it gives NaN. Whether a value is finite is therefore never read off a maximum or
a minimum here, but asked of each entry (`any` and `all` of booleans are exact at every size), and every maximum that a
decision rests on is one of these.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hmcvae.types import Scalar

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def max_abs(x: Float[Array, "..."]) -> Scalar:
    """max |x|, and NaN where any entry is NaN; 0 of nothing."""
    return nan_max(jnp.abs(x), initial=0.0)


def nan_max(x: Float[Array, "..."], initial: float = -jnp.inf) -> Scalar:
    """max x, and NaN where any entry is NaN; `initial` of nothing."""
    largest = jnp.max(x, initial=initial)
    # The sum is NaN there; a NaN written down would stop a healthy run under `jax_debug_nans`.
    return jnp.where(jnp.isnan(x).any(), jnp.sum(x), largest)


def all_finite(*arrays: Float[Array, "..."]) -> Bool[Array, ""]:
    """Whether every entry of every array is a finite number."""
    return jnp.stack([jnp.isfinite(array).all() for array in arrays]).all()
