"""The evidence lower bound, and its importance-weighted form."""

import jax.numpy as jnp

from hmcvae.bounds.base import PATH, TOTAL, Bound, BoundInfo, Draw, importance_weighted
from hmcvae.bounds.chain import make_build
from hmcvae.posteriors import Posterior, mean_field
from hmcvae.solvers import exact_info
from hmcvae.transitions import Target
from hmcvae.types import ArrayLike, PRNGKey, PyTree, Scalar, Vector
from hmcvae.vae import VAE


def elbo(
    vae: VAE, *, posterior: Posterior | None = None, kl: str = "sampled", gradient: str = TOTAL
) -> Bound:
    """The evidence lower bound of a VAE (Kingma & Welling 2014, eq. 2-3).

        kl="sampled":   log p(x, z) - log q(z | x),  z ~ q;   E[exp] = p(x)
        kl="analytic":  log p(x | z) - KL(q ‖ p);             the same mean, but exp of it is no estimate of p(x)

    Args:
        vae: the model.
        posterior: q, from `hmcvae.posteriors`; None is `mean_field()`, the encoder's diagonal Gaussian.
        kl: see above.
        gradient: "total" is that of the draw. "sticking_the_landing" leaves out what it has of q's parameters at fixed
            z, -∂ log q(z | x) / ∂λ, whose mean is 0 (Roeder, Wu & Duvenaud 2017): the same value and the same mean
            gradient, without variance where q is exact. λ are the centre, the factor and the scales of q, whatever
            they are made of.

    Raises:
        ValueError: if `kl` or `gradient` is neither of its two, or "analytic" with a prior that is no diagonal
            Gaussian; if posterior is not one of `hmcvae.posteriors`; or for "sticking_the_landing" with an analytic KL,
            which has no such part, or with a distilled posterior, which would no longer learn.
    """
    if kl not in ("sampled", "analytic"):
        raise ValueError(f'kl must be "sampled" or "analytic", got {kl!r}')
    if kl == "analytic" and vae.prior.diagonal is None:
        raise ValueError(f'kl="analytic" needs a diagonal Gaussian as prior, got {vae.prior.name}')
    if gradient not in (TOTAL, PATH):
        raise ValueError(f'gradient must be "{TOTAL}" or "{PATH}", got {gradient!r}')
    posterior = mean_field() if posterior is None else posterior
    build = make_build(vae, posterior)
    has_path = kl == "sampled" and not posterior.is_taught
    if gradient == PATH and not has_path:
        came = 'kl="analytic"' if kl == "analytic" else "a distilled posterior"
        raise ValueError(
            f'gradient="{PATH}" needs kl="sampled" and a posterior that is not distilled, got {came}'
        )

    def cost_of(target: Target, y: Vector, z: Vector, is_path: bool) -> Scalar:
        q, example = target.coordinates, target.example
        if kl == "sampled":
            log_q = q.path_log_prob(y) if is_path else q.log_prob(y) - q.log_det
            return log_q - example.log_prior(z)
        assert vae.prior.diagonal is not None
        moments = vae.prior.diagonal(example.params, z.shape[0])
        return q.kl_divergence(*(value.astype(z.dtype) for value in moments))

    def make_draw(is_path: bool) -> Draw:
        def draw(params: PyTree, rng_key: PRNGKey, target: Target, kl_weight: ArrayLike):
            del params
            y = target.coordinates.sample(rng_key)
            z = target.coordinates.to_position(y)
            log_likelihood = vae.log_likelihood(target.example.params, target.example.x, z)
            cost = cost_of(target, y, z, is_path)
            log_weight = log_likelihood - jnp.asarray(kl_weight, z.dtype) * cost
            zero = jnp.zeros_like(log_weight)
            return log_weight, BoundInfo(log_weight, log_likelihood, z, z, zero, exact_info(z.dtype))

        return draw

    return Bound(
        vae,
        lambda rng_key: {"posterior": posterior.init(rng_key)},
        build,
        make_draw(gradient == PATH),
        f"elbo, {kl} KL",
        is_unbiased=kl == "sampled",
        path_draw=make_draw(True) if has_path else None,
        gradient=gradient,
    )


def iwae(vae: VAE, *, num_samples: int, posterior: Posterior | None = None, gradient: str = TOTAL) -> Bound:
    """The importance-weighted auto-encoder (Burda et al. 2016): `importance_weighted` of `elbo(vae)`."""
    return importance_weighted(elbo(vae, posterior=posterior), num_samples, gradient=gradient)
