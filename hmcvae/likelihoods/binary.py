"""Bits."""

from typing import Any

import jax

from hmcvae._random import happens
from hmcvae._softplus import softplus
from hmcvae.likelihoods.base import Likelihood, Pixels, check_unit, independent


def bernoulli() -> Likelihood:
    """Independent bits with logits f: log p = Σ x f - log(1 + exp f).

    The expression is also defined for grey values x in [0, 1], where it is the cross-entropy and no density.
    Fisher weights: w = σ(f) σ(-f), exact.
    """

    def terms(logits: Pixels, x: Pixels) -> Pixels:
        return x * logits - softplus(logits)

    def sample(rng_key: Any, logits: Pixels) -> Pixels:
        return happens(rng_key, jax.nn.sigmoid(logits)).astype(logits.dtype)

    def fisher_weights(logits: Pixels) -> Pixels:
        return jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)

    return independent(terms, jax.nn.sigmoid, sample, fisher_weights, 1, "bernoulli", check=check_unit)
