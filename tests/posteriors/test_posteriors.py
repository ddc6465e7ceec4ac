"""Posteriors and the bounds in their coordinates: valid for any factor, exact where the posterior is Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from experiments.configs import (
    Fisher,
    FullCovariance,
    Hvi,
    MeanField,
    Options,
    Rhvi,
    SketchedFisher,
    TrainConfig,
)
from experiments.runs.training import train
from hmcvae import bounds, posteriors
from hmcvae.bounds.base import BUILD
from hmcvae.posteriors import refinement
from hmcvae.posteriors._bounded import compressed
from hmcvae.posteriors.triangular import MAX_ROW
from hmcvae.priors import gaussian_log_prob
from tests.support import models
from tests.support.weights import PARAMS, WHITE, X, assert_unbiased, draws, perturbed
from tests.support.weights import VAE as PLAIN

VAE = WHITE
WHITENED = posteriors.mean_field(whitened=True)
POSTERIORS = {
    "mean field": WHITENED,
    "amortised": posteriors.full_covariance(models.FEATURES, models.LATENT, 0.5),
    "fisher": posteriors.fisher(models.LATENT),
    "sketched": posteriors.fisher(models.LATENT, num_probes=3),
    "low rank": posteriors.low_rank(
        posteriors.full_covariance(models.FEATURES, models.LATENT, 0.5), models.FEATURES, models.LATENT, 1
    ),
    "low rank, random": posteriors.low_rank(
        WHITENED, models.FEATURES, models.LATENT, 1, random_directions=True
    ),
    "low rank, refined": posteriors.gauss_newton(
        posteriors.low_rank(WHITENED, models.FEATURES, models.LATENT, 1)
    ),
    "amortised, refined twice": posteriors.gauss_newton(
        posteriors.full_covariance(models.FEATURES, models.LATENT, 0.5), 2
    ),
    "fisher, refined": posteriors.gauss_newton(posteriors.fisher(models.LATENT)),
    "fisher, refined afresh": posteriors.gauss_newton(posteriors.fisher(models.LATENT), 2, fresh=True),
}


def make(name: str, num_transitions: int = 2, num_steps: int = 2) -> bounds.Bound:
    if num_transitions == 0:
        return bounds.elbo(VAE, posterior=POSTERIORS[name])
    return bounds.hvi(
        VAE,
        posterior=POSTERIORS[name],
        reverse=models.conditional(0.15),
        num_transitions=num_transitions,
        num_steps=num_steps,
        initial_step_size=0.3,
    )


def build(
    posterior: posteriors.Posterior, own: dict, x: jax.Array = X, vae: hmcvae.VAE = VAE, params: dict = PARAMS
):
    return posterior.build(own, jax.random.key(1), vae.encoded(params, x))


@pytest.mark.parametrize("num_transitions", [0, 2])
@pytest.mark.parametrize("name", POSTERIORS)
def test_weights_are_unbiased(name, num_transitions):
    bound = make(name, num_transitions)
    assert_unbiased(draws(bound, perturbed(bound)))


@pytest.mark.parametrize("name", POSTERIORS)
def test_log_det_is_that_of_the_scale(name):
    gaussian = build(POSTERIORS[name], perturbed(make(name))["bound"]["posterior"])
    np.testing.assert_allclose(gaussian.log_det, np.linalg.slogdet(np.asarray(gaussian.scale))[1], atol=1e-5)


@pytest.mark.parametrize("name", ["fisher", "fisher, refined"])
def test_fisher_is_exact_on_the_linear_gaussian_model(name):
    """There G is the posterior's precision; and one step of the centre of γ = 1 lands on its mean."""
    posterior = POSTERIORS[name]
    own = posterior.init(jax.random.key(0))
    mean, covariance = models.exact_posterior(PARAMS, X)
    if "refined" in name:
        own["step"] = jnp.log(jnp.full((1,), 1.0) / (refinement.MAX_STEP - 1.0))
    gaussian = build(posterior, own)
    np.testing.assert_allclose(gaussian.scale @ gaussian.scale.T, covariance, rtol=1e-4, atol=1e-6)
    if "refined" in name:
        np.testing.assert_allclose(gaussian.center, mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("random_directions", [False, True])
def test_full_rank_is_the_fisher_metric_whatever_the_base(random_directions):
    amortised = posteriors.full_covariance(models.FEATURES, models.LATENT, 0.5)
    posterior = posteriors.low_rank(
        amortised, models.FEATURES, models.LATENT, models.LATENT, random_directions=random_directions
    )
    gaussian = build(posterior, posterior.init(jax.random.key(3)))
    _, covariance = models.exact_posterior(PARAMS, X)
    np.testing.assert_allclose(gaussian.scale @ gaussian.scale.T, covariance, rtol=1e-4, atol=1e-6)


def test_low_rank_whitens_the_metric_along_its_directions_and_leaves_the_rest():
    """In the new coordinates the exact metric is 1 along B, and what is orthogonal to B moves as before."""
    base = posteriors.full_covariance(models.FEATURES, models.LATENT, 0.5)
    posterior = posteriors.low_rank(base, models.FEATURES, models.LATENT, 1)
    own = perturbed(make("low rank"))["bound"]["posterior"] | {"log_weight": jnp.zeros(())}
    features = VAE.encoded(PARAMS, X).features
    B = own["directions"] + own["weights"] @ features
    B = B / jnp.linalg.norm(B)
    before, after = build(base, own["base"]), build(posterior, own)
    _, covariance = models.exact_posterior(PARAMS, X)
    G = after.scale.T @ jnp.linalg.inv(covariance) @ after.scale
    np.testing.assert_allclose(B.T @ G @ B, [[1.0]], rtol=1e-4)
    orthogonal = jnp.array([-B[1, 0], B[0, 0]])
    np.testing.assert_allclose(after.scale @ orthogonal, before.scale @ orthogonal, rtol=1e-4, atol=1e-6)
    assert np.abs(after.scale @ B - before.scale @ B).max() > 1e-2


@pytest.mark.parametrize("rank", [4, 10])
def test_low_rank_log_det_is_exact_in_single_precision_at_full_rank(rank):
    """A random square V is ill-conditioned now and then; the determinant must not depend on it."""
    vae = hmcvae.VAE(
        lambda p, x: (jnp.zeros(rank, jnp.float32), jnp.full(rank, -0.5, jnp.float32), x),
        lambda p, z: p @ z,
        hmcvae.likelihoods.gaussian(1.0),
        rank,
    )
    params = jax.random.normal(jax.random.key(0), (2 * rank, rank), jnp.float32)
    posterior = posteriors.low_rank(WHITENED, 1, rank, rank, random_directions=True)
    own = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), posterior.init(jax.random.key(1)))
    x = jnp.zeros(1, jnp.float32)

    @jax.vmap
    def gaussian(key):
        found = posterior.build(own, key, vae.encoded(params, x))
        return found.log_det, found.scale

    log_dets, scales = gaussian(jax.random.split(jax.random.key(2), 2000))
    assert log_dets.dtype == jnp.float32
    np.testing.assert_allclose(log_dets, np.linalg.slogdet(np.asarray(scales, np.float64))[1], atol=1e-4)


