"""Diagonal Gaussians: the encoder's own, and N(0, I)."""

import jax.numpy as jnp

from hmcvae._checks import check_flag
from hmcvae.posteriors.base import Gaussian, Posterior
from hmcvae.types import PRNGKey, PyTree
from hmcvae.vae import Example


def mean_field(whitened: bool = False) -> Posterior:
    """The encoder's diagonal Gaussian N(μ(x), σ(x)²) (Kingma & Welling 2014).

    Its coordinates are z itself; or, whitened, y = (z - μ) / σ, in which it is N(0, I): flat dynamics of y are those of
    z with per-example masses 1 / σ².

    Raises:
        ValueError: unless whitened is True or False.
    """
    if check_flag("whitened", whitened):
        return Posterior(lambda _: {}, _whitened)
    return Posterior(lambda _: {}, _plain, is_whitened=False)


def _plain(params: PyTree, rng_key: PRNGKey, example: Example) -> Gaussian:
    del params, rng_key
    mean = example.mean
    return Gaussian(jnp.zeros_like(mean), None, jnp.zeros((), mean.dtype), mean, example.log_scale)


def _whitened(params: PyTree, rng_key: PRNGKey, example: Example) -> Gaussian:
    del params, rng_key
    scale, zero = jnp.diag(jnp.exp(example.log_scale)), jnp.zeros_like(example.mean)
    return Gaussian(example.mean, scale, jnp.sum(example.log_scale), zero, zero)


def standard_normal() -> Posterior:
    """N(0, I), whatever x: where annealing starts that knows nothing of the encoder."""

    def build(params: PyTree, rng_key: PRNGKey, example: Example) -> Gaussian:
        del params, rng_key
        zero = jnp.zeros_like(example.mean)
        return Gaussian(zero, None, jnp.zeros((), zero.dtype), zero, zero)

    return Posterior(lambda _: {}, build, is_whitened=False)
