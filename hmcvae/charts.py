"""Affine coordinates on the latent space, one chart for each datum, in which its posterior is nearly standard.

A chart gives, for each x, a centre c and a matrix A, z = c + A y. With G = (A Aᵀ)⁻¹ a metric held constant, the flat
dynamics of y are those of z with mass matrix G: explicit, exactly volume preserving, at one metric a datum. The density
of y is p(x, c + A y) |det A|, so for *any* invertible A(x) and any c(x), drawn independently of y, a bound written in
y is a bound on the same log p(x).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hmcvae import metrics
from hmcvae._checks import check_count, check_flag, check_real
from hmcvae._numerics import all_finite
from hmcvae.metrics.information import Fisher, inverse_root
from hmcvae.types import LogDensityFn, PRNGKey, PyTree, Scalar, Vector
from hmcvae.vae import VAE, Image, Posterior

# Of a round of recentring: γ in (0, MAX_STEP), at first FIRST_STEP.
MAX_STEP, FIRST_STEP = 1.5, 0.5
# What follows bounds a learned refinement while it is wrong, and is nothing at all once it is right (MNIST, from the
# first epochs on). A move of the centre, A⁻¹ Δc / γ, is compressed beyond this root mean square over coordinates: it
# counts standard deviations of the posterior that A stands for, and encoders start nearer than that.
MAX_MOVE = 4.0
# A row of a learned A is compressed beyond this length: it is the standard deviation of z_i under A Aᵀ, and no
# posterior is much wider than the prior, whose is 1.
MAX_ROW = 2.0


def compressed(vectors: Float[Array, "... d"], radius: float) -> Float[Array, "..."]:
    """The factor that shortens vectors of length l by

        l ↦ l where l ≤ r,   r (1 + log(l / r)) beyond.

    Nothing inside, slow outside, with a continuous derivative, which by log l is r outside: never 0, so that what is
    too long can learn to be shorter. Finite derivatives at l = 0 too, and at lengths whose squares overflow.
    """
    peak = lax.stop_gradient(jnp.maximum(jnp.abs(vectors).max(-1), radius))
    square = jnp.sum((vectors / peak[..., None]) ** 2, axis=-1)
    is_long = square * (peak / radius) ** 2 > 1
    log_ratio = jnp.where(
        is_long, 0.5 * jnp.log(jnp.where(is_long, square, 1.0)) + jnp.log(peak / radius), 0.0
    )
    return (1 + log_ratio) * jnp.exp(-log_ratio)


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


@dataclass(frozen=True, eq=False)
class Chart:
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
    al. 2016, appendix A). Rows of A longer than `MAX_ROW` are `compressed`: one step of an optimiser moves all entries
    of W together, and with many features of one sign A would grow without bound in the first steps.

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

    def build(
        params: PyTree, rng_key: PRNGKey, vae: VAE, vae_params: PyTree, x: Image, posterior: Posterior
    ) -> Frame:
        del rng_key, vae, vae_params, x
        dtype = posterior.mean.dtype
        entries = (params["weights"] @ posterior.features + params["bias"]).astype(dtype)
        unit = jnp.eye(d, dtype=dtype).at[rows, columns].set(entries)
        scale = jnp.exp(posterior.log_scale)[:, None] * unit
        shrink = compressed(scale, MAX_ROW)
        log_det = jnp.sum(posterior.log_scale + jnp.log(shrink))
        return Frame(posterior.mean, shrink[:, None] * scale, log_det, params["log_scale"].astype(dtype))

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
            A, log_det = metrics.fisher(predict, weights, precision, linear=False).inverse_root(mean)
        else:
            g = _sketch(rng_key, predict, weights, mean, num_probes)
            ones = jnp.full(num_probes, 1 / num_probes, mean.dtype)
            A, log_det = inverse_root(g.T, ones, jnp.diag(precision))
        return Frame(mean, A, log_det, posterior.log_scale)

    return Chart(init, build)


def _sketch(
    rng_key: PRNGKey, predict: Callable, weight_fn: Callable, z: Vector, num_probes: int
) -> Float[Array, "k d"]:
    """The rows g = Jᵀ w^{1/2} ε."""
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
    return jax.vmap(lambda cotangent: pull_back(cotangent)[0])(jax.tree.unflatten(structure, noise))


def low_rank(
    chart: Chart, num_features: int, latent_dim: int, rank: int, *, random_directions: bool = False
) -> Chart:
    """Correct a chart by the decoder's Fisher information along k directions, for k derivatives instead of d.

    With A₀ the chart's, and B [d, k] of orthonormal columns,

        H = Bᵀ A₀ᵀ [exp(a) Jᵀ diag(w) J + I] A₀ B      [k, k],   J at the chart's centre,
        A = A₀ [I + B (T - I) Bᵀ],   T = chol(H)⁻ᵀ,   log |det A| = log |det A₀| + log |det T|.

    Within span B the posterior is whitened exactly, outside A₀ is trusted, and what couples the two is left out; at
    k = d and a = 0 it is `fisher`, whatever A₀. B spans V + W h(x), with V [d, k], W and a learned and h the encoder's
    features; or, with random_directions, a subspace drawn anew for each datum, which leaves the bound valid since it
    is independent of y. A is a full matrix, whose determinant is known to eps times the span of its scales: in single
    precision, scales along B that are more than 10⁴ times below those of A₀ begin to cost hundredths of a nat.

    Args:
        chart: gives c, A₀ and s.
        num_features: h.
        latent_dim: d.
        rank: k, 1 … d.
        random_directions: learn nothing of B.

    Raises:
        ValueError: unless the three counts are whole numbers of at least 1 and rank ≤ latent_dim.
    """
    num_features = check_count("num_features", num_features, 1)
    d, k = check_count("latent_dim", latent_dim, 1), check_count("rank", rank, 1)
    random_directions = check_flag("random_directions", random_directions)
    if k > d:
        raise ValueError(f"rank must be at most latent_dim = {d}, got {k}")

    def init(rng_key: PRNGKey) -> PyTree:
        chart_key, directions_key = jax.random.split(rng_key)
        own = {"chart": chart.init(chart_key), "log_weight": jnp.zeros(())}
        if random_directions:
            return own
        directions = jax.random.normal(directions_key, (d, k))
        return own | {"directions": directions, "weights": jnp.zeros((d, k, num_features))}

    def build(
        params: PyTree, rng_key: PRNGKey, vae: VAE, vae_params: PyTree, x: Image, posterior: Posterior
    ) -> Frame:
        chart_key, own_key = jax.random.split(rng_key)
        frame = chart.build(params["chart"], chart_key, vae, vae_params, x, posterior)
        dtype = frame.center.dtype
        if random_directions:
            V = jax.random.normal(own_key, (d, k), dtype)
        else:
            V = (params["directions"] + params["weights"] @ posterior.features).astype(dtype)
        # Not by a Cholesky factor of VᵀV, which loses orthonormality as the square of V's condition number: the
        # determinant below takes it for granted.
        B = jnp.linalg.qr(V)[0]
        moved = frame.scale @ B
        weight = jnp.exp(params["log_weight"]).astype(dtype)
        T, log_det = _information(vae, vae_params, frame, moved, weight).inverse_root(jnp.zeros(k, dtype))
        scale = frame.scale + (moved @ T - moved) @ B.T
        return frame._replace(scale=scale, log_det=frame.log_det + log_det)

    return Chart(init, build)


def _information(vae: VAE, vae_params: PyTree, frame: Frame, directions: Array, weight: Array) -> Fisher:
    """u ↦ exp(a) Jᵀ diag(w) J + I, pulled back along z = c + V u: of shape [k, k] for V [d, k]."""

    def predict(u: Vector) -> PyTree:
        return vae.decode(vae_params, frame.center + directions @ u)

    def weights(outputs: PyTree) -> PyTree:
        return jax.tree.map(lambda w: weight * w, vae.likelihood.fisher_weights(outputs))

    # linear is not to be found out by tracing: the decoder's parameters are traced themselves.
    return metrics.fisher(predict, weights, directions.T @ directions, linear=False)


def distilled(chart: Chart, weight: float = 1.0) -> Chart:
    """Teach a chart's A the decoder's Fisher metric G = Jᵀ diag(w) J + I at its centre, by one derivative a draw.

        D(A) = ½ E[ |w^{1/2} J A ε|² + |A ε|² ] - log |det A|,   ε ~ N(0, I)
             = KL( N(0, A Aᵀ) ‖ N(0, G⁻¹) ) + constant: least at A Aᵀ = G⁻¹

    The *value* of a bound in this chart is unchanged; to its *gradient* that of -weight · D is added, with the decoder
    and the encoder's mean held fixed, so it moves what else A is made of alone: the exact metric's lesson at the price
    of an amortised one. For training only. What multiplies log |det A| multiplies the lesson: with a `kl_weight` of β
    it is β times as strong.

    Raises:
        ValueError: unless weight is finite and positive.
    """
    weight = check_real("weight", weight, 0.0, is_open=True)

    def build(
        params: PyTree, rng_key: PRNGKey, vae: VAE, vae_params: PyTree, x: Image, posterior: Posterior
    ) -> Frame:
        chart_key, noise_key = jax.random.split(rng_key)
        frame = chart.build(params, chart_key, vae, vae_params, x, posterior)
        # The same frame, as a function of less: A itself may be made of the decoder, and of the encoder's mean.
        fixed, mean = lax.stop_gradient((vae_params, posterior.mean))
        pupil = chart.build(params, chart_key, vae, fixed, x, posterior._replace(mean=mean))
        pupil = pupil._replace(center=lax.stop_gradient(pupil.center))
        noise = jax.random.normal(noise_key, mean.shape, mean.dtype)
        metric = _information(vae, fixed, pupil, pupil.scale, jnp.ones((), mean.dtype))
        cost = 0.5 * metric.quadratic_form(jnp.zeros_like(noise), noise) - pupil.log_det
        cost = jnp.asarray(weight, cost.dtype) * cost
        # Zero, with the gradient of -cost.
        return frame._replace(log_det=frame.log_det - (cost - lax.stop_gradient(cost)))

    return Chart(chart.init, build)


def recentred(chart: Chart, num_rounds: int = 1, *, fresh: bool = False) -> Chart:
    """Move the centre towards the mode: c ← c + γ_k A Aᵀ ∇ log p(x, c), γ_k learned, wherever log p(x, c) rises.

    What kind of step this is depends on A. With A Aᵀ the inverse Fisher information (`fisher`, and `fresh`) it is a
    step of Gauss-Newton, or Fisher scoring; with a learned A (`amortised`) or the encoder's variances (`diagonal`) it
    is a step up the gradient, preconditioned by a matrix that is not a curvature. The bound is valid for any centre. A
    Gaussian with the curvature's own covariance, centred by such steps, is the Variational Laplace Auto-encoder of
    Park, Kim & Kim (2019), whose idea this is.

    A refinement must not make a start worse, and before A is learned a plain step goes thousands of nats downhill. So
    moves too long to be trusted are `compressed` (`MAX_MOVE`), and a round that does not raise log p(x, c), or makes it
    NaN, leaves c where it is. A round costs one gradient and one value of log p.

    Args:
        chart: gives c and A.
        num_rounds: of recentring.
        fresh: build A anew at each new centre, instead of keeping the first; for charts built at the encoder's mean,
            which all are but `standard`.

    Raises:
        ValueError: unless num_rounds is a whole number of at least 0.
    """
    num_rounds, fresh = check_count("num_rounds", num_rounds, 0), check_flag("fresh", fresh)
    raw = math.log(FIRST_STEP / (MAX_STEP - FIRST_STEP))

    def init(rng_key: PRNGKey) -> PyTree:
        return {"chart": chart.init(rng_key), "step": jnp.full((num_rounds,), raw)}

    def build(
        params: PyTree, rng_key: PRNGKey, vae: VAE, vae_params: PyTree, x: Image, posterior: Posterior
    ) -> Frame:
        steps = (MAX_STEP * jax.nn.sigmoid(params["step"])).astype(posterior.mean.dtype)
        logdensity_fn = vae.logdensity_fn(vae_params, x)
        value_and_grad: Any = jax.value_and_grad(logdensity_fn)
        frame = chart.build(params["chart"], rng_key, vae, vae_params, x, posterior)
        radius = MAX_MOVE * math.sqrt(posterior.mean.shape[0])
        for index in range(num_rounds):
            here, gradient = value_and_grad(frame.center)
            move = frame.scale.T @ gradient
            move = jnp.where(all_finite(move), move, 0.0)
            center = frame.to_position(steps[index] * compressed(move, radius) * move)
            # Of a centre that is not taken no derivative is asked: it may overflow there.
            is_better = logdensity_fn(lax.stop_gradient(center)) > here  # not where it is NaN
            center = jnp.where(is_better, center, frame.center)
            if fresh:
                moved = posterior._replace(mean=center)
                frame = chart.build(params["chart"], rng_key, vae, vae_params, x, moved)
            else:
                frame = frame._replace(center=center)
        return frame

    return Chart(init, build)
