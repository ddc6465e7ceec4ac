"""The evidence lower bound, and its importance-weighted form."""

import jax.numpy as jnp

from hmcvae.bounds.base import Bound, BoundInfo, importance_weighted
from hmcvae.bounds.chain import make_build
from hmcvae.posteriors import Posterior, mean_field
from hmcvae.solvers import exact_info
from hmcvae.transitions import Target
from hmcvae.types import ArrayLike, PRNGKey, PyTree
from hmcvae.vae import VAE


def elbo(vae: VAE, *, posterior: Posterior | None = None, kl: str = "sampled") -> Bound:
    """The evidence lower bound of a VAE (Kingma & Welling 2014, eq. 2-3).

        kl="sampled":   log p(x, z) - log q(z | x),  z ~ q;   E[exp] = p(x)
        kl="analytic":  log p(x | z) - KL(q ‖ p);             the same mean, but exp of it is no estimate of p(x)

    Args:
        vae: the model.
        posterior: q, from `hmcvae.posteriors`; None is `mean_field()`, the encoder's diagonal Gaussian.
        kl: see above.

    Raises:
        ValueError: if `kl` is neither, or "analytic" with a prior that is no diagonal Gaussian; or posterior is not one
            of `hmcvae.posteriors`.
    """
    if kl not in ("sampled", "analytic"):
        raise ValueError(f'kl must be "sampled" or "analytic", got {kl!r}')
    if kl == "analytic" and vae.prior.diagonal is None:
        raise ValueError(f'kl="analytic" needs a diagonal Gaussian as prior, got {vae.prior.name}')
    posterior = mean_field() if posterior is None else posterior
    build = make_build(vae, posterior)

    def draw(params: PyTree, rng_key: PRNGKey, target: Target, kl_weight: ArrayLike):
        del params
        q = target.coordinates
        y = q.sample(rng_key)
        z = q.to_position(y)
        log_likelihood = vae.log_likelihood(target.example.params, target.example.x, z)
        if kl == "sampled":
            cost = q.log_prob(y) - q.log_det - target.example.log_prior(z)
        else:
            assert vae.prior.diagonal is not None
            moments = vae.prior.diagonal(target.example.params, z.shape[0])
            cost = q.kl_divergence(*(value.astype(z.dtype) for value in moments))
        log_weight = log_likelihood - jnp.asarray(kl_weight, z.dtype) * cost
        info = BoundInfo(log_weight, log_likelihood, z, z, jnp.zeros_like(log_weight), exact_info(z.dtype))
        return log_weight, info

    return Bound(
        vae,
        lambda rng_key: {"posterior": posterior.init(rng_key)},
        build,
        draw,
        f"elbo, {kl} KL",
        is_unbiased=kl == "sampled",
    )


def iwae(vae: VAE, *, num_samples: int, posterior: Posterior | None = None) -> Bound:
    """The importance-weighted auto-encoder (Burda et al. 2016): `importance_weighted(elbo(vae), num_samples)`."""
    return importance_weighted(elbo(vae, posterior=posterior), num_samples)
