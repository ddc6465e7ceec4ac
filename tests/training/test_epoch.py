"""Steps and epochs: what goes into them, what the optimizer is given, what the record says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import bounds, training
from hmcvae.training import Checkpoints
from tests.support.training import P, of_log_weight, one_epoch, plain_images, run

# What goes into a step.


def test_prepared_bits_have_the_pixels_probabilities():
    pixels = np.arange(17, dtype=np.uint8)[:, None, None, None]
    keys = jax.random.split(jax.random.key(0), 20_000)
    bits = np.asarray(jax.vmap(lambda key: training.Pixels(16, True)(key, jnp.asarray(pixels)))(keys))[
        ..., 0, 0, 0
    ]
    assert bits.dtype == np.float32
    assert set(np.unique(bits)) == {0.0, 1.0}
    p = np.arange(17) / 16
    assert np.all(np.abs(bits.mean(0) - p) <= 4 * np.sqrt(p * (1 - p) / len(keys)))
    grey = training.Pixels(16)(keys[0], jnp.asarray(pixels))
    np.testing.assert_array_equal(np.asarray(grey)[:, 0, 0, 0], p.astype(np.float32))


def test_bits_are_drawn_anew_every_epoch_and_image():
    """Every image is the same even grey, and the bound is the share of ones in the batch."""
    bound = of_log_weight(lambda params, x, _: jnp.mean(x) + 0 * params["p"])
    images = np.full((8, 8, 8, 1), 128, np.uint8)
    _, metrics = one_epoch(bound, images, binarize=True, batch_size=2, num_epochs=2)
    shares = np.concatenate([m.bound for m in metrics])
    assert len(np.unique(shares)) > 4
    assert not np.array_equal(metrics[0].bound, metrics[1].bound)
    np.testing.assert_allclose(shares.mean(), 128 / 255, atol=4 * 0.5 / np.sqrt(2 * images.size))


def test_every_image_is_used_at_most_once_in_an_epoch_and_the_order_changes():
    """Image i weighs 2^i, so a sum of distinct images has as many ones, written in base 2, as there are images."""
    bound = of_log_weight(lambda params, x, _: 2.0 ** (255 * jnp.mean(x)).round() + 0 * params["p"])
    _, metrics = one_epoch(bound, plain_images(*range(11)), batch_size=3, num_epochs=4)
    epochs = [np.round(3 * np.asarray(m.bound, np.float64)).astype(int).tolist() for m in metrics]
    for batches in epochs:
        assert len(batches) == 3
        assert sum(batches).bit_count() == 9
    assert len({tuple(batches) for batches in epochs}) == 4
    assert len({sum(batches) for batches in epochs}) > 1  # what is left over changes, too


def test_kl_weight_rises_from_zero_to_one_over_the_warm_up():
    """The gradient is the weight, and the record is of the bound itself, which is p."""
    bound = of_log_weight(lambda params, x, kl_weight: kl_weight * params["p"], is_all_cost=True)
    images = plain_images(*range(8))
    _, metrics = one_epoch(bound, images, batch_size=2, kl_warmup_epochs=2, num_epochs=3, learning_rate=0.5)
    weights = np.concatenate([m.grad_norm for m in metrics])
    np.testing.assert_allclose(weights, np.minimum(1, np.arange(1, 13) / 8), rtol=1e-6)
    recorded = np.concatenate([m.bound for m in metrics])
    assert recorded[0] == 0
    assert 0.4 < recorded[1] < 0.6  # Adam's first step
    assert np.all(np.diff(recorded) > 0.3)
    _, metrics = one_epoch(bound, images, batch_size=2)
    np.testing.assert_array_equal(metrics[0].grad_norm, np.ones(4))


def test_the_record_of_a_k_sample_bound_is_that_bound():
    """Of three equal draws, the 3-sample log weight is that of each."""
    bound = bounds.importance_weighted(of_log_weight(lambda params, x, _: params["p"] + 7), 3)
    _, metrics = one_epoch(bound, plain_images(1, 2), batch_size=1, learning_rate=1e-9)
    np.testing.assert_allclose(metrics[0].bound, [7, 7], rtol=1e-6)


def test_gradients_are_clipped_and_counted():
    """The gradient of p · level is the level: 0.2 or 1, clipped at 0.5 where it is 1."""
    bound = of_log_weight(lambda params, x, _: params["p"] * jnp.mean(x))
    states, metrics = one_epoch(bound, plain_images(51, 51, 255), batch_size=1, clip_norm=0.5)
    np.testing.assert_allclose(np.sort(metrics[0].grad_norm), [0.2, 0.2, 1.0], rtol=1e-6)
    assert int(states[0].num_clipped) == 1
    clipped = np.minimum(metrics[0].grad_norm, 0.5)
    moment = 0.1 * np.sum(clipped * 0.9 ** np.arange(2, -1, -1))  # Adam's first moment
    np.testing.assert_allclose(states[0].opt_state[0].mu["vae"]["p"], -moment, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "burda"])
@pytest.mark.parametrize(("num_epochs", "num_batches"), [(3280, 1), (10, 6)])
def test_learning_rates_follow_the_schedule(schedule, num_epochs, num_batches):
    """Of a constant gradient, Adam's step is the learning rate itself."""
    total, gradient = num_epochs * num_batches, jnp.ones(())
    optimizer = training.adam(0.3, schedule, total)

    def step(state, _):
        update, state = optimizer.update(gradient, state)
        return state, -update

    _, rates = jax.lax.scan(step, optimizer.init(gradient), length=total)
    t = np.arange(total)
    ends = np.cumsum(3 ** np.arange(8))[:-1]
    stage = np.sum(ends[:, None] * total <= t * 3280, axis=0)
    expected = {
        "constant": np.full(total, 0.3),
        "cosine": 0.15 * (1 + np.cos(np.pi * t / total)),
        "burda": 0.3 * 10 ** (-stage / 7),
    }[schedule]
    np.testing.assert_allclose(rates, expected, rtol=1e-4, atol=1e-7)
    assert schedule != "burda" or stage[-1] == 7


