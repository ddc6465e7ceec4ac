"""The images that a run reads, monitors and draws; and runs that cannot begin."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import PRESETS, Elbo, Rhvi
from experiments.reporting import plots
from experiments.runs import evaluation as evaluate
from experiments.runs import model as runs
from experiments.runs import training as train
from experiments.support.records import EpochRecord, Monitored
from hmcvae import bounds, data, training
from hmcvae.data import loading
from hmcvae.evaluation import Estimate
from hmcvae.solvers import exact_info
from tests.support.runs import HVI, assert_picture, made_up, tiny, write_cifar


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be a whole number of at least 1, got 0"),
        ({"batch_size": 1501}, "batch_size must be at most the number of training examples, 1500, got 1501"),
        ({"likelihood": "discretised_logistic"}, "needs 8-bit pixels .* got digits with 0 … 16"),
        ({"num_validation": 1500}, "expected num_validation <= 1499"),
    ],
)
def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train.train(tiny(tmp_path / "run", **({"method": HVI} | changes)), quiet=True)
    assert not (tmp_path / "run").exists()


def test_pixels_that_are_not_whole_numbers_in_range_are_refused(tmp_path, monkeypatch):
    images = np.zeros((5, 32, 32, 3), np.float32)
    images[2, 0, 1, 2] = np.nan
    with pytest.raises(ValueError, match=r"cifar10, train images from .*: expected uint8 .* got float32"):
        train.train(write_cifar(tmp_path, images), quiet=True)
    with pytest.raises(
        ValueError, match=r"expected pixels in \[0, 1.0\], got 1 NaN, .* images\[2, 0, 1, 2\] = nan"
    ):
        data.check_pixels(images, 1.0)
    from sklearn import datasets

    digits = datasets.load_digits()
    digits.images[7, 0, 0] = 99
    monkeypatch.setattr(datasets, "load_digits", lambda: digits)
    with pytest.raises(ValueError, match=r"expected pixels in \[0, 16\], got 0 NaN, 0 negative and 1 above"):
        train.train(tiny(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()


def test_every_source_passes_the_same_check(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        loading, "check_pixels", lambda images, max_value: seen.append((len(images), max_value))
    )
    runs.load_data(tiny(tmp_path))
    runs.load_data(write_cifar(tmp_path, np.zeros((5, 32, 32, 3), np.uint8)))
    assert seen == [(1500, 16), (297, 16), (5, 255), (5, 255)]


def test_missing_data_says_what_to_do(tmp_path):
    config = dataclasses.replace(PRESETS["mnist_vae"], data_dir=tmp_path, run_dir=tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"no data for 'mnist'(.|\n)*--data-dir(.|\n)*--download"):
        train.train(config, quiet=True)
    assert not (tmp_path / "run").exists()


def test_test_examples_are_even_and_the_same_for_every_run():
    dataset = made_up("mnist", 10)
    grey_model, model = (SimpleNamespace(preprocess=training.Pixels(255, bits)) for bits in (False, True))
    grey = np.asarray(runs.test_examples(grey_model, dataset, 4))
    np.testing.assert_allclose(grey, dataset.test[[0, 3, 6, 9]] / 255, rtol=1e-6)
    bits = runs.test_examples(model, dataset, 0)
    assert bits.shape == (10, 28, 28, 1)
    assert set(np.unique(bits)) == {0.0, 1.0}
    np.testing.assert_array_equal(bits, runs.test_examples(model, dataset, 0))


def test_monitored_images_are_of_the_validation_set_or_else_even_test_images():
    dataset = made_up("digits", 2500)
    split, images = runs.monitored_images(dataset)
    assert (split, len(images)) == ("test", 1000)
    np.testing.assert_array_equal(images[[0, -1]], dataset.test[[0, -1]])
    split, images = runs.monitored_images(dataset._replace(validation=dataset.train[:3]))
    assert split == "validation"
    np.testing.assert_array_equal(images, dataset.train[:3])


def stub(vae):
    """A bound whose log weight is the number of bits set, and ±1 with even odds."""

    def weigh(params, rng_key, x, kl_weight):
        weight = jnp.sum(x) + jax.random.rademacher(rng_key, (), jnp.float32)
        return weight, bounds.BoundInfo(weight, weight, x, x, weight, exact_info(x.dtype))

    return bounds.Bound(vae, lambda _: {}, lambda params, key, x: x, weigh, "stub")


def test_log_likelihood_is_that_of_the_monitored_bits():
    dataset = made_up("mnist", 200)
    config = tiny(Path("unused"), monitor_samples=2000)
    model = runs.build(config, dataset)
    model = dataclasses.replace(model, eval_bound=stub(model.vae))
    key = jax.random.key(3)
    monitor = evaluate.make_likelihood_monitor(config, model, key, dataset.test)
    figures = monitor(model.params)
    assert monitor(model.params) == figures
    bits = training.preprocess_all(model.preprocess, jax.random.split(key)[0], jnp.asarray(dataset.test))
    count = float(np.asarray(bits).sum(axis=(1, 2, 3)).mean())
    assert figures.draws == 2000
    # Of draws ±1: log mean exp is log cosh 1. Its standard error is tanh 1 / √(2000 × 200).
    assert figures.log_likelihood == pytest.approx(count + np.log(np.cosh(1)), abs=0.006)
    assert figures.gap == pytest.approx(np.log(np.cosh(1)), abs=0.006)
    # One draw an image: a standard error of 0.07. Of other bits it is 0.8.
    bound_fn = training.make_monitor(model.eval_bound, model.preprocess)
    assert float(bound_fn(model.params, key, jnp.asarray(dataset.test))) == pytest.approx(count, abs=0.25)


def test_what_is_monitored_of_rhvi_solves_to_tolerance():
    """Its training does not: with one iteration a solve, hardly any is converged."""
    config = tiny(
        Path("unused"), method=Rhvi(num_iterations=1, num_steps=1, initial_step_size=0.3, reverse_hidden=4)
    )
    model = runs.build(config, made_up("mnist", 4))
    keys, x = jax.random.split(jax.random.key(0), 8), jnp.zeros((28, 28, 1))

    def share(bound):
        return float(jnp.mean(jax.vmap(lambda key: bound(model.params, key, x)[1].solver.converged)(keys)))

    assert share(model.bound) < 0.5
    assert share(model.eval_bound) == 1.0
    flat = runs.build(tiny(Path("unused"), method=HVI), made_up("mnist", 4))
    assert flat.eval_bound is flat.bound


def test_log_likelihood_takes_an_even_few_of_many_images_and_whole_terms_of_a_k_sample_bound(monkeypatch):
    dataset = made_up("mnist", 300)
    config = tiny(Path("unused"), method=Elbo(num_samples=3), monitor_samples=4)
    model = runs.build(config, dataset)
    seen = {}

    def spy(bound, params, rng_key, examples, *, num_samples, batch_size):
        seen.update(bound=bound, examples=examples, num_terms=num_samples)
        return Estimate(*(jnp.zeros(2) for _ in Estimate._fields))

    monkeypatch.setattr(evaluate, "estimate", spy)
    monitor = evaluate.make_likelihood_monitor(config, model, jax.random.key(0), dataset.test)
    assert monitor(model.params).draws == 6
    assert seen["num_terms"] == 2
    assert seen["bound"].name == model.bound.name
    x = training.preprocess_all(
        model.preprocess, jax.random.split(jax.random.key(0))[0], jnp.asarray(dataset.test)
    )
    assert len(seen["examples"]) == evaluate.NUM_WEIGHTED == 200
    np.testing.assert_array_equal(np.asarray(seen["examples"])[[0, 1, 2, -1]], np.asarray(x)[[0, 1, 3, -1]])


def test_log_likelihood_needs_a_bound_that_can_be_weighted():
    dataset = made_up("mnist", 4)
    config = tiny(Path("unused"), monitor_samples=2)
    model = runs.build(config, dataset)
    model = dataclasses.replace(model, bound=bounds.elbo(model.vae, kl="analytic"))
    with pytest.raises(ValueError, match="monitor_samples needs a bound .* got 2 and elbo, analytic KL"):
        evaluate.make_likelihood_monitor(config, model, jax.random.key(0), dataset.test)
    off = dataclasses.replace(config, monitor_samples=0)
    monitor = evaluate.make_likelihood_monitor(off, model, jax.random.key(0), dataset.test)
    assert monitor(model.params) is None


def test_bound_curves_are_drawn_over_gaps(tmp_path):
    """A bound that is not finite in some epoch, or in all, costs no picture."""
    for name, values in (("some", [-5.0, float("nan"), -3.0, float("-inf")]), ("all", [float("nan")])):
        records = [
            EpochRecord(epoch, value, 1.0, 0.0, 0, 0, Monitored("test", value))
            for epoch, value in enumerate(values, start=1)
        ]
        plots.bound_curves("a", records, tmp_path / f"{name}.png", "title")
        assert_picture(tmp_path / f"{name}.png")


def test_tiles_stand_row_by_row_with_gaps_between():
    images = np.arange(3)[:, None, None, None] * np.full((3, 2, 2, 1), 0.25)
    picture = plots.tile(images, 2)[..., 0]
    assert picture.shape == (7, 7)
    gaps = np.ones(7, bool)
    gaps[[1, 2, 4, 5]] = False
    assert np.all(picture[gaps] == 1)
    assert np.all(picture[:, gaps] == 1)
    assert [picture[1, 1], picture[1, 4], picture[4, 1], picture[4, 4]] == [0, 0.25, 0.5, 1]


def test_a_model_too_large_to_allocate_is_refused():
    config = tiny(Path("x"), hidden=(100_000, 100_000))
    with pytest.raises(ValueError, match=r"would have 2[\d,]{13} parameters; expected at most 1,000,000,000"):
        runs.build(config, runs.load_data(config))
