"""Affine coordinates on the latent space, one chart for each datum, in which its posterior is nearly standard.

A chart gives, for each x, a centre c and a matrix A, z = c + A y. With G = (A Aᵀ)⁻¹ a metric held constant, the flat
dynamics of y are those of z with mass matrix G: explicit, exactly volume preserving, at one metric a datum. The density
of y is p(x, c + A y) |det A|, so for *any* invertible A(x) and any c(x), drawn independently of y, a bound written in
y is a bound on the same log p(x).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from hmcvae import metrics
from hmcvae._checks import check_count
from hmcvae.types import LogDensityFn, PRNGKey, PyTree, Scalar, Vector
from hmcvae.vae import VAE, Image, Posterior

# Of a round of recentring: γ in (0, MAX_STEP), at first FIRST_STEP.
MAX_STEP, FIRST_STEP = 1.5, 0.5


class Frame(NamedTuple):
    """z = center + scale @ y, with y_0 ~ N(0, exp(log_scale)²).

    center: c, [d].  scale: A, [d, d].  log_det: log |det A|.  log_scale: [d], of the starting density of y.
    """

    center: Vector
    scale: Float[Array, "d d"]
    log_det: Scalar
    log_scale: Vector

    def to_position(self, y: Vector) -> Vector:
        """z = c + A y."""
        return self.center + self.scale @ y

    def logdensity_fn(self, logdensity_fn: LogDensityFn) -> LogDensityFn:
        """y ↦ log p(x, c + A y) + log |det A|: the density that `logdensity_fn` has in these coordinates."""
        return lambda y: logdensity_fn(self.to_position(y)) + self.log_det


class Chart(NamedTuple):
    """init: `rng_key -> params`.
    build: `(params, rng_key, vae, vae_params, x, posterior) -> Frame` of one example."""

    init: Callable[[PRNGKey], PyTree]
    build: Callable[[PyTree, PRNGKey, VAE, PyTree, Image, Posterior], Frame]


def diagonal() -> Chart:
    """c and A = diag exp(log_scale) from the encoder: the coordinates in which q(z | x) is N(0, I).

    Masses of each datum's own, the inverse variances of its Gaussian: the least of the whitened families.
    """

    def build(
        params: PyTree, rng_key: PRNGKey, vae: VAE, vae_params: PyTree, x: Image, posterior: Posterior
    ) -> Frame:
        del params, rng_key, vae, vae_params, x
        log_scale = posterior.log_scale
        return Frame(
            posterior.mean, jnp.diag(jnp.exp(log_scale)), jnp.sum(log_scale), jnp.zeros_like(log_scale)
        )

    return Chart(lambda _: {}, build)


def standard() -> Chart:
    """y = z with y_0 ~ N(0, I): the prior, whatever x. Where annealing starts that knows nothing of the encoder."""

    def build(
        params: PyTree, rng_key: PRNGKey, vae: VAE, vae_params: PyTree, x: Image, posterior: Posterior
    ) -> Frame:
        del params, rng_key, vae, vae_params, x
        zero = jnp.zeros_like(posterior.mean)
        return Frame(zero, jnp.eye(len(zero), dtype=zero.dtype), jnp.zeros((), zero.dtype), zero)

    return Chart(lambda _: {}, build)


def amortised(num_features: int, latent_dim: int, initial_scale: float = 0.0) -> Chart:
    """A lower-triangular A(x) from a linear head on the encoder's features h(x).

        A = diag(exp(log_scale(x))) (I + T(x)),   vec T = W h(x) + b strictly lower triangular,   y_0 ~ N(0, s²)

    with learned W, b and s [d]. Without dynamics it is the Gaussian encoder of full covariance (Kingma, Salimans et
    al. 2016, appendix A).

    Args:
        num_features: h.
        latent_dim: d.
        initial_scale: standard deviation of the initial W, over √h; 0 starts at the diagonal Gaussian.

    Raises:
        ValueError: unless num_features and latent_dim are whole numbers of at least 1.
    """
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

    def build(
        params: PyTree, rng_key: PRNGKey, vae: VAE, vae_params: PyTree, x: Image, posterior: Posterior
    ) -> Frame:
        del rng_key, vae, vae_params, x
        dtype = posterior.mean.dtype
        entries = (params["weights"] @ posterior.features + params["bias"]).astype(dtype)
        unit = jnp.eye(d, dtype=dtype).at[rows, columns].set(entries)
        scale = jnp.exp(posterior.log_scale)[:, None] * unit
        return Frame(posterior.mean, scale, jnp.sum(posterior.log_scale), params["log_scale"].astype(dtype))

    return Chart(init, build)


def fisher(latent_dim: int, num_probes: int | None = None) -> Chart:
    """A = L⁻ᵀ with L Lᵀ = G(μ), the decoder's Fisher information at the encoder's mean μ(x) and a learned diagonal:

        G = exp(a) Jᵀ diag(w) J + diag(exp(λ)),   J = ∂ decode / ∂z at μ(x),   y_0 ~ N(0, s(x)²)

    w are the likelihood's Fisher weights; a and λ [d] are learned, at first 0 (λ = 0 is the prior's precision; at
    a → -∞ the chart is that of flat dynamics with learned masses). s(x) is the encoder's `log_scale`, read in these
    coordinates. J is d derivatives forward as one wide product; the gradient goes through G(μ(x)) to the encoder too.

    Args:
        latent_dim: d.
        num_probes: k: replace Jᵀ diag(w) J by its unbiased estimate (1/k) Σ_i g_i g_iᵀ, g_i = Jᵀ w^{1/2} ε_i with
            ε_i ~ N(0, I): k derivatives backward. The bound is valid given any ε, so also on average.

    Raises:
        ValueError: unless latent_dim, and num_probes if given, are whole numbers of at least 1.
    """
    d = check_count("latent_dim", latent_dim, 1)
    if num_probes is not None:
        num_probes = check_count("num_probes", num_probes, 1)

    def init(rng_key: PRNGKey) -> PyTree:
        del rng_key
        return {"log_weight": jnp.zeros(()), "log_precision": jnp.zeros(d)}

    def build(
        params: PyTree, rng_key: PRNGKey, vae: VAE, vae_params: PyTree, x: Image, posterior: Posterior
    ) -> Frame:
        del x
        mean = posterior.mean
        precision = jnp.exp(params["log_precision"]).astype(mean.dtype)
        weight = jnp.exp(params["log_weight"]).astype(mean.dtype)

        def predict(z: Vector) -> PyTree:
            return vae.decode(vae_params, z)

        def weights(outputs: PyTree) -> PyTree:
            return jax.tree.map(lambda w: weight * w, vae.likelihood.fisher_weights(outputs))

        if num_probes is None:
            # linear is not to be found out by tracing: the decoder's parameters are traced themselves.
            G = metrics.fisher(predict, weights, precision, linear=False).tensor(mean)
        else:
            G = jnp.diag(precision) + _sketch(rng_key, predict, weights, mean, num_probes)
        lower = jnp.linalg.cholesky(G)
        inverse = solve_triangular(lower, jnp.eye(d, dtype=mean.dtype), lower=True)
        return Frame(mean, inverse.T, -jnp.sum(jnp.log(jnp.diag(lower))), posterior.log_scale)

    return Chart(init, build)


def _sketch(
    rng_key: PRNGKey, predict: Callable, weight_fn: Callable, z: Vector, num_probes: int
) -> Float[Array, "d d"]:
    """(1/k) Σ g gᵀ, g = Jᵀ w^{1/2} ε."""
    outputs, pull_back = jax.vjp(predict, z)
    weights = weight_fn(outputs)
    leaves, structure = jax.tree.flatten(weights)
    keys = jax.random.split(rng_key, len(leaves))
    # Where a weight underflows to 0 its root has no derivative.
    roots = [jnp.sqrt(jnp.maximum(leaf, jnp.finfo(leaf.dtype).tiny)) for leaf in leaves]
    noise = [
        root[None] * jax.random.normal(key, (num_probes, *root.shape), root.dtype)
        for key, root in zip(keys, roots, strict=True)
    ]
    g = jax.vmap(lambda cotangent: pull_back(cotangent)[0])(jax.tree.unflatten(structure, noise))
    return g.T @ g / num_probes


def recentred(chart: Chart, num_rounds: int = 1, *, fresh: bool = False) -> Chart:
    """Move the centre towards the mode by Gauss-Newton steps, c ← c + γ_k A Aᵀ ∇ log p(x, c), γ_k learned.

    With G = (A Aᵀ)⁻¹ the Fisher information this is Fisher scoring; each round costs one gradient of log p.

    Args:
        chart: gives c and A.
        num_rounds: of recentring.
        fresh: build A anew at each new centre, instead of keeping the first.

    Raises:
        ValueError: unless num_rounds is a whole number of at least 0.
    """
    num_rounds = check_count("num_rounds", num_rounds, 0)
    raw = math.log(FIRST_STEP / (MAX_STEP - FIRST_STEP))

    def init(rng_key: PRNGKey) -> PyTree:
        return {"chart": chart.init(rng_key), "step": jnp.full((num_rounds,), raw)}

    def build(
        params: PyTree, rng_key: PRNGKey, vae: VAE, vae_params: PyTree, x: Image, posterior: Posterior
    ) -> Frame:
        steps = (MAX_STEP * jax.nn.sigmoid(params["step"])).astype(posterior.mean.dtype)
        gradient: Any = jax.grad(vae.logdensity_fn(vae_params, x))
        frame = chart.build(params["chart"], rng_key, vae, vae_params, x, posterior)
        for index in range(num_rounds):
            direction = frame.scale @ (frame.scale.T @ gradient(frame.center))
            center = frame.center + steps[index] * direction
            if fresh:
                moved = posterior._replace(mean=center)
                frame = chart.build(params["chart"], rng_key, vae, vae_params, x, moved)
            else:
                frame = frame._replace(center=center)
        return frame

    return Chart(init, build)
