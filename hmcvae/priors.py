"""Priors p(z) of a VAE, with or without parameters of their own.

A prior is four functions. `params` are the VAE's, the same that its encoder and decoder take, so that a prior may have
a place among them.

    log_prob(params, z)                 log p(z) in nats, normalised: a scalar
    sample(params, rng_key, shape)      z ~ p(z), of shape [..., d]
    precision(params, d)                Λ, what the decoder's Fisher metric G(z) = Jᵀ diag(w) J + Λ adds to the
                                        likelihood's part: a number, a diagonal [d], or a matrix [d, d]
    diagonal(params, d)                 (mean [d], log_scale [d]), for `elbo(kl="analytic")`; None for other priors
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hmcvae.types import PRNGKey, PyTree, Scalar, Vector

HALF_LOG_2PI = 0.5 * float(np.log(2 * np.pi))


def gaussian_log_prob(x: Vector, mean: Vector, log_scale: Vector) -> Scalar:
    """log N(x; mean, diag(exp(log_scale))²), normalised."""
    residual = (x - mean) * jnp.exp(-log_scale)
    return -jnp.sum(0.5 * residual**2 + log_scale + HALF_LOG_2PI)


@dataclass(frozen=True, eq=False)
class Prior:
    """See the module's docstring.

    Raises:
        ValueError: if one of the functions is none.
    """

    log_prob: Callable[[PyTree, Vector], Scalar]
    sample: Callable[[PyTree, PRNGKey, tuple[int, ...]], Any]
    precision: Callable[[PyTree, int], Any]
    diagonal: Callable[[PyTree, int], tuple[Vector, Vector]] | None = None
    name: str = "prior"

    def __post_init__(self):
        for name in ("log_prob", "sample", "precision"):
            if not callable(getattr(self, name)):
                raise ValueError(f"{name} of a prior must be a function, got {getattr(self, name)!r}")
        if not (self.diagonal is None or callable(self.diagonal)):
            raise ValueError(f"diagonal of a prior must be a function or None, got {self.diagonal!r}")


def standard_normal() -> Prior:
    """N(0, I) (Kingma & Welling 2014)."""

    def log_prob(params: PyTree, z: Vector) -> Scalar:
        del params
        return -jnp.sum(0.5 * z**2 + HALF_LOG_2PI)

    return Prior(
        log_prob,
        lambda params, rng_key, shape: jax.random.normal(rng_key, shape),
        lambda params, d: 1.0,
        lambda params, d: (jnp.zeros(d), jnp.zeros(d)),
        "standard_normal",
    )


def gaussian(get: Callable[[PyTree], tuple[Vector, Vector]]) -> Prior:
    """A diagonal Gaussian N(m, diag(s)²) with learned m and s.

    Args:
        get: `params -> (m [d], log s [d])`, from the VAE's parameters: `lambda params: params["prior"]` where these
            hold a pair of arrays.

    Raises:
        ValueError: unless get is a function.
    """
    if not callable(get):
        raise ValueError(f"get must be a function params -> (mean, log_scale), got {get!r}")

    def sample(params: PyTree, rng_key: PRNGKey, shape: tuple[int, ...]) -> Any:
        mean, log_scale = (jnp.broadcast_to(value, shape) for value in get(params))
        return mean + jnp.exp(log_scale) * jax.random.normal(rng_key, shape, mean.dtype)

    return Prior(
        lambda params, z: gaussian_log_prob(z, *get(params)),
        sample,
        lambda params, d: jnp.exp(-2 * get(params)[1]),
        lambda params, d: get(params),
        "gaussian",
    )
