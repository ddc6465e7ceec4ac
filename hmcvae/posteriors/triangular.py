"""The Gaussian encoder of full covariance."""

import math

import jax
import jax.numpy as jnp

from hmcvae._checks import check_count, check_real
from hmcvae.posteriors._bounded import compressed
from hmcvae.posteriors.base import Gaussian, Posterior, check_fits
from hmcvae.types import PRNGKey, PyTree
from hmcvae.vae import Example

# A row of a learned A is compressed beyond this length: it is the standard deviation of z_i under A Aᵀ, and no
# posterior is much wider than the prior, whose is 1.
MAX_ROW = 2.0


def full_covariance(num_features: int, latent_dim: int, initial_scale: float = 0.0) -> Posterior:
    """A lower-triangular A(x) from a linear head on the encoder's features h(x): an amortised metric.

        A = diag(exp(log_scale(x))) (I + T(x)),   vec T = W h(x) + b strictly lower triangular,   y ~ N(0, s²)

    with learned W, b and s [d] (Kingma, Salimans et al. 2016, appendix A). Rows of A longer than `MAX_ROW` are
    compressed: one step of an optimiser moves all entries of W together, and with many features of one sign A would
    grow without bound in the first steps.

    Args:
        num_features: h.
        latent_dim: d.
        initial_scale: standard deviation of the initial W, over √h; 0 starts at the diagonal Gaussian.

    Raises:
        ValueError: unless num_features and latent_dim are whole numbers of at least 1 and initial_scale is finite.
    """
    initial_scale = check_real("initial_scale", initial_scale)
    num_features = check_count("num_features", num_features, 1)
    d = check_count("latent_dim", latent_dim, 1)
    rows, columns = jnp.tril_indices(d, -1)

    def init(rng_key: PRNGKey) -> PyTree:
        weights = jax.random.normal(rng_key, (len(rows), num_features)) / math.sqrt(num_features)
        return {
            "weights": initial_scale * weights,
            "bias": jnp.zeros(len(rows)),
            "log_scale": jnp.zeros(d),
        }

    def build(params: PyTree, rng_key: PRNGKey, example: Example) -> Gaussian:
        del rng_key
        check_fits("full_covariance", example, d, num_features)
        mean = example.mean
        entries = (params["weights"] @ example.features + params["bias"]).astype(mean.dtype)
        unit = jnp.eye(d, dtype=mean.dtype).at[rows, columns].set(entries)
        scale = jnp.exp(example.log_scale)[:, None] * unit
        shrink = compressed(scale, MAX_ROW)
        log_det = jnp.sum(example.log_scale + jnp.log(shrink))
        log_scale = params["log_scale"].astype(mean.dtype)
        return Gaussian(mean, shrink[:, None] * scale, log_det, jnp.zeros_like(mean), log_scale)

    return Posterior(init, build)
