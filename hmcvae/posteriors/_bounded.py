"""What keeps a learned posterior harmless while it is wrong, and is nothing at all once it is right."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def compressed(vectors: Float[Array, "... d"], radius: float) -> Float[Array, "..."]:
    """The factor that shortens vectors of length l by

        l ↦ l where l ≤ r,   r (1 + log(l / r)) beyond.

    Nothing inside, slow outside, with a continuous derivative, which by log l is r outside: never 0, so that what is
    too long can learn to be shorter. Finite derivatives at l = 0 too, and at lengths whose squares overflow.
    """
    peak = lax.stop_gradient(jnp.maximum(jnp.abs(vectors).max(-1), radius))
    square = jnp.sum((vectors / peak[..., None]) ** 2, axis=-1)
    is_long = square * (peak / radius) ** 2 > 1
    log_ratio = jnp.where(
        is_long, 0.5 * jnp.log(jnp.where(is_long, square, 1.0)) + jnp.log(peak / radius), 0.0
    )
    return (1 + log_ratio) * jnp.exp(-log_ratio)
