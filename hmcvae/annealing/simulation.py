"""Draws from the model itself, of which a posterior draw is known."""

import jax
from jaxtyping import Array, Float

from hmcvae._checks import check_count
from hmcvae.types import PRNGKey, PyTree, Vector
from hmcvae.vae import VAE


def simulate(
    vae: VAE, params: PyTree, rng_key: PRNGKey, num_examples: int, latent_dim: int | None = None
) -> tuple[Float[Array, "n d"], Float[Array, "n ..."]]:
    """(z, x) drawn from the model itself: z ~ p(z), x ~ p(x | z). So z is an exact draw of p(z | x).

    Args:
        params: params["vae"].
        latent_dim: d, by default the VAE's.

    Raises:
        ValueError: unless num_examples ≥ 1 and d is known.
    """
    num_examples = check_count("num_examples", num_examples, 1)
    d = vae.latent_dim if latent_dim is None else check_count("latent_dim", latent_dim, 1)
    if d is None:
        raise ValueError("latent_dim must be given for a VAE that does not say it, got None")
    position_key, example_key = jax.random.split(rng_key)
    positions = vae.prior.sample(params, position_key, (num_examples, d))

    def draw(key: PRNGKey, z: Vector) -> Array:
        return vae.likelihood.sample(key, vae.decode(params, z))

    return positions, jax.vmap(draw)(jax.random.split(example_key, num_examples), positions)
