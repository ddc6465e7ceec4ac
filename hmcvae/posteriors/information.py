"""Gaussians whose precision is the decoder's Fisher information: whole, sketched, or along a few directions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from hmcvae import metrics
from hmcvae._checks import check_count, check_flag
from hmcvae._random import normal
from hmcvae.metrics.information import Fisher, inverse_root
from hmcvae.posteriors.base import Gaussian, Posterior, check_fits, check_whitened
from hmcvae.types import PRNGKey, PyTree, Vector
from hmcvae.vae import Example


def decoder_metric(
    example: Example,
    precision: ArrayLike | None = None,
    *,
    weight: ArrayLike | None = None,
    to_position: Callable[[Vector], Vector] = lambda z: z,
) -> Fisher:
    """The metric G(u) = a Jᵀ diag(w) J + Λ that a decoder induces, J = ∂ decode(to_position(u)) / ∂u.

    w are the likelihood's Fisher weights, so that the first term is the expected information of x about u.

    Args:
        example: from `VAE.encoded`.
        precision: Λ, see `metrics.fisher`; None is the prior's.
        weight: a; None is 1.
        to_position: u ↦ z.
    """
    precision = example.prior_precision if precision is None else precision

    def predict(u: Vector) -> PyTree:
        return example.information_outputs(to_position(u))

    def weights(outputs: PyTree) -> PyTree:
        own = example.fisher_weights(outputs)
        return own if weight is None else jax.tree.map(lambda w: weight * w, own)

    # linear is not to be found out by tracing: the decoder's parameters are traced themselves.
    return metrics.fisher(predict, weights, precision, linear=False)


def fisher(latent_dim: int, num_probes: int | None = None) -> Posterior:
    """A = L⁻ᵀ with L Lᵀ = G(μ), the decoder's Fisher information at the encoder's mean μ(x) and a learned diagonal:

        G = exp(a) Jᵀ diag(w) J + D Λ D,   D = diag(exp(λ / 2)),   J = ∂ decode / ∂z at μ(x),   y ~ N(0, s(x)²)

    w are the likelihood's Fisher weights and Λ is the prior's precision, 1 for N(0, I); a and λ [d] are learned, at
    first 0 (at a → -∞ the dynamics are flat, with learned masses). s(x) is the encoder's `log_scale`, read in these
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

    def build(params: PyTree, rng_key: PRNGKey, example: Example) -> Gaussian:
        check_fits("fisher", example, d)
        mean = example.mean
        precision = _scaled(example.prior_precision, jnp.exp(params["log_precision"]).astype(mean.dtype))
        weight = jnp.exp(params["log_weight"]).astype(mean.dtype)
        if num_probes is None:
            A, log_det = decoder_metric(example, precision, weight=weight).inverse_root(mean)
        else:
            g = _sketch(rng_key, example, weight, num_probes)
            ones = jnp.full(num_probes, 1 / num_probes, mean.dtype)
            A, log_det = inverse_root(g.T, ones, precision if precision.ndim == 2 else jnp.diag(precision))
        return Gaussian(mean, A, log_det, jnp.zeros_like(mean), example.log_scale)

    return Posterior(init, build)


def _scaled(precision: ArrayLike, factors: Vector) -> Array:
    """D Λ D with D² = diag(factors): [d], or [d, d] where Λ is a matrix."""
    own, root = jnp.asarray(precision, factors.dtype), jnp.sqrt(factors)
    return own * factors if own.ndim < 2 else root[:, None] * own * root[None]


def _sketch(rng_key: PRNGKey, example: Example, weight: Array, num_probes: int) -> Float[Array, "k d"]:
    """The rows g = Jᵀ w^{1/2} ε, at the encoder's mean."""
    outputs, pull_back = jax.vjp(example.information_outputs, example.mean)
    weights = jax.tree.map(lambda w: weight * w, example.fisher_weights(outputs))
    leaves, structure = jax.tree.flatten(weights)
    keys = jax.random.split(rng_key, len(leaves))
    # Where a weight underflows to 0 its root has no derivative.
    roots = [jnp.sqrt(jnp.maximum(leaf, jnp.finfo(leaf.dtype).tiny)) for leaf in leaves]
    noise = [
        root[None] * normal(key, (num_probes, *root.shape), root.dtype)
        for key, root in zip(keys, roots, strict=True)
    ]
    return jax.vmap(lambda cotangent: pull_back(cotangent)[0])(jax.tree.unflatten(structure, noise))