def test_distillation_teaches_neither_the_decoder_nor_the_encoders_mean():
    """Not even where A is made of both: on a curved decoder, whose derivative depends on the centre."""
    vae = hmcvae.VAE(
        lambda p, x: (p["A"] @ x, p["log_scale"] + 0.05 * x[: models.LATENT], jnp.tanh(p["A"] @ x)),
        lambda p, z: p["W"] @ jnp.tanh(z) + p["b"],
        PLAIN.likelihood,
        models.LATENT,
    )
    base = posteriors.gauss_newton(
        posteriors.low_rank(
            posteriors.full_covariance(models.LATENT, models.LATENT, 0.5), models.LATENT, models.LATENT, 1
        )
    )
    taught, nothing = posteriors.distilled(base, 1.0), posteriors.distilled(base, 1e-30)
    own = base.init(jax.random.key(6))

    def log_det(posterior, own, params):
        return posterior.build(own, jax.random.key(7), vae.encoded(params, X)).log_det

    added = jax.tree.map(
        lambda a, b: np.abs(np.asarray(a - b)).max(),
        jax.grad(lambda *a: log_det(taught, *a), (0, 1))(own, PARAMS),
        jax.grad(lambda *a: log_det(nothing, *a), (0, 1))(own, PARAMS),
    )
    assert added[1]["W"] < 1e-12
    assert added[1]["b"] < 1e-12
    # The scales and the features are taught.
    assert added[1]["log_scale"] > 1e-3
    assert added[0]["base"]["base"]["bias"] > 1e-3


