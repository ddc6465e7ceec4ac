"""Priors p(z) of a VAE, with or without parameters of their own.

A prior is four functions. `params` are the VAE's, the same that its encoder and decoder take, so that a prior may have
a place among them.

    log_prob(params, z)                 log p(z) in nats, normalised: a scalar
    sample(params, rng_key, shape)      z ~ p(z), of shape [..., d]
    precision(params, d)                Λ, what the decoder's Fisher metric G(z) = Jᵀ diag(w) J + Λ adds to the
                                        likelihood's part: a number, a diagonal [d], or a matrix [d, d]
    diagonal(params, d)                 (mean [d], log_scale [d]), for `elbo(kl="analytic")`; None for other priors
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hmcvae._checks import check_function
from hmcvae._numerics import HALF_LOG_2PI
from hmcvae._random import normal
from hmcvae.types import PRNGKey, PyTree, Scalar, Vector


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
    check_function("get", get, "params -> (mean, log_scale)")

    def sample(params: PyTree, rng_key: PRNGKey, shape: tuple[int, ...]) -> Any:
        mean, log_scale = (jnp.broadcast_to(value, shape) for value in get(params))
        return mean + jnp.exp(log_scale) * normal(rng_key, shape, mean.dtype)

    return Prior(
        lambda params, z: gaussian_log_prob(z, *get(params)),
        sample,
        lambda params, d: jnp.exp(-2 * get(params)[1]),
        lambda params, d: get(params),
        "gaussian",
    )


# params -> (logits [K], means [K, d], log scales [K, d])
Components = Callable[[PyTree], tuple[Float[Array, " K"], Float[Array, "K d"], Float[Array, "K d"]]]


def mixture(get: Components) -> Prior:
    """A mixture of K diagonal Gaussians with learned weights, means and scales:

        p(z) = Σ_k π_k N(z; m_k, diag(s_k)²),     π = softmax(logits)

    The Fisher metric needs one positive definite Λ, and a mixture's -∂² log p is neither positive nor the same
    everywhere: Λ is the precision of the Gaussian with the mixture's mean and covariance. Bounds and annealing use the
    density itself.

    Args:
        get: `params -> (logits [K], means [K, d], log_scales [K, d])`, from the VAE's parameters.

    Raises:
        ValueError: unless get is a function; and, when it is called, for other shapes.
    """
    check_function("get", get, "params -> (logits [K], means [K, d], log_scales [K, d])")

    def components(params: PyTree) -> tuple[Array, Array, Array]:
        logits, means, log_scales = get(params)
        if means.ndim != 2 or log_scales.shape != means.shape or logits.shape != means.shape[:1]:
            raise ValueError(
                "a mixture's get must return logits [K], means [K, d] and log_scales [K, d], got shapes "
                f"{logits.shape}, {means.shape} and {log_scales.shape}"
            )
        return logits, means, log_scales

    def log_prob(params: PyTree, z: Vector) -> Scalar:
        logits, means, log_scales = components(params)
        own = jax.vmap(gaussian_log_prob, (None, 0, 0))(z, means, log_scales)
        return jax.nn.logsumexp(jax.nn.log_softmax(logits) + own)

    def sample(params: PyTree, rng_key: PRNGKey, shape: tuple[int, ...]) -> Any:
        logits, means, log_scales = components(params)
        which_key, normal_key = jax.random.split(rng_key)
        which = jax.random.categorical(which_key, logits, shape=shape[:-1])
        return means[which] + jnp.exp(log_scales[which]) * normal(normal_key, shape, means.dtype)

    def precision(params: PyTree, latent_dim: int) -> Any:
        logits, means, log_scales = components(params)
        probs = jax.nn.softmax(logits)
        centred = means - (probs @ means)[None]
        covariance = (probs[:, None] * centred).T @ centred + jnp.diag(probs @ jnp.exp(2 * log_scales))
        inverse = jnp.linalg.inv(covariance)
        return 0.5 * (inverse + inverse.T)

    return Prior(log_prob, sample, precision, name="mixture")


def vamp(
    encode: Callable[[PyTree, Any], tuple[Vector, Vector, Any]],
    get: Callable[[PyTree], tuple[Any, Float[Array, " K"]]],
) -> Prior:
    """The VampPrior (Tomczak & Welling 2018): a `mixture` of the encoder's Gaussians at K learned pseudo-inputs u_k,

        p(z) = Σ_k π_k q(z | u_k).

    Args:
        encode: the VAE's, `(params, x) -> (mean, log_scale, features)`.
        get: `params -> (u [K, …], logits [K])`, u a pytree of arrays as the encoder takes them: pixels as
            `jax.nn.sigmoid` of free parameters, say. Equal weights, as in the paper: `lambda params:
            (params["u"], jnp.zeros(K))`.

    Raises:
        ValueError: unless both are functions.
    """
    check_function("encode", encode, "(params, x) -> (mean, log_scale, features)")
    check_function("get", get, "params -> (pseudo-inputs [K, …], logits [K])")

    def components(params: PyTree) -> tuple[Array, Array, Array]:
        inputs, logits = get(params)
        means, log_scales, _ = jax.vmap(encode, (None, 0))(params, inputs)
        return logits, means, log_scales

    return dataclasses.replace(mixture(components), name="vamp")
