"""Every posterior on the linear Gaussian model, and the bounds in its coordinates."""

import jax

import hmcvae
from hmcvae import bounds, posteriors
from tests.support import models
from tests.support.weights import PARAMS, WHITE, X

VAE = WHITE
WHITENED = posteriors.mean_field(whitened=True)
POSTERIORS = {
    "mean field": WHITENED,
    "amortised": posteriors.full_covariance(models.FEATURES, models.LATENT, 0.5),
    "fisher": posteriors.fisher(models.LATENT),
    "sketched": posteriors.fisher(models.LATENT, num_probes=3),
    "low rank": posteriors.low_rank(
        posteriors.full_covariance(models.FEATURES, models.LATENT, 0.5), models.FEATURES, models.LATENT, 1
    ),
    "low rank, random": posteriors.low_rank(
        WHITENED, models.FEATURES, models.LATENT, 1, random_directions=True
    ),
    "low rank, refined": posteriors.gauss_newton(
        posteriors.low_rank(WHITENED, models.FEATURES, models.LATENT, 1)
    ),
    "amortised, refined twice": posteriors.gauss_newton(
        posteriors.full_covariance(models.FEATURES, models.LATENT, 0.5), 2
    ),
    "fisher, refined": posteriors.gauss_newton(posteriors.fisher(models.LATENT)),
    "fisher, refined afresh": posteriors.gauss_newton(posteriors.fisher(models.LATENT), 2, fresh=True),
}


def make(name: str, num_transitions: int = 2, num_steps: int = 2) -> bounds.Bound:
    if num_transitions == 0:
        return bounds.elbo(VAE, posterior=POSTERIORS[name])
    return bounds.hvi(
        VAE,
        posterior=POSTERIORS[name],
        reverse=models.conditional(0.15),
        num_transitions=num_transitions,
        num_steps=num_steps,
        initial_step_size=0.3,
    )


def build(
    posterior: posteriors.Posterior, own: dict, x: jax.Array = X, vae: hmcvae.VAE = VAE, params: dict = PARAMS
):
    return posterior.build(own, jax.random.key(1), vae.encoded(params, x))