def _distilled_value(posterior, own, key):
    bound = bounds.hvi(VAE, posterior=posterior, initial_step_size=0.3)
    return bound({"vae": PARAMS, "bound": own}, key, X)[0]


def test_distillation_leaves_the_bound_and_adds_its_own_gradient():
    base = posteriors.gauss_newton(posteriors.full_covariance(models.FEATURES, models.LATENT, 0.5))
    own = bounds.hvi(VAE, posterior=base).init(jax.random.key(0))
    taught, key = posteriors.distilled(base, 0.7), jax.random.key(4)
    # It splits the key, and so draws otherwise than its posterior: compare with one that teaches nothing.
    nothing = posteriors.distilled(base, 1e-30)
    np.testing.assert_allclose(
        _distilled_value(taught, own, key), _distilled_value(nothing, own, key), rtol=1e-6
    )
    added = jax.tree.map(
        lambda a, b: np.asarray(a - b),
        jax.grad(lambda own: _distilled_value(taught, own, key))(own),
        jax.grad(lambda own: _distilled_value(nothing, own, key))(own),
    )
    build_key = jax.random.fold_in(key, BUILD)
    noise = jax.random.normal(jax.random.split(build_key)[1], (models.LATENT,))
    _, covariance = models.exact_posterior(PARAMS, X)

    def cost(own):
        gaussian = build(base, own["posterior"])
        moved = gaussian.scale @ noise
        return 0.7 * (0.5 * moved @ jnp.linalg.inv(covariance) @ moved - gaussian.log_det)

    expected = jax.tree.map(lambda g: -np.asarray(g), jax.grad(cost)(own))
    for found, wanted in zip(jax.tree.leaves(added), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(added["posterior"])) > 1e-2


def test_a_distilled_factor_comes_to_the_exact_metric():
    """Descending D alone, the entry below the diagonal goes to the best one that the encoder's diagonal allows."""
    base = posteriors.full_covariance(models.FEATURES, models.LATENT)
    posterior = posteriors.distilled(base)
    example = VAE.encoded(PARAMS, X)

    def slope(own, key):
        def log_det(own):
            taught = posterior.build(own, key, example).log_det
            plain = base.build(own, key, example).log_det
            return taught - plain

        return jax.grad(log_det)(own)

    @jax.jit
    def step(own, key):
        keys = jax.random.split(key, 1024)
        mean = jax.tree.map(lambda g: g.mean(0), jax.vmap(slope, (None, 0))(own, keys))
        return jax.tree.map(lambda p, g: p + 0.01 * g, own, mean)

    own = base.init(jax.random.key(0))
    before = np.asarray(build(base, own).scale)
    for index in range(300):
        own = step(own, jax.random.fold_in(jax.random.key(5), index))
    after = np.asarray(build(base, own).scale)
    _, covariance = models.exact_posterior(PARAMS, X)
    # D in A₁₀ alone: G₁₁ A₁₀ + G₁₀ A₀₀ = 0.
    G = np.linalg.inv(np.asarray(covariance))
    best = -G[1, 0] / G[1, 1] * before[0, 0]
    np.testing.assert_allclose(after[1, 0], best, rtol=0.1)
    assert abs(before[1, 0] - best) > 0.3 * abs(best)


def test_gap_is_zero_at_the_exact_optimum():
    """Refined at γ = 1 with s = 1 the Gaussian is the posterior; so is every step of the dynamics with r = q."""
    vae = hmcvae.VAE(
        lambda p, x: (p["A"] @ x, jnp.zeros(models.LATENT), jnp.tanh(x)),
        VAE.decode,
        VAE.likelihood,
        models.LATENT,
    )
    posterior = POSTERIORS["fisher, refined"]
    exact = models.log_evidence(PARAMS, X)
    for num_transitions, spread in ((0, 1e-4), (1, 2e-2)):
        bound = bounds.hvi(
            vae, posterior=posterior, num_transitions=num_transitions, num_steps=8, initial_step_size=0.1
        )
        own = bound.init(jax.random.key(0))
        own["posterior"]["step"] = jnp.log(jnp.full((1,), 1.0) / (refinement.MAX_STEP - 1.0))
        keys = jax.random.split(jax.random.key(2), 200)
        weights = jax.vmap(lambda k, b=bound, o=own: b({"vae": PARAMS, "bound": o}, k, X)[0])(keys)
        np.testing.assert_allclose(weights, exact, atol=spread)


