"""Every preset from a cold start: ten steps on real images are taken, finite, and lead uphill."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.configs import PRESETS, Encoder, TrainConfig
from experiments.runs import model as runs
from hmcvae import bounds, data

NUM_IMAGES, NUM_STEPS = 8, 10


@cache
def images_of(name: str, folder) -> data.Dataset:
    dataset = data.load(name, folder)
    return dataset._replace(train=np.array(dataset.train[:NUM_IMAGES]))


@cache
def program(config: TrainConfig, shape: tuple[int, int, int], max_value: int):
    """(starting parameters, optimiser, the jitted step, the jitted plain ELBO) of a config: presets that differ in
    their images alone share it."""
    blank = np.zeros((1, *shape), np.uint8)
    model = runs.build(config, data.Dataset(config.dataset, blank, blank, blank, max_value, "none"))
    clip = optax.clip_by_global_norm(config.training.clip_norm or np.inf)
    optimizer = optax.chain(clip, config.training.make_optimizer(NUM_STEPS))

    def mean_bound(bound, params, key, images):
        pixel_key, draw_key = jax.random.split(key)
        x = model.preprocess(pixel_key, images)
        log_weights, info = jax.vmap(bound, (None, 0, 0))(params, jax.random.split(draw_key, NUM_IMAGES), x)
        return jnp.mean(log_weights), jnp.mean(info.solver.converged.astype(jnp.float32))

    @jax.jit
    def step(params, state, key, images):
        ascend = jax.value_and_grad(lambda p: mean_bound(model.bound, p, key, images), has_aux=True)
        (value, converged), gradient = ascend(params)
        updates, state = optimizer.update(jax.tree.map(jnp.negative, gradient), state, params)
        is_finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)]).all()
        return optax.apply_updates(params, updates), state, (value, is_finite, converged)

    plain = jax.jit(lambda params, key, images: mean_bound(bounds.elbo(model.vae), params, key, images)[0])
    return model.params, optimizer, step, plain


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_ten_steps_of_a_preset(name, data_dir):
    """With the preset's own optimiser, and one key, so that the bounds of two steps differ by the parameters alone. A
    refinement of the encoder (a posterior's metric, dynamics) begins no worse than the encoder itself."""
    config = PRESETS[name]
    try:
        dataset = images_of(config.dataset, data_dir)
    except FileNotFoundError as error:
        pytest.skip(f"no images for {name}: {error}")
    images, key = jnp.asarray(dataset.train), jax.random.key(1)
    alike = "mnist" if dataset.image_shape == (28, 28, 1) else config.dataset
    params, optimizer, step, plain = program(
        dataclasses.replace(config, dataset=alike), dataset.image_shape, dataset.max_value
    )
    start = float(plain(params, key, images))
    state, found = optimizer.init(params), []
    for _ in range(NUM_STEPS):
        params, state, figures = step(params, state, key, images)
        found.append([float(value) for value in figures])
    values, is_finite, converged = np.array(found).T
    assert np.isfinite(values).all(), values
    assert is_finite.all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    np.testing.assert_array_equal(converged, 1.0)
    if not isinstance(config.method.posterior, Encoder):
        assert values[0] > start - 0.1 * abs(start), (values[0], start)
    # And on the way no step falls back to below where it began.
    assert values[-1] > values[0] + 1, values
    assert values.min() > values[0] - 0.1 * abs(values[0]), values
