"""Posteriors: a Gaussian q(z | x) for each example, and the coordinates y that it gives, z = c(x) + A(x) y.

`mean_field` (the encoder's own), `full_covariance` (a learned factor) and `fisher` (the decoder's information) are
whole posteriors; `low_rank`, `gauss_newton` and `distilled` make a better one of another.
"""

from hmcvae.posteriors.base import Gaussian, Posterior
from hmcvae.posteriors.diagonal import mean_field, standard_normal
from hmcvae.posteriors.information import decoder_metric, fisher, low_rank
from hmcvae.posteriors.refinement import distilled, gauss_newton, step_sizes
from hmcvae.posteriors.triangular import full_covariance

__all__ = [
    "Gaussian",
    "Posterior",
    "decoder_metric",
    "distilled",
    "fisher",
    "full_covariance",
    "gauss_newton",
    "low_rank",
    "mean_field",
    "standard_normal",
    "step_sizes",
]