def test_fisher_at_no_information_is_flat_dynamics_with_masses():
    """At a → -∞ the metric is diag exp(λ): the posterior's dynamics are those of `hvi` with these masses."""
    posterior = posteriors.fisher(models.LATENT)
    masses = jnp.array([0.3, -0.4])
    gaussian = build(posterior, {"log_weight": jnp.asarray(-60.0), "log_precision": masses})
    np.testing.assert_allclose(gaussian.scale, jnp.diag(jnp.exp(-0.5 * masses)), atol=1e-6)


def test_sketch_is_unbiased_for_the_information():
    own = POSTERIORS["sketched"].init(jax.random.key(0))
    example = VAE.encoded(PARAMS, X)

    @jax.vmap
    def metric(key):
        gaussian = POSTERIORS["sketched"].build(own, key, example)
        return jnp.linalg.inv(gaussian.scale @ gaussian.scale.T)

    found = np.asarray(metric(jax.random.split(jax.random.key(4), 20_000)))
    gaussian = build(POSTERIORS["fisher"], POSTERIORS["fisher"].init(jax.random.key(0)))
    exact = np.linalg.inv(np.asarray(gaussian.scale @ gaussian.scale.T))
    assert (np.abs(found.mean(0) - exact) < 4 * found.std(0) / np.sqrt(len(found))).all()


def test_sketch_has_a_gradient_where_weights_underflow():
    """Logits of -120 have weights of 0 in float32."""
    vae = hmcvae.VAE(
        lambda p, x: (p["mean"], jnp.zeros(2), x),
        lambda p, z: p["W"] @ z - 120.0,
        hmcvae.likelihoods.bernoulli(),
        models.LATENT,
    )
    params = {"mean": jnp.zeros(2, jnp.float32), "W": jnp.ones((3, 2), jnp.float32)}
    posterior, x = posteriors.fisher(models.LATENT, num_probes=3), jnp.zeros(3, jnp.float32)

    def value(params):
        own = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), posterior.init(jax.random.key(0)))
        return posterior.build(own, jax.random.key(1), vae.encoded(params, x)).log_det

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(value)(params)))


@pytest.mark.parametrize(
    ("name", "sharpness"),
    # A low-rank correction is a full matrix: single precision holds its least directions to eps times their span.
    [
        (name, s)
        for name in ("fisher", "sketched", "low rank")
        for s in (1e2, 1e4, 1e6)
        if (name, s) != ("low rank", 1e6)
    ],
)
def test_sharp_pixels_in_single_precision(name, sharpness):
    """The eigenvalues of G span sharpness², up to 10¹², on 8 of 20 directions that no coordinate is aligned with: A is
    that of double precision, log |det A| to 0.02 nats, and derivatives are finite."""
    d = 20
    make = {
        "fisher": lambda: posteriors.fisher(d),
        "sketched": lambda: posteriors.fisher(d, num_probes=8),
        "low rank": lambda: posteriors.low_rank(WHITENED, 1, d, 12),
    }
    posterior = make[name]()
    vae = hmcvae.VAE(
        lambda p, x: (p["mean"], jnp.zeros_like(p["mean"]), x),
        lambda p, z: p["W"] @ jnp.sin(p["V"] @ z),
        hmcvae.likelihoods.gaussian(1 / sharpness),
        d,
    )
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "mean": 0.1 * jax.random.normal(keys[0], (d,)),
        "W": jax.random.normal(keys[1], (40, 8)) / np.sqrt(40),
        "V": jax.random.normal(keys[2], (8, d)) / np.sqrt(d),
    }
    own = posterior.init(jax.random.key(1))
    x = jnp.zeros(1)

    @jax.jit
    def value(params, own, x, key):
        gaussian = posterior.build(own, key, vae.encoded(params, x))
        return gaussian.log_det, gaussian.scale

    slopes = jax.jit(jax.grad(lambda *arguments: jnp.sum(value(*arguments)[1]), (0, 1)))

    def single(tree):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)

    for seed in range(5):
        key = jax.random.key(seed)
        log_det, scale = value(single(params), single(own), single(x), key)
        assert scale.dtype == jnp.float32
        scale = np.asarray(scale, np.float64)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(scale)[1], atol=0.01)
        if name != "sketched":  # whose noise is another one in double precision
            exact, A = value(params, own, x, key)
            np.testing.assert_allclose(log_det, exact, atol=0.02)
            # What A whitens: in its coordinates the metric of double precision is 1.
            np.testing.assert_allclose(np.linalg.inv(A) @ scale, np.eye(d), atol=0.05)
        for gradient in jax.tree.leaves(slopes(single(params), single(own), single(x), key)):
            assert np.isfinite(gradient).all()


