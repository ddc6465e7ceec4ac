"""Likelihoods against scipy's densities, sums over all levels, and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from hmcvae import likelihoods
from tests.support.likelihoods import MAKERS

SHAPE = (4, 3, 1)
DTYPES = [jnp.float32, jnp.float64]
HALF_BIN = 0.5 / 255


def outputs_of(name: str, dtype=jnp.float64):
    """Decoder outputs of every size, means outside [0, 1] among them."""
    a, b = (jax.random.normal(key, SHAPE, dtype) for key in jax.random.split(jax.random.key(1)))
    pair = (0.5 + a, b - 1)
    return {"bernoulli": 2 * a, "gaussian, fixed": a}.get(name, pair)


def pixels_of(name: str, dtype=jnp.float64):
    high = 2 if name == "bernoulli" else 256
    return jax.random.randint(jax.random.key(2), SHAPE, 0, high).astype(dtype) / (high - 1)


def reference(name: str, outputs, x) -> float:
    """log p by scipy."""
    if name == "bernoulli":
        return scipy.stats.bernoulli.logpmf(x, scipy.special.expit(outputs)).sum()
    if name == "gaussian, fixed":
        return scipy.stats.norm.logpdf(x, outputs, 0.7).sum()
    mean, scale = outputs[0], np.exp(outputs[1])
    if name == "gaussian, learned":
        return scipy.stats.norm.logpdf(x, mean, scale).sum()
    upper = np.where(x > 1 - HALF_BIN, 1.0, scipy.stats.logistic.cdf(x + HALF_BIN, mean, scale))
    lower = np.where(x < HALF_BIN, 0.0, scipy.stats.logistic.cdf(x - HALF_BIN, mean, scale))
    return np.log(upper - lower).sum()


@pytest.mark.parametrize("name", MAKERS)
def test_log_prob_is_scipys(name):
    outputs, x = outputs_of(name), pixels_of(name)
    expected = reference(name, jax.tree.map(np.asarray, outputs), np.asarray(x))
    np.testing.assert_allclose(MAKERS[name]().log_prob(outputs, x), expected, rtol=1e-9)


def test_gaussian_scale_broadcasts_over_pixels():
    scale = jnp.array([0.2, 1.0, 3.0])[:, None]
    outputs, x = outputs_of("gaussian, fixed"), pixels_of("gaussian, fixed")
    with jax.numpy_rank_promotion("allow"):
        value = likelihoods.gaussian(scale).log_prob(outputs, x)
        weights = likelihoods.gaussian(scale).fisher_weights(outputs)
    np.testing.assert_allclose(value, scipy.stats.norm.logpdf(x, outputs, scale).sum(), rtol=1e-9)
    np.testing.assert_allclose(weights, np.broadcast_to(1 / scale**2, SHAPE), rtol=1e-12)


def test_bernoulli_on_grey_values_is_the_cross_entropy():
    logits, x = outputs_of("bernoulli"), pixels_of("gaussian, fixed")
    p = scipy.special.expit(logits)
    expected = np.sum(x * np.log(p) + (1 - x) * np.log(1 - p))
    np.testing.assert_allclose(likelihoods.bernoulli().log_prob(logits, x), expected, rtol=1e-9)


def level_log_probs(mean: float, log_scale: float, num_levels: int = 256, dtype=jnp.float64) -> np.ndarray:
    """log P of every level, [num_levels]."""
    likelihood = likelihoods.discretised_logistic(num_levels)
    outputs = (jnp.full((1,), mean, dtype), jnp.full((1,), log_scale, dtype))
    levels = jnp.arange(num_levels, dtype=dtype)[:, None] / (num_levels - 1)
    return np.asarray(jax.vmap(likelihood.log_prob, (None, 0))(outputs, levels))


@pytest.mark.parametrize("log_scale", [-12.0, -7.0, -5.0, -2.0, 0.0, 3.0])
@pytest.mark.parametrize("mean", [-1.5, 0.0, 0.3137, 1.0, 2.0])
def test_discretised_masses_sum_to_one(mean, log_scale):
    for dtype, tolerance in ((jnp.float64, 1e-12), (jnp.float32, 3e-5)):
        log_probs = level_log_probs(mean, log_scale, dtype=dtype)
        assert log_probs.dtype == dtype
        np.testing.assert_allclose(np.exp(log_probs.astype(np.float64)).sum(), 1.0, atol=tolerance)


@pytest.mark.parametrize("num_levels", [2, 16])
def test_discretised_masses_sum_to_one_for_fewer_levels(num_levels):
    np.testing.assert_allclose(np.exp(level_log_probs(0.4, -1.0, num_levels)).sum(), 1.0, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_discretised_mass_far_in_the_tail_is_density_times_width(dtype):
    """At 40 and 400 scales from the mean the difference of two sigmoids would be 0 or rounding."""
    scale = 0.02
    for mean in (-0.3, -7.5, 1.3, 8.5):
        log_prob = level_log_probs(mean, np.log(scale), dtype=dtype)[128]
        expected = scipy.stats.logistic.logpdf(128 / 255, mean, scale) + np.log(2 * HALF_BIN)
        np.testing.assert_allclose(log_prob, expected, rtol=1e-3)


TAILS = [
    (location, log_scale) for location in (-1e4, -30.0, 0.5, 1e4) for log_scale in (-30.0, -7.0, 0.0, 8.0)
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["bernoulli", "gaussian, fixed", "discretised logistic"])
def test_values_and_gradients_are_finite_in_the_tails(name, dtype):
    likelihood = MAKERS[name]()
    locations, log_scales = (jnp.array(column, dtype) for column in zip(*TAILS, strict=True))
    outputs = (locations, log_scales) if likelihood.num_outputs == 2 else locations
    for x in (0.0, 0.5019608, 1.0):
        pixels = jnp.full((len(TAILS),), x, dtype)
        value, gradient = jax.value_and_grad(likelihood.log_prob)(outputs, pixels)
        for array in jax.tree.leaves((value, gradient)):
            assert array.dtype == dtype
            assert np.all(np.isfinite(array))
    # The pull back from the tail must not vanish either: at +1e4 every x = 0 wants the location lower.
    at_zero = jax.grad(likelihood.log_prob)(outputs, jnp.zeros(len(TAILS), dtype))
    assert np.all(np.asarray(jax.tree.leaves(at_zero)[0])[locations > 1e3] < 0)


def test_discretised_gradient_is_the_difference_quotient():
    likelihood = likelihoods.discretised_logistic()
    outputs, x = outputs_of("discretised logistic"), pixels_of("discretised logistic").at[0].set(0.0)
    exact = jax.grad(likelihood.log_prob)(outputs, x)
    h = 1e-6
    for index in ((0, 0, 0), (1, 2, 0), (3, 1, 0)):
        for which in (0, 1):
            ends = []
            for sign in (1, -1):
                moved = list(outputs)
                moved[which] = outputs[which].at[index].add(sign * h)
                ends.append(float(likelihood.log_prob(tuple(moved), x)))
            np.testing.assert_allclose(
                exact[which][index], (ends[0] - ends[1]) / (2 * h), rtol=1e-5, atol=1e-5
            )


NUM_DRAWS = 20_000


def draw(likelihood, outputs, count=NUM_DRAWS):
    keys = jax.random.split(jax.random.key(7), count)
    return jax.jit(jax.vmap(likelihood.sample, (0, None)))(keys, outputs)


@pytest.mark.parametrize("name", ["bernoulli", "gaussian, fixed", "gaussian, learned"])
def test_samples_have_the_mean_and_variance(name):
    likelihood, outputs = MAKERS[name](), outputs_of(name)
    samples, mean = np.asarray(draw(likelihood, outputs)), np.asarray(likelihood.mean(outputs))
    variance = {
        "bernoulli": mean * (1 - mean),
        "gaussian, fixed": np.full(SHAPE, 0.7**2),
        "gaussian, learned": np.exp(2 * np.asarray(outputs[1])) if name == "gaussian, learned" else None,
    }[name]
    assert samples.shape == (NUM_DRAWS, *SHAPE)
    assert np.all(np.abs(samples.mean(0) - mean) < 4 * np.sqrt(variance / NUM_DRAWS))
    np.testing.assert_allclose(samples.var(0), variance, rtol=4 * np.sqrt(2 / NUM_DRAWS))
    if name == "bernoulli":
        assert set(np.unique(samples)) == {0.0, 1.0}


@pytest.mark.parametrize(("mean", "log_scale"), [(0.4, -2.0), (-0.2, -1.0), (1.05, -9.0), (0.5, 0.5)])
def test_discretised_samples_have_the_probabilities_of_their_levels(mean, log_scale):
    num_levels = 12
    likelihood = likelihoods.discretised_logistic(num_levels)
    samples = np.asarray(draw(likelihood, (jnp.full((1,), mean), jnp.full((1,), log_scale))))[:, 0]
    levels = np.round(samples * (num_levels - 1)).astype(int)
    np.testing.assert_allclose(levels / (num_levels - 1), samples, atol=1e-12)
    probabilities = np.exp(level_log_probs(mean, log_scale, num_levels))
    shares = np.bincount(levels, minlength=num_levels) / NUM_DRAWS
    errors = np.sqrt(probabilities * (1 - probabilities) / NUM_DRAWS)
    assert np.all(np.abs(shares - probabilities) <= 4 * errors + 1 / NUM_DRAWS)


def test_discretised_mean_is_a_pixel():
    outputs = outputs_of("discretised logistic")
    mean = likelihoods.discretised_logistic().mean(outputs)
    np.testing.assert_array_equal(mean, np.clip(outputs[0], 0, 1))
    assert float(outputs[0].max()) > 1


def test_bernoulli_fisher_weights_are_the_expected_squared_score():
    """Summed over both values of every bit."""
    likelihood, logits = likelihoods.bernoulli(), outputs_of("bernoulli")
    score = jax.grad(likelihood.log_prob)
    p = jax.nn.sigmoid(logits)
    ones = jnp.ones(SHAPE)
    expected = p * score(logits, ones) ** 2 + (1 - p) * score(logits, 0 * ones) ** 2
    np.testing.assert_allclose(likelihood.fisher_weights(logits), expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["gaussian, fixed", "gaussian, learned"])
def test_gaussian_fisher_weights_are_the_expected_squared_score(name):
    likelihood, outputs = MAKERS[name](), outputs_of(name)
    samples = draw(likelihood, outputs)
    scores = jax.jit(jax.vmap(jax.grad(likelihood.log_prob), (None, 0)))(outputs, samples)
    weights = likelihood.fisher_weights(outputs)
    assert jax.tree.structure(weights) == jax.tree.structure(outputs)
    for score, weight in zip(jax.tree.leaves(scores), jax.tree.leaves(weights), strict=True):
        squares = np.asarray(score) ** 2
        assert np.all(np.abs(squares.mean(0) - weight) < 4 * squares.std(0) / np.sqrt(NUM_DRAWS))


@pytest.mark.parametrize(
    ("mean", "log_scale"), [(0.5, -2.5), (0.5, -3.5), (0.2, -1.0), (0.9, -5.5), (1.3, -1.0), (0.5, -11.0)]
)
def test_discretised_fisher_weights_bound_the_information_and_meet_it_for_narrow_bins(mean, log_scale):
    """The exact information is a sum over the 256 levels."""
    likelihood = likelihoods.discretised_logistic()
    outputs = (jnp.full((1,), mean), jnp.full((1,), log_scale))
    levels = jnp.arange(256.0)[:, None] / 255
    probabilities = np.exp(level_log_probs(mean, log_scale))
    scores = jax.vmap(jax.grad(likelihood.log_prob), (None, 0))(outputs, levels)
    for score, weight in zip(scores, likelihood.fisher_weights(outputs), strict=True):
        information = float(np.sum(probabilities * np.asarray(score)[:, 0] ** 2))
        assert information <= float(weight[0]) * (1 + 1e-9)
        if (
            mean == 0.5 and log_scale == -3.5
        ):  # s = 0.03: all the mass inside, 15 bins in a standard deviation
            np.testing.assert_allclose(information, weight[0], rtol=5e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MAKERS)
def test_dtype_and_shape_are_kept(name, dtype):
    likelihood, outputs, x = MAKERS[name](), outputs_of(name, dtype), pixels_of(name, dtype)
    log_prob = likelihood.log_prob(outputs, x)
    assert log_prob.dtype == dtype
    assert log_prob.shape == ()
    assert likelihood.num_outputs == len(jax.tree.leaves(outputs))
    pictures = (likelihood.mean(outputs), likelihood.sample(jax.random.key(0), outputs))
    for array in (*pictures, *jax.tree.leaves(likelihood.fisher_weights(outputs))):
        assert array.dtype == dtype
        assert array.shape == SHAPE


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), jnp.array([1.0, -0.1])])
def test_gaussian_refuses_a_scale_that_is_not_positive(scale):
    with pytest.raises(ValueError, match="scale must be finite and greater than 0, got"):
        likelihoods.gaussian(scale)


@pytest.mark.parametrize("num_levels", [1, 0, -256])
def test_discretised_logistic_refuses_fewer_than_two_levels(num_levels):
    with pytest.raises(
        ValueError, match=f"num_levels must be a whole number of at least 2, got {num_levels}"
    ):
        likelihoods.discretised_logistic(num_levels)


def test_gaussian_with_a_least_scale_is_a_normal_of_the_sum_of_variances():
    likelihood = likelihoods.gaussian(min_scale=0.1)
    outputs = (jnp.array([0.2, 0.4]), jnp.array([-40.0, -1.0]))
    scale = np.sqrt(np.exp(2 * np.array([-40.0, -1.0])) + 0.01)
    expected = scipy.stats.norm.logpdf([0.2, 0.9], outputs[0], scale).sum()
    np.testing.assert_allclose(likelihood.log_prob(outputs, jnp.array([0.2, 0.9])), expected, rtol=1e-12)
    # The information on l is 2 (d log s / dl)², here by finite differences of log s.
    slope = (np.log(np.exp(2 * -0.999) + 0.01) - np.log(np.exp(2 * -1.001) + 0.01)) / 2 / 0.002
    np.testing.assert_allclose(
        likelihood.fisher_weights(outputs)[1], [0.0, 2 * slope**2], rtol=1e-5, atol=1e-12
    )


@pytest.mark.parametrize("options", [{"min_scale": -1.0}, {"scale": 1.0, "min_scale": 0.1}])
def test_gaussian_refuses_a_least_scale_out_of_place(options):
    with pytest.raises(ValueError, match="min_scale must be 0, or positive"):
        likelihoods.gaussian(**options)


def test_a_gaussian_may_have_one_learned_scale_for_all_of_x():
    """Its value is that of the same scale everywhere; its information the sum of theirs."""
    likelihood = likelihoods.gaussian(min_scale=0.1)
    mean, x = outputs_of("gaussian, fixed"), pixels_of("gaussian, fixed")
    one, many = (mean, jnp.asarray(-0.7)), (mean, jnp.full(SHAPE, -0.7))
    likelihood.check_outputs(one, x)
    np.testing.assert_allclose(likelihood.log_prob(one, x), likelihood.log_prob(many, x), rtol=1e-12)
    weights, expected = likelihood.fisher_weights(one), likelihood.fisher_weights(many)
    np.testing.assert_allclose(weights[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(weights[1], jnp.sum(expected[1]), rtol=1e-12)
    assert likelihood.sample(jax.random.key(0), one).shape == SHAPE
    with pytest.raises(ValueError, match="decode must return outputs of x's shape"):
        likelihoods.gaussian(0.3).check_outputs(one, x)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_discretised_levels_of_the_widest_scales_have_finite_values_and_gradients(dtype):
    """Between the ends P = 2h/s · ¼, whose logarithm falls by what log s rises; the ends have a half each."""
    levels = jnp.array([0.0, 0.4, 1.0], dtype)
    likelihood = likelihoods.discretised_logistic(6)
    for log_scale in (38.0, 40.0, 42.0, 89.0, 200.0, 1e4):
        outputs = (jnp.full(3, 0.3, dtype), jnp.full(3, log_scale, dtype))
        terms = likelihood.terms(outputs, levels)
        inside = np.log(0.2) - np.log(4) - log_scale
        np.testing.assert_allclose(terms, [-np.log(2), inside, -np.log(2)], rtol=1e-5)
        gradients = jax.grad(likelihood.log_prob)(outputs, levels)
        np.testing.assert_allclose(gradients[0], 0, atol=1e-6)
        np.testing.assert_allclose(gradients[1], [0, -1, 0], atol=1e-5)
        for array in (*likelihood.fisher_weights(outputs), likelihood.sample(jax.random.key(0), outputs)):
            assert np.all(np.isfinite(array))