def test_muon_steps_along_the_nearest_orthogonal_matrix():
    """Of a layer and of a kernel, √max(1, outputs / inputs) · U Vᵀ of the singular vectors, within what
    five Newton-Schulz steps leave of the singular values (0.7 to 1.2); of what is no matrix, NAdam's step."""
    shapes = {"dense": (6, 24), "wide": (24, 6), "kernel": (2, 2, 3, 5), "offset": (6,)}
    key = jax.random.key(0)
    gradient = {name: jax.random.normal(jax.random.fold_in(key, len(s)), s) for name, s in shapes.items()}
    optimizer = training.muon(0.1, "constant", 1)
    params = jax.tree.map(jnp.zeros_like, gradient)
    steps, _ = optimizer.update(gradient, optimizer.init(params), params)
    for name in ("dense", "wide", "kernel"):
        outputs = shapes[name][-1]
        matrix = np.asarray(gradient[name]).reshape(-1, outputs)
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
        scale = -0.1 * np.sqrt(max(1, outputs / len(matrix)))
        inner = left.T @ np.asarray(steps[name]).reshape(-1, outputs) @ right.T / scale
        assert np.all((np.diag(inner) > 0.65) & (np.diag(inner) < 1.25))
        np.testing.assert_allclose(inner - np.diag(np.diag(inner)), 0, atol=1e-4)
    # Adam's with Nesterov's momentum: the first step is (b1 m + (1 - b1) g) / √v, each bias-corrected.
    expected = -0.1 * (0.9 * 0.1 / (1 - 0.9**2) + 1) * np.sign(gradient["offset"])
    np.testing.assert_allclose(steps["offset"], expected, rtol=1e-4)


# When to stop, and what to skip.


@pytest.mark.parametrize(("warmup", "num_epochs"), [(0, 5), (2, 5), (4, 6)])
def test_early_stopping_keeps_the_best_state(tmp_path, warmup, num_epochs):
    """Training pushes p up by one an epoch; the validation bound is best at p = 3. The wait begins after warm-up."""
    bound = of_log_weight(
        lambda params, x, _: jnp.where(x.mean() > 0.5, params["p"], -((params["p"] - 3) ** 2))
    )
    best = Checkpoints(tmp_path / "best", keep=1)
    history = run(
        bound,
        plain_images(255, 255),
        validation=plain_images(0, 0, 0),
        settings={"best": best},
        num_epochs=50,
        batch_size=2,
        learning_rate=1.0,
        patience=2,
        kl_warmup_epochs=warmup,
    )
    expected = [-4, -1, 0, -1, -4, -9][:num_epochs]
    np.testing.assert_allclose([r["validation_bound"] for _, r in history], expected, atol=1e-4)
    last = history[-1][0]
    assert (int(last.epoch), int(last.best_epoch)) == (num_epochs, 3)
    kept = best.restore(last)
    assert int(kept.epoch) == 3
    np.testing.assert_allclose(kept.params["vae"]["p"], 3.0, atol=1e-5)


def test_monitor_is_the_mean_bound_on_the_same_bits_every_time():
    """Batches of 4 of 10 images, each with bits and a draw of its own."""
    draw = of_log_weight(lambda params, x, _: params["p"] + jnp.mean(x)).draw

    def noisy(params, rng_key, target, kl_weight):
        log_weight, info = draw(params, rng_key, target, kl_weight)
        return log_weight + jax.random.normal(rng_key, (), log_weight.dtype), info

    bound = dataclasses.replace(of_log_weight(None), draw=noisy)
    images, key = jnp.asarray(plain_images(*range(0, 250, 25))), jax.random.key(1)
    monitor = training.make_monitor(bound, training.Pixels(255, True), batch_size=4)
    value = monitor(P, key, images)
    assert float(value) == float(monitor(P, key, images))
    assert float(value) != float(monitor(P, jax.random.key(2), images))
    pixel_key, draw_key = jax.random.split(key)
    x = training.preprocess_all(training.Pixels(255, True), pixel_key, images)
    noise = jax.vmap(lambda k: jax.random.normal(k, (), x.dtype))(jax.random.split(draw_key, 10))
    np.testing.assert_allclose(value, x.mean() + noise.mean(), rtol=1e-5)