def test_lengths_are_compressed_beyond_the_radius_alone():
    lengths = np.array([0.0, 0.5, 2.0, 2.0001, 6.0, 1e4, 1e15, 1e200])
    factor = compressed(jnp.asarray(lengths)[:, None] * jnp.array([[0.6, 0.8]]), 2.0)
    beyond = 2 * (1 + np.log(np.maximum(lengths, 2.0) / 2))
    np.testing.assert_allclose(factor * lengths, np.where(lengths <= 2, lengths, beyond), rtol=1e-12)
    np.testing.assert_array_equal(factor[:3], 1.0)

    def compress(v):
        return compressed(v, 2.0) * v

    for scale in (0.0, 1e-30, 1.0, 1e15, 1e35):
        slopes = jax.jacobian(compress)(scale * jnp.array([0.6, 0.8], jnp.float32))
        assert np.isfinite(slopes).all()
    # By log l the derivative is r, however long: it can be learned to be shorter.
    by_log = jax.grad(lambda log_l: compress(jnp.exp(log_l) * jnp.array([0.6, 0.8]))[0] / 0.6)
    np.testing.assert_allclose(by_log(jnp.log(1e6)), 2.0, rtol=1e-9)
    np.testing.assert_allclose(by_log(jnp.log(1e15)), 2.0, rtol=1e-9)


def _steep(gradient: float, curvature: float) -> hmcvae.VAE:
    """log p(x | z) = g z₀ - ½ κ |z|² + …, with an encoder at 0 that knows nothing of the scale."""
    return hmcvae.VAE(
        lambda p, x: (jnp.zeros(2), jnp.zeros(2), x),
        lambda p, z: jnp.array([gradient / curvature, 0.0]) - z,
        hmcvae.likelihoods.gaussian(curvature**-0.5),
        2,
    )


@pytest.mark.parametrize("curvature", [1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_gauss_newton_never_goes_downhill(num_steps, curvature):
    """From A = I, however steep the density: the centre's log p(x, c) does not fall, and derivatives are finite."""
    vae = _steep(1e4, curvature)
    posterior = posteriors.gauss_newton(posteriors.full_covariance(2, 2), num_steps)
    own = posterior.init(jax.random.key(0))
    x = jnp.zeros(2)
    logdensity_fn = vae.logdensity_fn({}, x)
    gaussian = build(posterior, own, x, vae, {})
    assert logdensity_fn(gaussian.center) >= logdensity_fn(jnp.zeros(2))

    def value(own):
        gaussian = build(posterior, own, x, vae, {})
        return logdensity_fn(gaussian.center) + gaussian.log_det

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(value)(own)))


