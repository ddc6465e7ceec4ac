"""What a posterior is: a Gaussian q(z | x) for each example, and the coordinates that it gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hmcvae._random import normal
from hmcvae.priors import gaussian_log_prob
from hmcvae.types import LogDensityFn, PRNGKey, PyTree, Scalar, Vector
from hmcvae.vae import Example


class Gaussian(NamedTuple):
    """q(z | x) of one example, in its own coordinates y:  z = c + A y,  y ~ N(m, diag(s)²).

    center: c, [d].  scale: A, [d, d]; None where y is z itself.  log_det: log |det A|.
    mean: m, [d].  log_scale: log s, [d].
    """

    center: Vector
    scale: Float[Array, "d d"] | None
    log_det: Scalar
    mean: Vector
    log_scale: Vector

    def to_position(self, y: Vector) -> Vector:
        """z = c + A y."""
        return y if self.scale is None else self.center + self.scale @ y

    def to_coordinates(self, z: Vector) -> Vector:
        """y = A⁻¹ (z - c)."""
        return z if self.scale is None else jnp.linalg.solve(self.scale, z - self.center)

    def matrix(self) -> Float[Array, "d d"]:
        """A, the identity where y is z."""
        return jnp.eye(len(self.mean), dtype=self.mean.dtype) if self.scale is None else self.scale

    def logdensity_fn(self, logdensity_fn: LogDensityFn) -> LogDensityFn:
        """y ↦ log p(x, c + A y) + log |det A|: the density that `logdensity_fn` has in these coordinates."""
        return lambda y: logdensity_fn(self.to_position(y)) + self.log_det

    def sample(self, rng_key: PRNGKey) -> Vector:
        """y = m + s ε, differentiable in the parameters (Kingma & Welling 2014, section 2.4)."""
        noise = normal(rng_key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self.log_scale) * noise

    def log_prob(self, y: Vector) -> Scalar:
        """log N(y; m, s²). In z it is this minus `log_det`."""
        return gaussian_log_prob(y, self.mean, self.log_scale)

    def score(self, y: Vector) -> Vector:
        """∇_z log q(z | x) = -A⁻ᵀ (y - m) / s², at z = c + A y."""
        whitened = (self.mean - y) * jnp.exp(-2 * self.log_scale)
        return whitened if self.scale is None else jnp.linalg.solve(self.scale.T, whitened)

    def path_log_prob(self, y: Vector) -> Scalar:
        """log q(z | x) at z = c + A y, whose gradient goes through z alone: the parameters of q itself are held."""
        z, held, fixed = self.to_position(y), lax.stop_gradient(self), lax.stop_gradient(y)
        # The score is taken for the derivative in z: A⁻¹ would have to be differentiated otherwise.
        return held.log_prob(fixed) - held.log_det + held.score(fixed) @ (z - lax.stop_gradient(z))

    def kl_divergence(self, mean: Vector, log_scale: Vector) -> Scalar:
        """KL(q(z | x) ‖ N(n, diag(t)²)) in closed form, in nats; of a prior with mean n and log_scale log t.

            ½ (|(c + A m - n) / t|² + |diag(1/t) A diag(s)|² - d) - log |det A| - Σ log s + Σ log t

        For N(0, I) it is that of Kingma & Welling (2014, appendix B).
        """
        shift = (self.to_position(self.mean) - mean) * jnp.exp(-log_scale)
        if self.scale is None:
            squares = jnp.sum(jnp.exp(2 * (self.log_scale - log_scale)))
        else:
            scales = jnp.exp(-log_scale)[:, None] * self.scale * jnp.exp(self.log_scale)[None]
            squares = jnp.sum(scales**2)
        log_volume = self.log_det + jnp.sum(self.log_scale) - jnp.sum(log_scale)
        return 0.5 * (jnp.sum(shift**2) + squares - len(shift)) - log_volume


@dataclass(frozen=True, eq=False)
class Posterior:
    """A family of Gaussians q(z | x), one for each example.

    Any will do: a bound written in the coordinates y of an invertible A(x), with c(x) drawn independently of y, is a
    bound on the same log p(x). With G = (A Aᵀ)⁻¹ a metric held constant, flat dynamics of y are those of z with mass
    matrix G: explicit, exactly volume preserving, at one metric for each example.

    init: `rng_key -> params`.
    build: `(params, rng_key, example) -> Gaussian`; an `Example` is what `VAE.encoded` returns.
    is_whitened: whether A carries the scales of q, so that in y it is near N(0, I). What refines a posterior needs
        that, and a centre at the mean.
    is_taught: whether `log_det` carries a gradient that is not its own (`distilled`), which an estimator of gradients
        that holds q's parameters would lose.
    """

    init: Callable[[PRNGKey], PyTree]
    build: Callable[[PyTree, PRNGKey, Example], Gaussian]
    is_whitened: bool = True
    is_taught: bool = False


def check_whitened(name: str, posterior: Posterior) -> None:
    """Raise ValueError unless `posterior` is one, in whitened coordinates."""
    if not isinstance(posterior, Posterior):
        raise ValueError(f"{name} needs one of hmcvae.posteriors, got {posterior!r}")
    if not posterior.is_whitened:
        raise ValueError(
            f"{name} needs a posterior in whitened coordinates, such as mean_field(whitened=True), got one in z itself"
        )


def check_fits(name: str, example: Example, latent_dim: int, num_features: int | None = None) -> None:
    """Raise ValueError unless a posterior's sizes are those that the encoder returns."""
    expected = [("latent_dim", latent_dim, jnp.shape(example.mean))]
    if num_features is not None:
        expected.append(("num_features", num_features, jnp.shape(example.features)))
    for what, count, shape in expected:
        if shape != (count,):
            came = "means" if what == "latent_dim" else "features"
            raise ValueError(
                f"posteriors.{name} was made with {what} = {count}, encode returns {came} of {shape}"
            )
