"""Evaluation against direct sums of the same draws, and against a model whose log p(x) is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

import hmcvae
from hmcvae import bounds, evaluation
from hmcvae.bounds import Bound, BoundInfo
from hmcvae.solvers import SolverInfo
from hmcvae.transitions import Target
from tests.support import models

VAE, PARAMS = models.linear_gaussian()
XS = jnp.array([[0.4, -0.7, 1.1], [0.0, 0.3, -0.2], [-1.5, 0.9, 0.6], [0.1, 0.1, 0.2], [2.0, -0.5, 0.3]])
ELBO = bounds.elbo(VAE)
MODEL = {"vae": PARAMS, "bound": {}}
KEY = jax.random.key(4)


def same_draws(bound: Bound, num_samples: int, chunk_size: int, params=MODEL, xs=XS):
    """The log weights and convergence flags [n, K] that `estimate` sees, by its layout of keys."""
    num_chunks = -(-num_samples // chunk_size)

    def one(key, x):
        chunks = jax.vmap(lambda k: jax.random.split(k, chunk_size))(jax.random.split(key, num_chunks))
        log_weights, info = jax.vmap(lambda k: bound(params, k, x))(chunks.reshape(-1)[:num_samples])
        return log_weights, info.solver.converged

    return jax.jit(jax.vmap(one))(jax.random.split(KEY, len(xs)), xs)


def direct(log_weights: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of an Estimate, from all of an example's log weights at once."""
    weights = np.exp(log_weights - log_weights.max(1, keepdims=True))
    return {
        "bound": log_weights.mean(1),
        "log_likelihood": logsumexp(log_weights, axis=1) - np.log(log_weights.shape[1]),
        "weight_sd": log_weights.std(1, ddof=1),
        "effective_sample_size": weights.sum(1) ** 2 / (weights**2).sum(1),
    }


def test_estimate_is_the_direct_sum_for_chunks_and_batches_that_leave_a_rest():
    result = evaluation.estimate(ELBO, MODEL, KEY, XS, num_samples=11, chunk_size=4, batch_size=2)
    log_weights, _ = same_draws(ELBO, 11, 4)
    for name, expected in direct(np.asarray(log_weights)).items():
        np.testing.assert_allclose(getattr(result, name), expected, rtol=1e-9, err_msg=name)
    np.testing.assert_array_equal(result.nonfinite, np.zeros(len(XS)))
    np.testing.assert_array_equal(result.unconverged, np.zeros(len(XS)))


def test_one_draw_has_no_spread():
    result = evaluation.estimate(ELBO, MODEL, KEY, XS, num_samples=1)
    np.testing.assert_allclose(result.bound, result.log_likelihood, rtol=1e-12)
    np.testing.assert_array_equal(result.weight_sd, np.zeros(len(XS)))
    np.testing.assert_allclose(result.effective_sample_size, np.ones(len(XS)))


@pytest.mark.parametrize("name", ["elbo", "hvi"])
def test_log_likelihood_is_the_exact_one_for_many_draws(name):
    bound = ELBO if name == "elbo" else bounds.hvi(VAE, num_steps=2, initial_step_size=0.2)
    params = {"vae": PARAMS, "bound": bound.init(jax.random.key(0))}
    num_samples = 10_000
    result = evaluation.estimate(
        bound, params, KEY, XS, num_samples=num_samples, chunk_size=1000, batch_size=5
    )
    exact = np.array([models.log_evidence(PARAMS, x) for x in XS])
    # Relative error of the mean weight, by the delta method: sqrt(1/ESS - 1/K).
    errors = np.sqrt(1 / result.effective_sample_size - 1 / num_samples)
    assert np.all(errors < 0.03)
    assert np.all(np.abs(result.log_likelihood - exact) < 4 * errors)
    assert np.all(result.bound < exact)


def _draw_made_up(params, rng_key, target, kl_weight):
    """Normal log weights around a mean, a share of them replaced by a value; some unconverged."""
    del kl_weight
    x = target.example
    p, draws = params["vae"], jax.random.normal(rng_key, (3,), x.dtype)
    log_weight = jnp.where(draws[1] < p["below"], p["value"], p["mean"] + 3 * draws[0] + x[0])
    solver = SolverInfo(draws[2] < 1, jnp.asarray(0), jnp.zeros((), x.dtype))
    return log_weight, BoundInfo(log_weight, log_weight, x, x, jnp.zeros_like(log_weight), solver)