@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gradient", [1e4, 1e30])
def test_derivatives_are_finite_where_the_centre_that_is_not_taken_overflows(num_steps, dtype, gradient):
    """log p(x | z) = Σ g z - exp(20 z), which a step of moderate length takes beyond the largest number."""

    def log_prob(outputs, x):
        del x
        return jnp.sum(gradient * outputs - jnp.exp(20 * outputs))

    likelihood = hmcvae.likelihoods.gaussian(1.0)._replace(log_prob=log_prob)
    zero = jnp.zeros(2, dtype)
    vae = hmcvae.VAE(lambda p, x: (zero, zero, x), lambda p, z: p + z, likelihood, 2)
    posterior = posteriors.gauss_newton(posteriors.full_covariance(2, 2), num_steps)

    def value(own, params):
        gaussian = build(posterior, own, zero, vae, params)
        return vae.logdensity_fn(params, zero)(gaussian.center) + gaussian.log_det

    own = jax.tree.map(lambda leaf: leaf.astype(dtype), posterior.init(jax.random.key(0)))
    value, slopes = jax.value_and_grad(value, (0, 1))(own, zero)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_gauss_newton_is_the_plain_step_where_it_rises_and_none_where_the_density_is_nan():
    vae = _steep(1.0, 1.0)
    posterior = posteriors.gauss_newton(posteriors.full_covariance(2, 2), 2)
    own, x = posterior.init(jax.random.key(0)), jnp.zeros(2)
    center, gradient = jnp.zeros(2), jax.grad(vae.logdensity_fn({}, x))
    for _ in range(2):
        center = center + refinement.FIRST_STEP * gradient(center)
    assert np.abs(center).max() > 0.1
    np.testing.assert_allclose(build(posterior, own, x, vae, {}).center, center, rtol=1e-12)
    walled = hmcvae.VAE(
        vae.encode, lambda p, z: jnp.where(z[0] > 0.1, jnp.nan, vae.decode(p, z)), vae.likelihood, 2
    )
    np.testing.assert_array_equal(build(posterior, own, x, walled, {}).center, np.zeros(2))


def test_rows_of_a_learned_factor_stay_near_the_priors_width():
    """However far one step of training has thrown W: and not at all where they are short."""
    posterior = posteriors.full_covariance(models.FEATURES, models.LATENT, 0.5)
    own = posterior.init(jax.random.key(0))
    plain = build(posterior, own)
    unit = np.linalg.inv(np.diag(np.diag(plain.scale))) @ plain.scale
    example = VAE.encoded(PARAMS, X)
    np.testing.assert_allclose(np.diag(plain.scale), np.exp(example.log_scale), rtol=1e-12)
    for factor in (1e2, 1e6):
        gaussian = build(posterior, jax.tree.map(lambda leaf, f=factor: f * leaf, own))
        lengths = np.linalg.norm(gaussian.scale, axis=1)
        assert (lengths < MAX_ROW * (1 + np.log(factor * np.abs(unit).max()))).all()
        np.testing.assert_allclose(gaussian.log_det, np.linalg.slogdet(gaussian.scale)[1], atol=1e-6)


def test_gaussian_is_its_definition_written_out():
    """log p(x, z) - log N(z; c, A s² Aᵀ), by the multivariate normal."""
    bound = make("amortised", 0)
    params = perturbed(bound)
    log_weight, info = bound(params, jax.random.key(8), X)
    gaussian = build(POSTERIORS["amortised"], params["bound"]["posterior"])
    root = gaussian.scale * jnp.exp(gaussian.log_scale)[None]
    log_q = jax.scipy.stats.multivariate_normal.logpdf(info.position, gaussian.center, root @ root.T)
    log_joint = VAE.log_joint(PARAMS, X, info.position)
    np.testing.assert_allclose(log_weight, log_joint - log_q, rtol=1e-5)
    diagonal = bounds.elbo(VAE, posterior=WHITENED)
    params = {"vae": PARAMS, "bound": diagonal.init(jax.random.key(0))}
    log_weight, info = diagonal(params, jax.random.key(8), X)
    example = VAE.encoded(PARAMS, X)
    log_q = gaussian_log_prob(info.position, example.mean, example.log_scale)
    np.testing.assert_allclose(log_weight, VAE.log_joint(PARAMS, X, info.position) - log_q, rtol=1e-5)


