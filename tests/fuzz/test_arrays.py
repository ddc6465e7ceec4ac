"""Arrays of all kinds for what takes arrays: finite numbers come back, or words, before anything is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import example, given
from hypothesis import strategies as st

import hmcvae
from hmcvae import data, evaluation, likelihoods, metrics, training
from tests.support.fuzz import JUNK, NUMBERS, arrays, fuzz, refused_clearly
from tests.support.training import linear_vae

LIKELIHOODS = {
    "bernoulli": likelihoods.bernoulli(),
    "gaussian": likelihoods.gaussian(),
    "discretised_logistic": likelihoods.discretised_logistic(),
    "poisson": likelihoods.poisson(),
    "categorical": likelihoods.categorical(3),
    "masked": likelihoods.masked(likelihoods.gaussian(1.0)),
}
VAE, PARAMS = linear_vae()
MASKED = np.ma.MaskedArray(np.zeros((2, 1, 1, 1)), mask=True)


class ReachedError(Exception):
    """The checks are passed: what comes now is computed."""


def reach(*_):
    raise ReachedError


def passes(function) -> bool:
    """Whether the checks let it pass; False: they refused it in words. Anything else is raised."""
    try:
        function()
    except ReachedError:
        return True
    except Exception as error:
        if refused_clearly(error):
            return False
        raise
    return True


def finite(value) -> bool:
    values = np.asarray(value)
    return values.dtype.kind in "buif" and bool(np.all(np.isfinite(values.astype(float))))


@fuzz(300)
@given(st.sampled_from(sorted(LIKELIHOODS)), arrays())
@example("gaussian", MASKED)
def test_data_that_pass_a_likelihoods_check_are_finite(name, x):
    if passes(lambda: likelihoods.check_data(LIKELIHOODS[name], x)):
        assert all(finite(leaf) for leaf in jax.tree.leaves(x))
        assert not isinstance(x, np.ma.MaskedArray)


@fuzz(200)
@given(arrays(), st.sampled_from([1, 16, 255]))
@example(MASKED, 1)
def test_pixels(x, max_value):
    if passes(lambda: data.check_pixels(x, max_value)):
        assert finite(x)
        assert not isinstance(x, np.ma.MaskedArray)


@fuzz(300)
@given(arrays(), st.booleans(), NUMBERS)
@example(MASKED, False, 1)
def test_what_training_is_given(x, has_pixels, batch_size):
    def check():
        settings = training.Settings(batch_size=batch_size)
        preprocess = training.Pixels(1) if has_pixels else training.inputs.keep_as_is
        training.inputs.check_training(x, settings, preprocess)

    if passes(check):
        assert isinstance(x, list) or (x.dtype.kind in "buifc" and not isinstance(x, np.ma.MaskedArray))


@fuzz(100)
@given(arrays(), JUNK)
@example(MASKED, 1)
def test_what_fit_is_given(x, batch_size):
    bound = hmcvae.bounds.elbo(hmcvae.VAE(reach, reach, likelihoods.bernoulli(), 2))
    epochs = lambda: training.fit(  # noqa: E731
        bound,
        {"vae": {}, "bound": bound.init(jax.random.key(0))},
        x,
        optimizer=optax.sgd(0.1),
        batch_size=batch_size,
    )
    passes(lambda: next(epochs()))


@fuzz(150)
@given(arrays(), st.one_of(st.none(), arrays()), JUNK)
@example(MASKED, None, 3)
def test_what_is_estimated(x, key, num_samples):
    bound = hmcvae.bounds.elbo(hmcvae.VAE(reach, reach, likelihoods.bernoulli(), 2))
    key = jax.random.key(0) if key is None else key
    passes(lambda: evaluation.estimate(bound, {"vae": {}, "bound": {}}, key, x, num_samples=num_samples))


@fuzz(150)
@given(arrays(), arrays(), JUNK, st.one_of(st.none(), arrays()))
@example(np.zeros((2, 1)), 1.0, 3, None)
def test_what_is_sampled(positions, step_size, num_samples, key):
    key = jax.random.key(0) if key is None else key
    passes(lambda: hmcvae.sample(key, hmcvae.hmc(reach, step_size, 2), positions, num_samples=num_samples))


@fuzz(150)
@given(arrays(), JUNK, JUNK)
def test_settings_of_a_kernel(step_size, num_steps, metric):
    passes(lambda: hmcvae.hmc(reach, step_size, num_steps))
    passes(lambda: hmcvae.hmc(reach, 0.1, 1, metric=metric))
    passes(lambda: hmcvae.uniform_steps(num_steps, step_size))


@fuzz(200)
@given(arrays())
@example(MASKED[..., 0])
def test_numbers_of_metrics_and_likelihoods(x):
    for make in (
        metrics.diagonal,
        metrics.dense,
        likelihoods.gaussian,
        likelihoods.negative_binomial,
        likelihoods.categorical,
        likelihoods.discretised_logistic,
    ):
        if passes(lambda make=make: make(x)) and x is not None:
            assert finite(x)
            assert not isinstance(x, np.ma.MaskedArray)


@fuzz(60)
@given(
    st.sampled_from(sorted(set(LIKELIHOODS) - {"masked"})),
    st.lists(st.floats(width=32), min_size=4, max_size=4),
    st.integers(0, 2),
)
def test_finite_outputs_have_a_likelihood(name, numbers, level):
    """And derivatives that are no NaN, where the likelihood is no overflow."""
    likelihood = LIKELIHOODS[name]
    if not np.all(np.isfinite(numbers)):
        return
    outputs = likelihood.unpack(
        jnp.zeros((4, likelihood.num_outputs), jnp.float32) + jnp.asarray(numbers, jnp.float32)[:, None]
    )
    x = jnp.full(4, level / 255 if name == "discretised_logistic" else min(level, 1), jnp.float32)
    value, gradients = PROGRAMS[name](outputs, x)
    assert not np.isnan(value)
    if np.isfinite(value):
        assert not any(np.any(np.isnan(leaf)) for leaf in jax.tree.leaves(gradients))


PROGRAMS = {name: jax.jit(jax.value_and_grad(own.log_prob)) for name, own in LIKELIHOODS.items()}
