"""Lower bounds on log p(x), per example, as pure functions to be vmapped over a batch.

A bound is called as `log_weight, info = bound(params, rng_key, x)` with `params = {"vae": …, "bound": …}`:
E[log_weight] ≤ log p(x) is the bound, and E[exp(log_weight)] = p(x) (except for `elbo(kl="analytic")`, which says so).
"""

from hmcvae.bounds.base import Bound, BoundInfo, check_params, importance_weighted, log_mean_exp
from hmcvae.bounds.chain import inverse_temperatures, markov_chain
from hmcvae.bounds.evidence import elbo, iwae
from hmcvae.bounds.hamiltonian import hvi, rhvi, uha

__all__ = [
    "Bound",
    "BoundInfo",
    "check_params",
    "elbo",
    "hvi",
    "importance_weighted",
    "inverse_temperatures",
    "iwae",
    "log_mean_exp",
    "markov_chain",
    "rhvi",
    "uha",
]
