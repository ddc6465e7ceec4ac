"""Posteriors and the bounds in their coordinates: valid for any factor, exact where the posterior is Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from experiments.configs import (
    Fisher,
    FullCovariance,
    Hierarchical,
    Hvi,
    MeanField,
    Options,
    Rhvi,
    SketchedFisher,
    TrainConfig,
)
from experiments.runs.training import train
from hmcvae import bounds, posteriors
from hmcvae.posteriors import refinement
from hmcvae.priors import gaussian_log_prob
from tests.support import models
from tests.support.posteriors import POSTERIORS, VAE, WHITENED, build, make
from tests.support.weights import PARAMS, X, assert_unbiased, draws, perturbed


@pytest.mark.parametrize("num_transitions", [0, 2])
@pytest.mark.parametrize("name", POSTERIORS)
def test_weights_are_unbiased(name, num_transitions):
    bound = make(name, num_transitions)
    assert_unbiased(draws(bound, perturbed(bound)))


@pytest.mark.parametrize("name", POSTERIORS)
def test_log_det_is_that_of_the_scale(name):
    gaussian = build(POSTERIORS[name], perturbed(make(name))["bound"]["posterior"])
    np.testing.assert_allclose(gaussian.log_det, np.linalg.slogdet(np.asarray(gaussian.scale))[1], atol=1e-5)


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
        Hierarchical(
            FullCovariance(),
            num_steps=2,
            reverse_hidden=8,
            num_transitions=2,
            annealed=True,
            mass_hidden=4,
        ),
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
        (
            lambda: TrainConfig(method=Hierarchical(), latent_dim=1),
            "latent_dim must be at least 2, for two blocks",
        ),
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


@pytest.mark.parametrize(
    ("posterior", "message"),
    [
        (posteriors.fisher(3), r"fisher was made with latent_dim = 3, encode returns means of \(2,\)"),
        (
            posteriors.full_covariance(5, 2),
            r"full_covariance was made with num_features = 5, encode returns features",
        ),
        (
            posteriors.full_covariance(2, 4),
            r"full_covariance was made with latent_dim = 4, encode returns means",
        ),
        (
            posteriors.low_rank(posteriors.mean_field(whitened=True), 2, 7, 1),
            "low_rank was made with latent_dim = 7",
        ),
    ],
)
def test_posteriors_of_other_sizes_than_the_encoders_are_refused(posterior, message):
    example = VAE.encoded(PARAMS, X)
    with pytest.raises(ValueError, match=message):
        posterior.build(posterior.init(jax.random.key(0)), jax.random.key(1), example)
