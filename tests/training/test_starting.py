"""Nets that are no functions of one example, and parameters that cannot be trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hmcvae
from hmcvae import bounds, networks, training
from tests.support.training import NOTHING, P, of_log_weight, plain_images, run

# Nets that are no functions of one example.


GREY = plain_images(0, 60, 128, 255)


def net_of(kind: str):
    """(encode, decode, params) with a hidden layer of the kind."""
    weights = {"a": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "b": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)}
    generator = np.random.default_rng(0)

    def hidden(h):
        if kind == "normalised over a batch of one":
            return h - h.reshape(1, *h.shape).mean(0)
        return h * generator.normal(size=h.shape) if kind == "drawing masks" else jnp.tanh(h)

    def encode(p, x):
        h = hidden(p["a"] @ x.reshape(-1))
        return h, 0 * h, h

    def decode(p, z):
        return hidden(p["b"] @ z).reshape(2, 2, 1)

    return encode, decode, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), weights)


@pytest.mark.parametrize("which", ["encode", "decode"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("normalised over a batch of one", "to depend on its input, got the same for two different ones"),
        ("drawing masks", "to be a function, got two results for the same input"),
    ],
)
def test_a_net_that_is_no_function_of_its_input_is_refused_with_the_recipe(which, kind, message):
    (encode, decode, params), (bad_encode, bad_decode, _) = net_of("plain"), net_of(kind)
    pair = (bad_encode, decode) if which == "encode" else (encode, bad_decode)
    bound = bounds.elbo(hmcvae.VAE(*pair, hmcvae.likelihoods.bernoulli()))
    start = {"vae": params, "bound": NOTHING}
    with pytest.raises(ValueError, match=rf"expected {which} {message}.*net.eval\(\)"):
        run(bound, GREY, params=start, batch_size=2)


def test_data_that_are_wrong_are_told_before_the_nets_are_tried():
    """With NaN in every example, all nets give the same for all of them."""
    encode, decode, params = net_of("plain")
    bound = bounds.elbo(hmcvae.VAE(encode, decode, hmcvae.likelihoods.gaussian()))
    images = np.where(np.arange(4).reshape(2, 2, 1) == 0, np.nan, GREY / 255).astype(np.float32)
    start = {"vae": params, "bound": NOTHING}
    with pytest.raises(ValueError, match="likelihood of training examples: .*NaN"):
        list(training.fit(bound, start, images, optimizer=optax.adam(1e-3), batch_size=2))


def test_missing_values_that_reach_the_encoder_are_told():
    """As NaN under a mask, which the likelihood does not see and a net does."""
    encode, decode, params = net_of("plain")
    vae = hmcvae.VAE(
        lambda p, x: encode(p, x[0]), decode, hmcvae.likelihoods.masked(hmcvae.likelihoods.gaussian(1.0))
    )
    images = np.repeat((GREY / 255).astype(np.float32), 4, axis=0)
    mask = np.ones_like(images)
    mask[5, 0] = 0
    images[5, 0] = np.nan
    start = {"vae": params, "bound": NOTHING}
    options = {"optimizer": optax.adam(1e-3), "batch_size": 4}
    with pytest.raises(
        ValueError, match=r"finite numbers, got a mean of \[nan.* for training example 5\. NaN that"
    ):
        list(training.fit(bounds.elbo(vae), start, (images, mask), **options))


def test_nan_that_become_numbers_on_the_way_are_told():
    """Bits drawn with probability NaN are 0: a likelihood sees nothing of it."""
    encode, decode, params = net_of("plain")
    bound = bounds.elbo(hmcvae.VAE(encode, decode, hmcvae.likelihoods.bernoulli()))
    images = (GREY / 255).astype(np.float32)
    images[1, 0, 0] = np.nan
    start = {"vae": params, "bound": NOTHING}

    def fit(preprocess):
        options = {"batch_size": 2, "num_epochs": 1, "preprocess": preprocess}
        return list(training.fit(bound, start, images, optimizer=optax.adam(1e-3), **options))

    with pytest.warns(training.TrainingWarning, match="^1 of 4 training examples hold NaN"):
        fit(lambda key, x: jax.random.bernoulli(key, x).astype(jnp.float32))
    images[1, 0, 0] = 0
    fit(lambda key, x: jax.random.bernoulli(key, x).astype(jnp.float32))


def test_parameters_of_another_bound_are_refused():
    encode, decode, params = net_of("plain")
    vae = hmcvae.VAE(encode, decode, hmcvae.likelihoods.bernoulli(), latent_dim=3)
    bound = bounds.hvi(vae, num_steps=3, num_transitions=2)
    others = bounds.hvi(vae, num_steps=3).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"init of the bound that is trained, .* of shape \(2.*, got \(1"):
        run(bound, GREY, params={"vae": params, "bound": others}, batch_size=2, num_epochs=1)


def test_a_net_whose_heads_start_at_zero_is_no_such_net():
    encode, decode, params = net_of("plain")
    bound = bounds.elbo(hmcvae.VAE(encode, decode, hmcvae.likelihoods.bernoulli()))
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert len(run(bound, GREY, params={"vae": zeros, "bound": NOTHING}, batch_size=2, num_epochs=1)) == 1


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (jnp.array(3), r"floats, got params\['vae'\]\['extra'\] of dtype int"),
        (jax.random.key(0), r"floats, got params\['vae'\]\['extra'\] of dtype key.*random keys"),
        (jnp.array([1.0, np.nan]), r"finite parameters to start from, got .* in params\['vae'\]\['extra'\]"),
    ],
)
def test_parameters_that_cannot_be_trained_are_named(leaf, message):
    bound = of_log_weight(lambda params, x, _: params["p"] + x.mean())
    with pytest.raises(ValueError, match=message):
        run(bound, GREY, params={"vae": {"p": P["vae"]["p"], "extra": leaf}, "bound": {}}, batch_size=2)


def test_images_of_another_shape_than_the_nets_are_refused():
    vae, init_params, _ = networks.build_vae((8, 8, 1), 2, hmcvae.likelihoods.bernoulli(), hidden=(3,))
    params = {"vae": jax.jit(init_params)(jax.random.key(0)), "bound": NOTHING}
    with pytest.raises(ValueError, match=r"one image of shape \(8, 8, 1\), got \(2, 2, 1\)"):
        run(bounds.elbo(vae), plain_images(0, 255), params=params, batch_size=2)


def test_means_of_another_size_are_told_before_the_decoder_meets_them():
    """A linear one would say what its product has met."""
    vae = hmcvae.VAE(
        lambda params, x: (params["e"] * x[:3], params["e"] * x[:3], x),
        lambda params, z: params["d"] @ z,
        hmcvae.likelihoods.bernoulli(),
        latent_dim=2,
    )
    params = {"vae": {"e": jnp.ones(()), "d": jnp.ones((4, 2))}, "bound": NOTHING}
    images = np.arange(32, dtype=np.uint8).reshape(8, 4) % 2 * 255
    with pytest.raises(ValueError, match=r"latent_dim is 2, but encode returned means of \(3,\)"):
        run(bounds.elbo(vae), images, params=params, batch_size=2)
