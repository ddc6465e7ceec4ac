"""Data of any kind: pytrees, batches that come one by one, a preprocess function of one's own; any optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hmcvae
from hmcvae import bounds, training
from hmcvae.training import NotFiniteError
from hmcvae.training.epoch import epoch_keys
from tests.support.training import P, of_log_weight, plain_images

SETTINGS = training.Settings(num_epochs=2, batch_size=2, kl_warmup_epochs=1)
NOISY = of_log_weight(lambda params, x, kl_weight: kl_weight * params["p"] * jnp.mean(x) - params["p"] ** 2)
BITS = training.Pixels(255, binarize=True)


def in_order(state, images, settings=SETTINGS):
    """The batches that an epoch in memory takes, one by one."""
    num_batches = len(images) // settings.batch_size
    order = jax.random.permutation(epoch_keys(state, num_batches)[0], len(images))
    return [images[np.asarray(part)] for part in order.reshape(num_batches, -1)]


def test_batches_that_come_one_by_one_are_those_of_an_epoch_in_memory():
    """Key for key, over two epochs: the same bits, draws, warm-up and steps."""
    images, optimizer = plain_images(*range(0, 240, 20)), optax.sgd(0.1)
    whole = training.make_epoch(NOISY, optimizer, SETTINGS, BITS)
    one_by_one = training.make_stream_epoch(NOISY, optimizer, SETTINGS, BITS)
    a = b = training.init_state(P, optimizer, 0)
    for _ in range(2):
        batches = in_order(b, images)
        a, metrics = whole(a, jnp.asarray(images))
        b, own_metrics = one_by_one(b, batches, len(batches))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), (a, metrics), (b, own_metrics))
    assert int(a.step) == 12


def test_a_stream_that_goes_bad_ends_in_mid_epoch():
    falling = of_log_weight(lambda params, x, _: params["p"] * jnp.where(params["p"] > 0.5, jnp.nan, 1.0))
    batches = [plain_images(1, 2)] * 100
    with pytest.raises(NotFiniteError, match="steps in a row up to epoch 1 had"):
        list(training.fit(falling, P, batches, optimizer=optax.sgd(1.0), preprocess=training.Pixels(255)))


def test_an_iterator_goes_on_and_a_list_begins_anew():
    """The bound is p plus the batch's level: the record tells which batches an epoch has seen."""
    bound = of_log_weight(lambda params, x, _: 0 * params["p"] + 255 * jnp.mean(x))
    batches = [plain_images(level, level) for level in (10, 20, 30, 40)]

    def means(data, **settings):
        epochs = training.fit(
            bound,
            P,
            data,
            optimizer=optax.sgd(0.0),
            preprocess=training.Pixels(255),
            num_epochs=2,
            **settings,
        )
        return [round(record["bound"]) for _, record in epochs]

    assert means(iter(batches), steps_per_epoch=2) == [15, 35]
    assert means(batches) == [25, 25]
    assert means(batches, steps_per_epoch=2) == [15, 15]


def labelled_vae():
    """A model of an image and its label, which the encoder sees and the likelihood of both reads."""
    normal = hmcvae.likelihoods.gaussian(1.0)

    def log_prob(outputs, x):
        return normal.log_prob(outputs["image"], x["image"]) + normal.log_prob(outputs["label"], x["label"])

    both = normal._replace(log_prob=log_prob, name="image and label")

    def encode(params, x):
        h = params["a"] @ jnp.concatenate([x["image"], x["label"]])
        return h, jnp.zeros_like(h), h

    def decode(params, z):
        return {"image": params["b"] @ z, "label": params["c"] @ z}

    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"a": (2, 5), "b": (3, 2), "c": (2, 2)}
    params = {
        name: 0.1 * jax.random.normal(key, shape, jnp.float32)
        for (name, shape), key in zip(shapes.items(), keys, strict=True)
    }
    return hmcvae.VAE(encode, decode, both, 2), params


def test_examples_of_several_arrays_are_trained_with_any_optimizer_and_monitored():
    vae, params = labelled_vae()
    rng = np.random.default_rng(0)
    z = rng.normal(size=(80, 2))
    data = {
        "image": (z @ rng.normal(size=(2, 3))).astype(np.float32),
        "label": (z @ rng.normal(size=(2, 2))).astype(np.float32),
    }
    seen = []

    def jittered(rng_key, example):
        seen.append(jax.tree.map(jnp.shape, example))
        return jax.tree.map(
            lambda leaf: leaf + 0.01 * jax.random.normal(rng_key, leaf.shape, leaf.dtype), example
        )

    bound = bounds.hvi(vae, num_steps=2)
    records = [
        record
        for _, record in training.fit(
            bound,
            {"vae": params, "bound": jax.tree.map(jnp.float32, bound.init(jax.random.key(1)))},
            data,
            optimizer=optax.chain(optax.clip(1.0), optax.lion(3e-3)),
            batch_size=20,
            num_epochs=12,
            preprocess=jittered,
            validation=jax.tree.map(lambda leaf: leaf[:10], data),
        )
    ]
    assert {tuple(shape.items()) for shape in seen} == {(("image", (3,)), ("label", (2,)))}
    assert records[-1]["validation_bound"] > records[0]["validation_bound"] + 0.2
    assert records[-1]["skipped_steps"] == 0
