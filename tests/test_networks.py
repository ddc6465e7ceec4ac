"""Networks: shapes, the papers' layers, starting points, and other libraries' nets in their place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

import hmcvae
from hmcvae import bounds, likelihoods, networks, posteriors

BERNOULLI = likelihoods.bernoulli()
LOGISTIC = likelihoods.discretised_logistic()
MNIST, CIFAR = (28, 28, 1), (32, 32, 3)


def shapes_of(image_shape, latent_dim, likelihood, **settings) -> tuple:
    """(vae, shapes of the parameters by name, of the encoder's outputs, of the decoder's), for a jitted and vmapped
    batch of 7; nothing is computed."""
    vae, init_params, num_features = networks.build_vae(image_shape, latent_dim, likelihood, **settings)
    params = jax.eval_shape(init_params, jax.random.key(0))
    images = jax.ShapeDtypeStruct((7, *image_shape), jnp.float32)
    encoded = jax.eval_shape(jax.jit(jax.vmap(vae.encode, (None, 0))), params, images)
    decoded = jax.eval_shape(jax.jit(jax.vmap(vae.decode, (None, 0))), params, encoded[0])
    assert encoded[2].shape == (7, num_features)
    names = {"/".join(k for k in path if k != "params"): leaf for path, leaf in flatten_dict(params).items()}
    return (
        vae,
        {k: v.shape for k, v in names.items()},
        [e.shape for e in encoded],
        jax.tree.map(jnp.shape, decoded),
    )


@pytest.mark.parametrize("image_shape", [MNIST, (8, 8, 1), (5, 7, 2)])
def test_mlp_shapes(image_shape):
    num_pixels = int(np.prod(image_shape))
    vae, params, encoded, decoded = shapes_of(image_shape, 4, BERNOULLI, hidden=(30, 20))
    assert vae.latent_dim == 4
    assert encoded == [(7, 4), (7, 4), (7, 20)]
    assert decoded == (7, *image_shape)
    assert {name: shape for name, shape in params.items() if name.endswith("kernel")} == {
        "encoder/MLP_0/Dense_0/kernel": (num_pixels, 30),
        "encoder/MLP_0/Dense_1/kernel": (30, 20),
        "encoder/GaussianHead_0/mean/kernel": (20, 4),
        "encoder/GaussianHead_0/log_scale/kernel": (20, 4),
        "decoder/MLP_0/Dense_0/kernel": (4, 20),
        "decoder/MLP_0/Dense_1/kernel": (20, 30),
        "decoder/Dense_0/kernel": (30, num_pixels),
    }


@pytest.mark.parametrize(("image_shape", "likelihood"), [(MNIST, BERNOULLI), (CIFAR, LOGISTIC)])
def test_conv_layers_are_the_papers(image_shape, likelihood):
    """Three 5 × 5 convolutions of 16, 32, 32 maps; stride 2 leaves 4 × 4 × 32 of both image sizes."""
    _, params, encoded, decoded = shapes_of(image_shape, 32, likelihood, architecture="conv", hidden=(450,))
    assert encoded == [(7, 32), (7, 32), (7, 450)]
    outputs = (7, *image_shape)
    assert decoded == ((outputs, outputs) if likelihood is LOGISTIC else outputs)
    channels = image_shape[-1]
    assert {name: shape for name, shape in params.items() if name.endswith("kernel")} == {
        "encoder/Conv_0/kernel": (5, 5, channels, 16),
        "encoder/Conv_1/kernel": (5, 5, 16, 32),
        "encoder/Conv_2/kernel": (5, 5, 32, 32),
        "encoder/Dense_0/kernel": (4 * 4 * 32, 450),
        "encoder/GaussianHead_0/mean/kernel": (450, 32),
        "encoder/GaussianHead_0/log_scale/kernel": (450, 32),
        "decoder/Dense_0/kernel": (32, 450),
        "decoder/Dense_1/kernel": (450, 4 * 4 * 32),
        "decoder/ConvTranspose_0/kernel": (5, 5, 32, 32),
        "decoder/ConvTranspose_1/kernel": (5, 5, 32, 16),
        "decoder/ConvTranspose_2/kernel": (5, 5, 16, channels * likelihood.num_outputs),
    }


@pytest.mark.parametrize("image_shape", [(8, 8, 1), (9, 14, 2), (15, 11, 3)])
def test_conv_net_mirrors_sides_that_are_odd_on_the_way(image_shape):
    _, _, _, decoded = shapes_of(image_shape, 2, BERNOULLI, architecture="conv", hidden=(3,))
    assert decoded == (7, *image_shape)


def test_features_without_hidden_layers_are_the_image():
    _, _, encoded, decoded = shapes_of((3, 4, 1), 2, BERNOULLI, hidden=())
    assert encoded[2] == (7, 12)
    assert decoded == (7, 3, 4, 1)


def test_a_batch_is_its_examples_one_by_one():
    vae, init_params, _ = networks.build_vae((8, 8, 1), 2, LOGISTIC, architecture="conv", hidden=(3,))
    params = jax.jit(init_params)(jax.random.key(0))
    xs = jax.random.uniform(jax.random.key(1), (3, 8, 8, 1), jnp.float32)

    def reconstruct(x):
        return vae.decode(params, vae.encode(params, x)[0])

    together = jax.jit(jax.vmap(reconstruct))(xs)
    alone = jax.jit(reconstruct)(xs[2])
    for batch, one in zip(together, alone, strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(batch[2], one, rtol=1e-4, atol=1e-5)
    assert not np.allclose(together[0][0], together[0][2])


def test_mean_and_scale_begin_in_the_middle_of_the_pixels():
    unpack = likelihoods.gaussian().unpack
    mean, log_scale = unpack(networks.numbers_per_pixel(jnp.zeros((2, 2, 6)), 2))
    np.testing.assert_array_equal(mean, np.full((2, 2, 3), 0.5))
    np.testing.assert_array_equal(log_scale, np.full((2, 2, 3), -2.0))
    # The first maps are the colours' means, the others their scales.
    both = unpack(networks.numbers_per_pixel(jnp.arange(4.0).reshape(1, 1, 4), 2))
    np.testing.assert_array_equal(jnp.stack(both)[:, 0, 0], [[0.5, 1.5], [0.0, 1.0]])


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_nets_give_what_each_likelihood_asks_for(architecture):
    shape = (8, 8, 2)
    for likelihood in (
        likelihoods.categorical(4),
        likelihoods.discretised_logistic_mixture(3),
        likelihoods.poisson(),
        likelihoods.negative_binomial(),
    ):
        vae, init_params, _ = networks.build_vae(shape, 2, likelihood, architecture=architecture, hidden=(4,))
        params = init_params(jax.random.key(0))
        likelihood.check_outputs(vae.decode(params, jnp.zeros(2)), jnp.zeros(shape))
        assert np.isfinite(vae.log_likelihood(params, jnp.zeros(shape), jnp.zeros(2)))


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_layers_in_bfloat16_leave_all_else_in_float32(architecture):
    """Outputs, log weights and gradients: of the same parameters, to the rounding of the layers."""
    made = {}
    for dtype in ("float32", "bfloat16"):
        vae, init_params, _ = networks.build_vae(
            (8, 8, 1), 3, BERNOULLI, architecture=architecture, hidden=(12,), compute_dtype=dtype
        )
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), init_params(jax.random.key(0)))
        bound = bounds.hvi(vae, posterior=posteriors.fisher(3), num_steps=2)
        own = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), bound.init(jax.random.key(1)))
        x = jax.random.bernoulli(jax.random.key(2), 0.3, (8, 8, 1)).astype(jnp.float32)

        def loss(params, bound=bound, x=x):
            return bound(params, jax.random.key(3), x)[0]

        value, grads = jax.jit(jax.value_and_grad(loss))({"vae": params, "bound": own})
        made[dtype] = value, grads, vae.encode(params, x), vae.decode(params, jnp.ones(3, jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(made["bfloat16"])} == {jnp.dtype("float32")}
    (wide, wide_grads, *wide_outputs), (narrow, narrow_grads, *narrow_outputs) = made.values()
    np.testing.assert_allclose(narrow, wide, rtol=5e-3)
    assert float(narrow) != float(wide)
    for a, b in zip(
        jax.tree.leaves((narrow_grads, narrow_outputs)),
        jax.tree.leaves((wide_grads, wide_outputs)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=0.05 * float(jnp.max(jnp.abs(b))) + 0.02)


def test_reverse_model_starts_as_the_standard_normal_and_can_leave_it():
    model = networks.reverse_model(num_features=5, latent_dim=3, hidden=4)
    params = model.init(jax.random.key(0))
    features, z = jnp.arange(5.0), jnp.array([3.0, -2.0, 1.0])
    mean, log_scale = model.apply(params, features, z)
    np.testing.assert_array_equal(mean, np.zeros(3))
    np.testing.assert_array_equal(log_scale, np.zeros(3))
    gradients = jax.grad(lambda p: jnp.sum(jnp.concatenate(model.apply(p, features, z))))(params)
    last = gradients["params"]["Dense_1"]["kernel"]
    assert last.shape == (4 + 3, 2 * 3)  # the hidden layer, and a linear path from z
    np.testing.assert_allclose(last[4:], np.outer(z, np.ones(6)), rtol=1e-6)
    assert np.all(np.abs(last[:4]) > 0)


def test_image_of_another_shape_is_refused_with_both_shapes():
    vae, init_params, _ = networks.build_vae(MNIST, 2, BERNOULLI, hidden=(3,))
    params = jax.eval_shape(init_params, jax.random.key(0))
    for shape in ((8, 8, 1), (28, 28, 3), (1, 28, 28)):
        with pytest.raises(
            ValueError, match=r"this net takes one image of shape .28, 28, 1., got ."
        ) as caught:
            jax.eval_shape(vae.encode, params, jax.ShapeDtypeStruct(shape, jnp.float32))
        assert str(caught.value).endswith(f"got {shape}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "resnet"}, "architecture must be one of mlp, conv, got 'resnet'"),
        ({"compute_dtype": "float16"}, "compute_dtype must be one of float32, bfloat16, got .float16."),
        ({"activation": "gelu"}, "activation must be one of tanh, softplus, relu, elu, got 'gelu'"),
        ({"image_shape": (28, 28)}, r"image_shape must be \(height, width, channels\), got \(28, 28\)"),
        ({"image_shape": (28, 0, 1)}, "image_shape must be a whole number of at least 1, got 0"),
        ({"latent_dim": 0}, "latent_dim must be a whole number of at least 1, got 0"),
        ({"hidden": (20, 0)}, "hidden must be a whole number of at least 1, got 0"),
        ({"architecture": "conv", "hidden": (20, 20)}, r"hidden must be one width, got \(20, 20\)"),
        (
            {"architecture": "conv", "hidden": (9,), "image_shape": (28, 7, 1)},
            "at least 8 × 8, got .28, 7, 1.",
        ),
    ],
)
def test_nets_that_cannot_be_built_are_refused(settings, message):
    arguments = {"image_shape": MNIST, "latent_dim": 2, "likelihood": BERNOULLI} | settings
    with pytest.raises(ValueError, match=message):
        networks.build_vae(**arguments)


@pytest.mark.parametrize("name", ["num_features", "latent_dim", "hidden"])
def test_reverse_models_that_cannot_be_built_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got 0"):
        networks.reverse_model(**({"num_features": 3, "latent_dim": 3, "hidden": 3} | {name: 0}))


def assert_fits_hvi(vae, params):
    """A log weight and finite gradients, with every net taking part."""
    bound = bounds.hvi(vae, num_transitions=1, num_steps=2)
    params = {"vae": params, "bound": bound.init(jax.random.key(1))}
    x = jnp.array([0.0, 1.0, 1.0, 0.0], jnp.float32)
    log_weight_fn = jax.jit(jax.value_and_grad(lambda p: bound(p, jax.random.key(2), x)[0]))
    log_weight, gradients = log_weight_fn(params)
    assert np.isfinite(log_weight)
    for gradient in jax.tree.leaves(gradients["vae"]):
        assert np.all(np.isfinite(gradient))
        assert np.any(gradient != 0)


def test_nnx_model_fits_through_split_and_merge():
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.encoder, self.decoder = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(2, 4, rngs=rngs)

        def encode(self, x):
            h = self.encoder(x)
            return h[:2], h[2:4], h[4:]  # mean, log scale, features

        def decode(self, z):
            return self.decoder(z)

    graph, params = nnx.split(Net(nnx.Rngs(0)))
    vae = hmcvae.VAE(
        encode=lambda params, x: nnx.merge(graph, params).encode(x),
        decode=lambda params, z: nnx.merge(graph, params).decode(z),
        likelihood=likelihoods.bernoulli(),
    )
    assert_fits_hvi(vae, params)


def test_plain_functions_fit_without_any_library():
    a, b = jax.random.normal(jax.random.key(0), (2, 4)), jax.random.normal(jax.random.key(1), (4, 2))
    vae = hmcvae.VAE(
        encode=lambda params, x: (params["a"] @ x, params["s"], x),
        decode=lambda params, z: params["b"] @ z,
        likelihood=likelihoods.bernoulli(),
    )
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), {"a": a, "b": b, "s": jnp.zeros(2)})
    assert_fits_hvi(vae, single)