@pytest.mark.parametrize("name", POSTERIORS)
def test_gradients_equal_finite_differences(name):
    """Along a random direction of all parameters at once, and each of the bound's own has a gradient; float64. For six
    data and short moves of the centre, since a step of the centre that is not taken has none."""
    bound = make(name)
    params = perturbed(bound)
    posterior = params["bound"]["posterior"]
    if "step" in posterior:
        posterior["step"] = posterior["step"] - 4.0
    xs = X[None] + jax.random.normal(jax.random.key(11), (6, *X.shape), X.dtype)

    def value(p):
        return jnp.sum(jax.vmap(lambda x: bound(p, jax.random.key(9), x)[0])(xs))

    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(10), len(leaves))
    direction = jax.tree.unflatten(
        tree, [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    )
    gradient = jax.jit(jax.grad(value))(params)
    dot = sum(jax.tree.leaves(jax.tree.map(lambda g, v: jnp.sum(g * v), gradient, direction)))
    h, compiled = 1e-5, jax.jit(value)
    ahead, behind = (
        compiled(jax.tree.map(lambda p, v, s=s: p + s * h * v, params, direction)) for s in (1, -1)
    )
    np.testing.assert_allclose(dot, (ahead - behind) / (2 * h), rtol=1e-6)
    assert all(np.abs(g).max() > 1e-8 for g in jax.tree.leaves(gradient["bound"]))


@pytest.mark.parametrize(
    ("make_bad", "message"),
    [
        (lambda: posteriors.full_covariance(0, 2), "num_features"),
        (lambda: posteriors.fisher(0), "latent_dim"),
        (lambda: posteriors.fisher(2, num_probes=0), "num_probes"),
        (lambda: posteriors.gauss_newton(WHITENED, -1), "num_steps"),
        (lambda: posteriors.low_rank(WHITENED, 3, 2, 3), "rank must be at most latent_dim = 2, got 3"),
        (lambda: posteriors.low_rank(WHITENED, 3, 2, 0), "rank"),
        (lambda: posteriors.distilled(WHITENED, 0.0), "weight"),
        (lambda: posteriors.distilled(WHITENED, float("inf")), "weight"),
        (lambda: posteriors.full_covariance(True, 2), "num_features"),
        (lambda: posteriors.full_covariance(3, 2, float("nan")), "initial_scale"),
        (
            lambda: posteriors.gauss_newton(posteriors.mean_field()),
            "needs a posterior in whitened coordinates",
        ),
        (
            lambda: posteriors.low_rank(posteriors.standard_normal(), 3, 2, 1),
            "low_rank needs a posterior in whit",
        ),
        (lambda: posteriors.distilled(posteriors.mean_field()), "distilled needs a posterior in whitened"),
    ],
)
def test_bad_settings_are_refused(make_bad, message):
    with pytest.raises(ValueError, match=message):
        make_bad()


@pytest.mark.parametrize(
    "method",
    [
        Hvi(
            FullCovariance(num_centre_steps=1, rank=2, distillation=0.5),
            num_steps=2,
            reverse_hidden=8,
            annealed=True,
        ),
        Hvi(SketchedFisher(num_centre_steps=1, num_probes=2), num_steps=2, reverse_hidden=8),
        Rhvi(num_steps=2, reverse_hidden=8),
        Rhvi(
            MeanField(num_centre_steps=1, rank=1, random_directions=True),
            num_steps=2,
            reverse_hidden=8,
            position_dependence=0.3,
        ),
    ],
    ids=lambda method: method.tag,
)
def test_a_run_is_trained_and_evaluated(method, tmp_path):
    config = TrainConfig(
        method=method,
        latent_dim=3,
        hidden=(12,),
        training=Options(num_epochs=2, batch_size=100),
        eval_samples=20,
        eval_images=20,
        run_dir=tmp_path / "run",
    )
    result = train(config)[1]
    assert set(result["proposals"]) == {"encoder", method.name}
    for figures in result["proposals"].values():
        assert np.isfinite(figures["bound"]["mean"])
        assert figures["bound"]["mean"] < figures["log_likelihood"]["mean"]


@pytest.mark.parametrize(
    ("make_bad", "message"),
    [
        (lambda: TrainConfig(method=Hvi(Fisher(rank=9))), "rank must be at most latent_dim = 8, got 9"),
        (lambda: Fisher(distillation=-1.0), "distillation must be a finite number of at least 0, got -1.0"),
        (
            lambda: Rhvi(position_dependence=1.5),
            "position_dependence must be a finite number in .0, 1., got 1.5",
        ),
    ],
)
def test_bad_configs_are_refused(make_bad, message):
    with pytest.raises(ValueError, match=message):
        make_bad()