def pulled_back(precision: ArrayLike, directions: Float[Array, "d k"]) -> Float[Array, "k k"]:
    """Vᵀ Λ V; Λ is a number, a diagonal [d] or a matrix [d, d]."""
    own = jnp.asarray(precision, directions.dtype)
    return directions.T @ (own @ directions if own.ndim == 2 else own.reshape(-1, 1) * directions)


def along(
    example: Example, gaussian: Gaussian, directions: Float[Array, "d k"], weight: ArrayLike | None = None
) -> Fisher:
    """u ↦ a Jᵀ diag(w) J + Λ, pulled back along z = c + V u: of shape [k, k] for V [d, k]."""
    return decoder_metric(
        example,
        pulled_back(example.prior_precision, directions),
        weight=weight,
        to_position=lambda u: gaussian.center + directions @ u,
    )


def low_rank(
    posterior: Posterior, num_features: int, latent_dim: int, rank: int, *, random_directions: bool = False
) -> Posterior:
    """Correct a posterior by the decoder's Fisher information along k directions, for k derivatives instead of d.

    With A₀ the posterior's, and B [d, k] of orthonormal columns,

        H = Bᵀ A₀ᵀ [exp(a) Jᵀ diag(w) J + Λ] A₀ B      [k, k],   J at the posterior's centre,
        A = A₀ [I + B (T - I) Bᵀ],   T = chol(H)⁻ᵀ,   log |det A| = log |det A₀| + log |det T|.

    Within span B the posterior is whitened exactly, outside A₀ is trusted, and what couples the two is left out; at
    k = d and a = 0 it is `fisher`, whatever A₀. B spans V + W h(x), with V [d, k], W and a learned and h the encoder's
    features; or, with random_directions, a subspace drawn anew for each example, which leaves the bound valid since it
    is independent of y. A is a full matrix, whose determinant is known to eps times the span of its scales: in single
    precision, scales along B that are more than 10⁴ times below those of A₀ begin to cost hundredths of a nat.

    Args:
        posterior: gives c, A₀ and s, in whitened coordinates.
        num_features: h.
        latent_dim: d.
        rank: k, 1 … d.
        random_directions: learn nothing of B.

    Raises:
        ValueError: unless the posterior is whitened, the three counts are whole numbers of at least 1 and
            rank ≤ latent_dim.
    """
    check_whitened("low_rank", posterior)
    num_features = check_count("num_features", num_features, 1)
    d, k = check_count("latent_dim", latent_dim, 1), check_count("rank", rank, 1)
    random_directions = check_flag("random_directions", random_directions)
    if k > d:
        raise ValueError(f"rank must be at most latent_dim = {d}, got {k}")

    def init(rng_key: PRNGKey) -> PyTree:
        base_key, directions_key = jax.random.split(rng_key)
        own = {"base": posterior.init(base_key), "log_weight": jnp.zeros(())}
        if random_directions:
            return own
        directions = jax.random.normal(directions_key, (d, k))
        return own | {"directions": directions, "weights": jnp.zeros((d, k, num_features))}

    def build(params: PyTree, rng_key: PRNGKey, example: Example) -> Gaussian:
        check_fits("low_rank", example, d, None if random_directions else num_features)
        base_key, own_key = jax.random.split(rng_key)
        base = posterior.build(params["base"], base_key, example)
        dtype = base.center.dtype
        if random_directions:
            V = normal(own_key, (d, k), dtype)
        else:
            V = (params["directions"] + params["weights"] @ example.features).astype(dtype)
        # Not by a Cholesky factor of VᵀV, which loses orthonormality as the square of V's condition number: the
        # determinant below takes it for granted.
        B = jnp.linalg.qr(V)[0]
        A = base.matrix()
        moved = A @ B
        weight = jnp.exp(params["log_weight"]).astype(dtype)
        T, log_det = along(example, base, moved, weight).inverse_root(jnp.zeros(k, dtype))
        return base._replace(scale=A + (moved @ T - moved) @ B.T, log_det=base.log_det + log_det)

    return Posterior(init, build, is_taught=posterior.is_taught)