MADE_UP = Bound(VAE, lambda _: {}, lambda params, key, x: Target(None, x, None), _draw_made_up, "made up")


XS32 = XS.astype(jnp.float32)


def made_up(mean=0.0, below=-9.0, value=0.0) -> dict:
    numbers = {"mean": jnp.float32(mean), "below": jnp.float32(below), "value": jnp.float32(value)}
    return {"vae": numbers, "bound": {}}


@jax.jit
def _made_up_draws(params):
    return same_draws(MADE_UP, 20, 6, params, XS32)


def made_up_draws(params) -> tuple[np.ndarray, np.ndarray]:
    log_weights, converged = _made_up_draws(params)
    return np.asarray(log_weights, np.float64), np.asarray(converged)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_weights_that_are_not_finite_are_counted_and_weigh_nothing(value):
    params = made_up(below=-0.5, value=value)
    result = evaluation.estimate(MADE_UP, params, KEY, XS32, num_samples=20, chunk_size=6)
    log_weights, converged = made_up_draws(params)
    finite = np.isfinite(log_weights)
    assert 0 < finite.mean() < 1
    assert 0 < converged.mean() < 1
    np.testing.assert_allclose(result.nonfinite, 1 - finite.mean(1), atol=1e-6)
    np.testing.assert_allclose(result.unconverged, 1 - converged.mean(1), atol=1e-6)
    for i in range(len(XS)):
        good, log_share = direct(log_weights[i][finite[i]][None]), np.log(finite[i].mean())
        np.testing.assert_allclose(result.bound[i], good["bound"][0] + log_share, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(result.log_likelihood[i], good["log_likelihood"][0] + log_share, rtol=1e-5)
        np.testing.assert_allclose(result.weight_sd[i], good["weight_sd"][0], rtol=1e-5)


def test_an_example_without_a_finite_weight_has_no_bound():
    params = made_up(below=9.0, value=jnp.nan)
    result = evaluation.estimate(MADE_UP, params, KEY, XS32, num_samples=20, chunk_size=6)
    assert np.all(np.isnan(result.bound))
    assert np.all(result.log_likelihood == -np.inf)
    np.testing.assert_array_equal(result.nonfinite, np.ones(len(XS)))
    np.testing.assert_array_equal(result.effective_sample_size, np.zeros(len(XS)))
    assert evaluation.low_ess(result.effective_sample_size) == 1.0


def test_float32_log_weights_far_below_zero_do_not_underflow():
    """exp(-1000) is 0 in both precisions; only differences to the largest may be exponentiated."""
    params = made_up(mean=-1000.0)
    result = evaluation.estimate(MADE_UP, params, KEY, XS32, num_samples=20, chunk_size=6)
    log_weights, _ = made_up_draws(params)
    for name, values in direct(log_weights).items():
        assert getattr(result, name).dtype == jnp.float32
        np.testing.assert_allclose(getattr(result, name), values, rtol=1e-4, err_msg=name)


def test_memory_does_not_grow_with_the_number_of_draws():
    def temporary_bytes(num_samples: int) -> int:
        program = evaluation._ESTIMATE.of(MADE_UP)
        counts = {"num_samples": num_samples, "chunk_size": 50, "batch_size": len(XS)}
        lowered = program.lower(made_up(), KEY, XS32, **counts)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    few, many = temporary_bytes(500), temporary_bytes(50_000)
    all_weights, chunk_keys = 4 * 50_000 * len(XS), 8 * 1000 * len(XS)
    assert many - few < 4 * chunk_keys
    assert many < all_weights / 4


def test_summary_is_means_with_standard_errors():
    columns = np.random.default_rng(0).normal(size=(6, 8))
    result = evaluation.Estimate(*map(jnp.asarray, columns))
    summary = evaluation.summarise(result)
    for name, values in (
        ("bound", columns[0]),
        ("log_likelihood", columns[1]),
        ("gap", columns[1] - columns[0]),
    ):
        pair = getattr(summary, name)
        np.testing.assert_allclose(pair, (values.mean(), values.std(ddof=1) / np.sqrt(8)), rtol=1e-10)
    for i, name in enumerate(("weight_sd", "effective_sample_size", "unconverged", "nonfinite"), start=2):
        np.testing.assert_allclose(getattr(summary, name), columns[i].mean(), rtol=1e-10)
    assert summary.num_examples == 8
    alone = evaluation.summarise(jax.tree.map(lambda leaf: leaf[:1], result))
    np.testing.assert_allclose(alone.bound.mean, columns[0, 0])
    assert np.isnan(alone.bound.error)


def test_too_few_effective_draws_are_told_with_the_figure():
    """Ten draws, however good, are too few; and of a thousand those of weights that spread over many nats."""
    few = evaluation.summarise(evaluation.estimate(ELBO, MODEL, KEY, XS, num_samples=10))
    many = evaluation.summarise(evaluation.estimate(ELBO, MODEL, KEY, XS, num_samples=2000))
    spread = evaluation.summarise(evaluation.estimate(MADE_UP, made_up(), KEY, XS32, num_samples=1000))
    assert (few.low_ess, many.low_ess, spread.low_ess) == (1.0, 0.0, 1.0)
    assert many.effective_sample_size > 100 > spread.effective_sample_size
    assert evaluation.ess_warning(many) == ""
    assert "100% of the 5 examples have fewer than 100 effective draws" in evaluation.ess_warning(few)
    sizes = np.array([99.9, 100.0, np.nan, 500.0])
    assert evaluation.low_ess(sizes) == 0.5
    assert evaluation.low_ess(sizes, 10) == 0.25
    with pytest.raises(ValueError, match="minimum must be a finite number of at least 0, got -1"):
        evaluation.low_ess(sizes, -1)


@pytest.mark.parametrize("num_examples", [7, 2000])
def test_weights_that_are_all_nan_are_seen_in_batches_of_any_size(num_examples):
    """Where a reduction over many rows drops NaN, a bound without one finite weight would look like some number."""
    xs, params = jnp.zeros((num_examples, 3), jnp.float32), made_up(below=9.0, value=jnp.nan)
    result = evaluation.estimate(MADE_UP, params, KEY, xs, num_samples=10, batch_size=num_examples)
    assert np.isnan(result.bound).all()
    assert np.all(result.log_likelihood == -np.inf)
    assert np.all(result.nonfinite == 1)
    weighted = bounds.importance_weighted(MADE_UP, 10)
    values = jax.jit(jax.vmap(lambda key, x: weighted(params, key, x)[0]))(
        jax.random.split(KEY, num_examples), xs
    )
    assert np.isnan(values).all()


def test_active_units_are_those_whose_posterior_mean_moves():
    encode = lambda params, x: (params * x, jnp.zeros(3), x)  # noqa: E731
    vae = hmcvae.VAE(encode, lambda params, z: z, hmcvae.likelihoods.gaussian(1.0))
    scales = jnp.array([1.0, 0.0, 0.05])
    count, variances = evaluation.active_units(vae, scales, XS)
    np.testing.assert_allclose(variances, (np.asarray(scales) * np.asarray(XS)).var(0), rtol=1e-10)
    assert count == 1
    assert evaluation.active_units(vae, scales, XS, threshold=1e-5)[0] == 2
    assert evaluation.active_units(vae, scales, XS, threshold=10.0)[0] == 0


def evaluate(bound=ELBO, xs=XS, **counts):
    return evaluation.estimate(bound, MODEL, KEY, xs, **({"num_samples": 3} | counts))


@pytest.mark.parametrize(
    ("make_bad", "message"),
    [
        (partial(evaluate, xs=XS[:0]), "at least one example to evaluate on, got 0"),
        (partial(evaluate, num_samples=0), "num_samples must be a whole number of at least 1, got 0"),
        (partial(evaluate, chunk_size=0), "chunk_size must be a whole number of at least 1, got 0"),
        (partial(evaluate, batch_size=-1), "batch_size must be a whole number of at least 1, got -1"),
        (
            partial(evaluate, bounds.elbo(VAE, kl="analytic")),
            "elbo, analytic KL cannot be importance weighted",
        ),
        (
            partial(evaluate, num_samples=True),
            "num_samples must be a whole number of at least 1 .*, got True",
        ),
        (lambda: evaluation.active_units(VAE, PARAMS, XS[:1]), "needs at least 2 of them, got 1"),
        (lambda: evaluation.active_units(VAE, PARAMS, XS, float("nan")), "threshold must be a finite number"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(make_bad, message):
    with pytest.raises(ValueError, match=message):
        make_bad()
