"""Draws from the model itself, of which a posterior draw is known."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hmcvae._checks import check_count
from hmcvae.types import PRNGKey, PyTree, Vector
from hmcvae.vae import VAE


def simulate(
    vae: VAE,
    params: PyTree,
    rng_key: PRNGKey,
    num_examples: int,
    latent_dim: int | None = None,
    *,
    conditions: PyTree = None,
) -> tuple[Float[Array, "n d"], Any]:
    """(z, x) drawn from the model itself: z ~ p(z), x ~ p(x | z). So z is an exact draw of p(z | x).

    Args:
        params: params["vae"].
        latent_dim: d, by default the VAE's.
        conditions: c [n, …] of a conditional VAE, whose examples are pairs (x, c).

    Raises:
        ValueError: unless num_examples ≥ 1 and d is known, and there are conditions, n of them, where the VAE has such.
    """
    num_examples = check_count("num_examples", num_examples, 1)
    d = vae.latent_dim if latent_dim is None else check_count("latent_dim", latent_dim, 1)
    if d is None:
        raise ValueError("latent_dim must be given for a VAE that does not say it, got None")
    position_key, example_key = jax.random.split(rng_key)
    positions = vae.prior.sample(params, position_key, (num_examples, d))

    own = () if conditions is None else (jax.tree.map(jnp.asarray, conditions),)
    counts = {leaf.shape[:1] for leaf in jax.tree.leaves(own)}
    if counts not in (set(), {(num_examples,)}):
        raise ValueError(f"expected conditions [{num_examples}, …], got lengths {sorted(counts)}")

    def draw(key: PRNGKey, z: Vector, *condition: PyTree) -> Any:
        return vae.likelihood.sample(key, vae.decode_given(params, z, *condition))

    xs = jax.vmap(draw)(jax.random.split(example_key, num_examples), positions, *own)
    return positions, (xs, *own) if own else xs
