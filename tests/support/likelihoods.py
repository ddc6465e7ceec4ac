"""One likelihood of each kind."""

from hmcvae import likelihoods

MAKERS = {
    "bernoulli": likelihoods.bernoulli,
    "gaussian, fixed": lambda: likelihoods.gaussian(0.7),
    "gaussian, learned": likelihoods.gaussian,
    "discretised logistic": likelihoods.discretised_logistic,
}
