"""Missing entries."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from hmcvae._checks import kind_of
from hmcvae.likelihoods.base import Likelihood, where_observed
from hmcvae.types import PyTree


def masked(likelihood: Likelihood) -> Likelihood:
    """p(observed entries | z): examples are pairs (values, mask), where the mask is 1 where a value is observed and 0
    where it is missing, whatever stands there (NaN too).

        log p = Σ over observed entries of log p(x_i | z),     Fisher weights: 0 for the missing ones

    A bound with it is a bound on log p(observed | model) where values are missing at random (Little & Rubin 1987;
    Nazábal, Olmos, Ghahramani & Valera 2020). The encoder is given the pair, and must replace a NaN
    itself, as by `jnp.where(mask == 1, values, 0)`. `mean` gives all entries, so it fills in the missing ones. `sample`
    gives the pair, with all entries observed.

    Raises:
        ValueError: for a likelihood whose entries are not independent given z (it has no `terms`), or that is masked.
    """
    if not isinstance(likelihood, Likelihood):
        raise ValueError(f"masked needs one of hmcvae.likelihoods, such as bernoulli(), got {likelihood!r}")
    terms = likelihood.terms
    if terms is None:
        raise ValueError(
            f"masked needs a likelihood of independent entries, with `terms`, got {likelihood.name!r}: give it terms, "
            "`(outputs, x) -> array shaped like x`"
        )
    if likelihood.observed is not None:
        raise ValueError("masked needs a likelihood that is not masked already, got one that is")

    def masked_terms(outputs: PyTree, x: Any) -> Array:
        values, mask = x
        is_observed = jnp.asarray(mask) == 1
        values = jnp.asarray(values)
        values = jnp.where(is_observed, values, _stand_in(values, is_observed))
        own = terms(jax.tree.map(lambda output: where_observed(is_observed, output), outputs), values)
        if jnp.shape(own) != values.shape:
            raise ValueError(
                f"terms of the likelihood {likelihood.name} must be shaped like the values, {list(values.shape)}, got "
                f"{list(jnp.shape(own))}"
            )
        return jnp.where(is_observed, own, jnp.zeros_like(own))

    def log_prob(outputs: PyTree, x: Any) -> Array:
        return jnp.sum(masked_terms(outputs, x))

    def sample(rng_key: Any, outputs: PyTree) -> tuple[Array, Array]:
        values = likelihood.sample(rng_key, outputs)
        return values, jnp.ones_like(values)

    def check_outputs(outputs: PyTree, x: Any) -> None:
        values, mask = _as_pair(x)
        if jnp.shape(values) != jnp.shape(mask):
            raise ValueError(
                f"the mask must be shaped like the values, {jnp.shape(values)}, got {jnp.shape(mask)}"
            )
        likelihood.check_outputs(outputs, values)

    return likelihood._replace(
        log_prob=log_prob,
        terms=masked_terms,
        sample=sample,
        name=f"masked {likelihood.name}",
        check_outputs=check_outputs,
        observed=_as_pair,
    )


def _stand_in(values: Array, is_observed: Array) -> Array:
    """For missing values, so that nothing made of them is NaN: 0 is in the support of the likelihoods here, and of
    another one an observed value is, of which there is at least one where a gradient is asked for."""
    if not values.size:
        return values
    first = jnp.argmax(is_observed)
    return jnp.where(is_observed.any(), values.reshape(-1)[first], jnp.zeros_like(values, shape=()))


def _as_pair(x: Any) -> tuple[Any, Any]:
    """(values, mask).

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(x, (tuple, list)) or len(x) != 2:
        raise ValueError(
            f"a masked likelihood takes examples that are pairs (values, mask), got {kind_of(x)}"
        )
    return x[0], x[1]
