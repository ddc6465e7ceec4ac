"""Likelihoods p(x | z) as functions of the decoder's output, and the data that each of them is defined for.

A `Likelihood` is four functions, of which `log_prob` is the equation and `fisher_weights` make the decoder's metric;
one of your own needs no more:

    laplace = Likelihood(
        log_prob=lambda f, x: -jnp.sum(jnp.abs(x - f) + jnp.log(2.0)),
        mean=lambda f: f,
        sample=lambda rng_key, f: f + jax.random.laplace(rng_key, f.shape),
        fisher_weights=jnp.ones_like,
    )

Images of bits and grey values are real numbers in [0, 1]; counts and classes are whole numbers.
"""

from hmcvae.likelihoods.base import (
    Likelihood,
    check_data,
    check_examples,
    check_finite,
    check_range,
    check_unit,
    check_whole,
    independent,
)
from hmcvae.likelihoods.binary import bernoulli
from hmcvae.likelihoods.classes import categorical
from hmcvae.likelihoods.counts import negative_binomial, poisson
from hmcvae.likelihoods.levels import discretised_logistic, discretised_logistic_mixture
from hmcvae.likelihoods.missing import masked
from hmcvae.likelihoods.real import gaussian

__all__ = [
    "Likelihood",
    "bernoulli",
    "categorical",
    "check_data",
    "check_examples",
    "check_finite",
    "check_range",
    "check_unit",
    "check_whole",
    "discretised_logistic",
    "discretised_logistic_mixture",
    "gaussian",
    "independent",
    "masked",
    "negative_binomial",
    "poisson",
]
