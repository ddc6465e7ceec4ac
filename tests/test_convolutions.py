"""Convolutions as matrix products: XLA's values and derivatives, the parameters of Flax's layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from hmcvae import _convolutions, networks

AXES = ("NHWC", "HWIO", "NHWC")


def by_xla(x, kernel, stride):
    return lax.conv_general_dilated(x[None], kernel, (stride, stride), "SAME", dimension_numbers=AXES)[0]


def by_xla_transposed(x, kernel, stride):
    return lax.conv_transpose(x[None], kernel, (stride, stride), "SAME", dimension_numbers=AXES)[0]


PAIRS = {
    "strided": (_convolutions.strided, by_xla),
    "transposed": (_convolutions.transposed, by_xla_transposed),
    "transposed by rows": (_convolutions.transposed_by_rows, by_xla_transposed),
}
# [h, w, c], maps, size of the kernel, stride: those of the nets, and odd ones.
CASES = [
    ((28, 28, 1), 16, 5, 2),
    ((7, 7, 3), 4, 5, 2),
    ((14, 9, 2), 3, 5, 2),
    ((8, 8, 2), 3, 4, 2),
    ((9, 9, 2), 3, 3, 3),
    ((9, 10, 2), 3, 2, 3),
    ((8, 8, 2), 2, 3, 1),
    ((5, 5, 1), 1, 7, 2),
    ((1, 1, 2), 3, 5, 2),
]


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize(("shape", "maps", "size", "stride"), CASES)
def test_values_are_those_of_xla(kind, shape, maps, size, stride):
    mine, theirs = PAIRS[kind]
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = jax.random.normal(jax.random.key(1), (size, size, shape[-1], maps))
    expected = theirs(x, kernel, stride)
    assert expected.size
    np.testing.assert_allclose(mine(x, kernel, stride), expected, atol=1e-12)


@pytest.mark.parametrize("kind", PAIRS)
def test_derivatives_are_those_of_xla(kind):
    """Of both arguments, backwards, forwards, and of the second order, over a batch."""
    xs = jax.random.normal(jax.random.key(2), (3, 7, 7, 2))
    kernel = jax.random.normal(jax.random.key(3), (5, 5, 2, 4))

    def results(function):
        def total(xs, kernel):
            return jnp.sum(jnp.sin(jax.vmap(lambda x: function(x, kernel, 2))(xs)))

        gradient = jax.grad(total, (0, 1))
        return *gradient(xs, kernel), *jax.jvp(gradient, (xs, kernel), (jnp.cos(xs), jnp.cos(kernel)))[1]

    for mine, theirs in zip(*(jax.jit(lambda f=f: results(f))() for f in PAIRS[kind]), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-10)


def test_layers_have_flaxs_parameters_and_values():
    x = jax.random.normal(jax.random.key(4), (7, 9, 3))
    for mine, theirs in (
        (networks.Convolution(6), nn.Conv(6, (5, 5), strides=(2, 2))),
        (networks.Convolution(6, is_transposed=True), nn.ConvTranspose(6, (5, 5), strides=(2, 2))),
    ):
        params, own = mine.init(jax.random.key(5), x), theirs.init(jax.random.key(5), x)
        jax.tree.map(np.testing.assert_array_equal, params, own)
        bias = {"params": params["params"] | {"bias": jnp.arange(6.0)}}
        np.testing.assert_allclose(mine.apply(bias, x), theirs.apply(bias, x), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("kind", PAIRS)
def test_half_precision_is_rounded_once(kind, dtype):
    """The result is that of exact sums of the rounded arguments, rounded: half a last place away, and seldom more."""
    x = jax.random.normal(jax.random.key(8), (14, 14, 16)).astype(dtype)
    kernel = jax.random.normal(jax.random.key(9), (5, 5, 16, 1)).astype(dtype)
    mine, theirs = PAIRS[kind]
    result = mine(x, kernel, 2)
    assert result.dtype == dtype
    expected = np.asarray(theirs(x.astype(jnp.float64), kernel.astype(jnp.float64), 2))
    places = np.abs(np.asarray(result, float) - expected) / (np.exp2(np.floor(np.log2(np.abs(expected)))))
    assert np.mean(places <= float(jnp.finfo(dtype).eps) * 0.5001) > 0.97


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("shape", [(0, 4, 2), (4, 0, 2), (4, 4, 0)])
def test_arrays_that_hold_nothing(kind, shape):
    kernel = jnp.ones((5, 5, shape[-1], 3))
    result = PAIRS[kind][0](jnp.ones(shape), kernel, 2)
    factor = 0.5 if kind == "strided" else 2
    np.testing.assert_array_equal(result, np.zeros((int(shape[0] * factor), int(shape[1] * factor), 3)))


@pytest.mark.parametrize("kind", PAIRS)
def test_two_dtypes_give_the_wider(kind):
    x, kernel = jnp.ones((4, 4, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 1), jnp.float32)
    result = PAIRS[kind][0](x, kernel, 2)
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, PAIRS[kind][0](x.astype(jnp.float32), kernel, 2))


def test_no_banded_matrix_is_large(monkeypatch):
    """16 × 16 × 512 onto 64 maps: its banded matrix would take 671 MB."""
    monkeypatch.setattr(_convolutions, "_is_for_cpu", lambda: True)
    x, kernel = (
        jax.ShapeDtypeStruct((16, 16, 512), jnp.float32),
        jax.ShapeDtypeStruct((5, 5, 512, 64), jnp.float32),
    )
    program = jax.make_jaxpr(lambda x, k: _convolutions.convolve_transposed(x, k, 2))(x, kernel)
    largest = max(np.prod(v.aval.shape) for equation in program.eqns for v in equation.outvars)
    assert largest <= 9 * 16 * 16 * 512 * 2


@pytest.mark.parametrize("is_for_cpu", [True, False])
@pytest.mark.parametrize(
    ("function", "maps", "width", "by_products"),
    [
        ("convolve", 1, 7, "strided"),
        ("convolve", 16, 7, "strided"),
        ("convolve_transposed", 16, 7, "transposed"),
        ("convolve_transposed", 4, 7, "transposed"),  # as many numbers in a block as channels
        ("convolve_transposed", 3, 16, "transposed_by_rows"),
        ("convolve_transposed", 3, 17, "transposed"),  # rows too long for a banded matrix
        ("convolve_transposed", 1, 48, "transposed_by_rows"),
        ("convolve_transposed", 1, 49, "transposed"),
    ],
)
def test_the_platform_and_the_layer_choose(monkeypatch, is_for_cpu, function, maps, width, by_products):
    monkeypatch.setattr(_convolutions, "_is_for_cpu", lambda: is_for_cpu)
    x = jax.random.normal(jax.random.key(6), (7, width, 16))
    kernel = jax.random.normal(jax.random.key(7), (5, 5, 16, maps))

    def program(name):
        return str(jax.make_jaxpr(lambda x, k: getattr(_convolutions, name)(x, k, 2))(x, kernel))

    if is_for_cpu:
        assert program(function) == program(by_products)
    else:
        assert "conv_general_dilated" in program(function)
    expected = (by_xla if function == "convolve" else by_xla_transposed)(x, kernel, 2)
    np.testing.assert_allclose(getattr(_convolutions, function)(x, kernel, 2), expected, atol=1e-4)


def test_the_device_that_is_asked_for_counts(monkeypatch):
    assert _convolutions._is_for_cpu()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not _convolutions._is_for_cpu()
    with jax.default_device(jax.devices("cpu")[0]):
        assert _convolutions._is_for_cpu()
    with jax.default_device("cpu"):
        assert _convolutions._is_for_cpu()
