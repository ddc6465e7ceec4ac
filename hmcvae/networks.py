"""Flax Linen encoders, decoders and reverse models: the only module that imports Flax.

Modules work on one example; `jax.vmap` makes the batch, and XLA sees one wide matrix product. The rest of the library
sees plain functions: `build_vae` and `reverse_model` bind a module's `apply`. Pixels come in [0, 1], shaped [H, W, C].
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from hmcvae._checks import check_choice, check_count
from hmcvae._convolutions import convolve, convolve_transposed
from hmcvae._softplus import softplus_of_layer
from hmcvae.likelihoods import Likelihood
from hmcvae.transitions import ConditionalGaussian, MassModel
from hmcvae.types import PRNGKey, PyTree, Vector
from hmcvae.vae import VAE

Activation = Callable[[Array], Array]
Shape = tuple[int, int, int]
ImageArray = Float[Array, "height width channels"]

ACTIVATIONS: dict[str, Activation] = {
    "tanh": nn.tanh,
    "softplus": softplus_of_layer,
    "relu": nn.relu,
    "elu": nn.elu,
}
ARCHITECTURES = ("mlp", "conv")
# None: whatever inputs and parameters promote to.
COMPUTE_DTYPES: dict[str, Any] = {"float32": None, "bfloat16": jnp.bfloat16}
CONV_MAPS = (16, 32, 32)


class MLP(nn.Module):
    """Dense layers, each followed by the activation; computed in `dtype`, if it is given."""

    widths: Sequence[int]
    activation: Activation = nn.tanh
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Float[Array, " n"]) -> Float[Array, " m"]:
        for width in self.widths:
            h = self.activation(nn.Dense(width, dtype=self.dtype)(h))
        return h


class GaussianHead(nn.Module):
    """(mean [d], log_scale [d]) by two linear maps of the features."""

    latent_dim: int

    @nn.compact
    def __call__(self, features: Float[Array, " h"]) -> tuple[Vector, Vector]:
        return nn.Dense(self.latent_dim, name="mean")(features), nn.Dense(self.latent_dim, name="log_scale")(
            features
        )


class MLPEncoder(nn.Module):
    """x ↦ (mean [d], log_scale [d], features [h]) through dense layers on the flattened image."""

    latent_dim: int
    hidden: Sequence[int] = (200, 200)
    activation: Activation = nn.tanh
    dtype: Any = None

    @nn.compact
    def __call__(self, x: ImageArray) -> tuple[Vector, Vector, Float[Array, " h"]]:
        features = MLP(self.hidden, self.activation, self.dtype)(x.reshape(-1))
        return *GaussianHead(self.latent_dim)(features), features


class MLPDecoder(nn.Module):
    """z ↦ [H, W, C, num_outputs], the likelihood's numbers for each pixel, through dense layers."""

    image_shape: Shape
    num_outputs: int = 1
    hidden: Sequence[int] = (200, 200)
    activation: Activation = nn.tanh
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Vector) -> Any:
        h = MLP(self.hidden, self.activation, self.dtype)(z)
        height, width, channels = self.image_shape
        outputs = nn.Dense(height * width * channels * self.num_outputs, dtype=self.dtype)(h)
        return numbers_per_pixel(
            outputs.reshape(height, width, channels * self.num_outputs), self.num_outputs
        )


class Convolution(nn.Module):
    """`nn.Conv`'s parameters, "SAME" padding, [h, w, c] ↦ [⌈h/s⌉, ⌈w/s⌉, m] by the faster way of the platform; where it
    is transposed, `nn.ConvTranspose`'s, ↦ [s h, s w, m]."""

    maps: int
    is_transposed: bool = False
    size: int = 5
    stride: int = 2
    dtype: Any = None

    @nn.compact
    def __call__(self, x: ImageArray) -> Float[Array, "p q m"]:
        shape = (self.size, self.size, x.shape[-1], self.maps)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.maps,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        function = convolve_transposed if self.is_transposed else convolve
        return function(x, kernel, self.stride) + bias[None, None]


class ConvEncoder(nn.Module):
    """Three 5 × 5 convolutions of stride 2 with 16, 32, 32 maps and one dense layer of `hidden` units: the encoder of
    Salimans et al. (2015, section 5.1) and Caterini et al. (2018, section 4)."""

    latent_dim: int
    hidden: int = 300
    activation: Activation = softplus_of_layer
    dtype: Any = None

    @nn.compact
    def __call__(self, x: ImageArray) -> tuple[Vector, Vector, Float[Array, " h"]]:
        h = x
        for i, maps in enumerate(CONV_MAPS):
            h = self.activation(Convolution(maps, dtype=self.dtype, name=f"Conv_{i}")(h))
        features = self.activation(nn.Dense(self.hidden, dtype=self.dtype)(h.reshape(-1)))
        return *GaussianHead(self.latent_dim)(features), features


class ConvDecoder(nn.Module):
    """The mirror of `ConvEncoder`: two dense layers, then transposed convolutions up to [H, W, C, num_outputs].

    A side that is odd on the way down (28 → 14 → 7 → 4) is cropped on the way up (4 → 8 → 7 → 14 → 28).
    """

    image_shape: Shape
    num_outputs: int = 1
    hidden: int = 300
    activation: Activation = softplus_of_layer
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Vector) -> Any:
        height, width, channels = self.image_shape
        sizes = [(height, width)]
        for _ in CONV_MAPS:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        h = self.activation(nn.Dense(self.hidden, dtype=self.dtype)(z))
        h = self.activation(nn.Dense(sizes[-1][0] * sizes[-1][1] * CONV_MAPS[-1], dtype=self.dtype)(h))
        h = h.reshape(*sizes[-1], CONV_MAPS[-1])
        maps = (*CONV_MAPS[-2::-1], channels * self.num_outputs)
        for i, (rows, columns) in enumerate(sizes[-2::-1]):
            layer = Convolution(maps[i], is_transposed=True, dtype=self.dtype, name=f"ConvTranspose_{i}")
            h = layer(h)[:rows, :columns]
            h = h if i == len(CONV_MAPS) - 1 else self.activation(h)
        return numbers_per_pixel(h, self.num_outputs)


def numbers_per_pixel(maps: Float[Array, "h w m"], num_outputs: int) -> Float[Array, "h w c k"]:
    """[H, W, C, num_outputs] from maps of which the first C are all pixels' first numbers, and so on."""
    height, width, num_maps = maps.shape
    return jnp.moveaxis(maps.reshape(height, width, num_outputs, num_maps // num_outputs), 2, -1)


class ReverseNetwork(nn.Module):
    """(features [h], z [d]) ↦ (mean [d], log_scale [d]) of a whitened momentum; starts as the standard normal.

    One hidden layer, and a linear path from z, since the reverse momentum of a harmonic well is linear in z.
    """

    latent_dim: int
    hidden: int = 200
    activation: Activation = nn.tanh

    @nn.compact
    def __call__(self, features: Float[Array, " h"], z: Vector) -> tuple[Vector, Vector]:
        inputs = jnp.concatenate([features, z])
        h = self.activation(nn.Dense(self.hidden)(inputs))
        h = jnp.concatenate([h, z])
        zeros = nn.initializers.zeros_init()
        outputs = nn.Dense(2 * self.latent_dim, kernel_init=zeros)(h)
        mean, log_scale = jnp.split(outputs, 2)
        return mean, log_scale


def reverse_model(num_features: int, latent_dim: int, hidden: int = 200) -> ConditionalGaussian:
    """A learned r(w | x, z), or q(w | x, z), for `bounds.hvi`.

    Args:
        num_features: h, the length of the encoder's features.
        latent_dim: d.
        hidden: units of the hidden layer.

    Raises:
        ValueError: unless all three are whole numbers of at least 1.
    """
    num_features = check_count("num_features", num_features, 1)
    module = ReverseNetwork(check_count("latent_dim", latent_dim, 1), check_count("hidden", hidden, 1))
    return ConditionalGaussian(*_of_features_and_vector(module, num_features, latent_dim))


class MassNetwork(nn.Module):
    """(features [h], y₁ [d₁]) ↦ log masses [d₂]; 0 at first."""

    num_masses: int
    hidden: int

    @nn.compact
    def __call__(self, features: Float[Array, " h"], y1: Vector) -> Float[Array, " m"]:
        h = nn.tanh(nn.Dense(self.hidden)(jnp.concatenate([features, y1])))
        return nn.Dense(self.num_masses, kernel_init=nn.initializers.zeros_init())(h)


def mass_model(num_features: int, num_first: int, num_second: int, hidden: int = 200) -> MassModel:
    """Masses M₂(x, y₁) of one block given another, for `transitions.hierarchical`.

    Args:
        num_features: h, the length of the encoder's features.
        num_first, num_second: d₁ and d₂, the coordinates of the blocks.
        hidden: units of the hidden layer.

    Raises:
        ValueError: unless all four are whole numbers of at least 1.
    """
    num_features = check_count("num_features", num_features, 1)
    num_first = check_count("num_first", num_first, 1)
    module = MassNetwork(check_count("num_second", num_second, 1), check_count("hidden", hidden, 1))
    return MassModel(*_of_features_and_vector(module, num_features, num_first))


def _of_features_and_vector(module: nn.Module, num_features: int, size: int) -> tuple[Callable, Callable]:
    """init and apply, as plain functions, of a module of features [h] and a vector."""

    def init(rng_key: PRNGKey) -> PyTree:
        return module.init(rng_key, jnp.zeros(num_features), jnp.zeros(size))

    def apply(params: PyTree, features: Array, vector: Array) -> Any:
        return module.apply(params, features, vector)

    return init, apply


def build_vae(
    image_shape: Sequence[int],
    latent_dim: int,
    likelihood: Likelihood,
    *,
    architecture: str = "mlp",
    hidden: Sequence[int] = (200, 200),
    activation: str | None = None,
    compute_dtype: str = "float32",
) -> tuple[VAE, Callable[[PRNGKey], PyTree], int]:
    """A VAE from the networks of this module.

    Args:
        image_shape: (H, W, C).
        latent_dim: d.
        likelihood: gives the number of outputs a pixel.
        architecture: "mlp" (dense layers of the widths `hidden`, mirrored) or "conv" (`hidden` = (n_h,)).
        activation: a name of `ACTIVATIONS`; by default tanh for "mlp" and softplus for "conv".
        compute_dtype: "bfloat16" computes the layers in it, for accelerators that are faster so. Parameters, means and
            scales, the decoder's outputs, and with them the densities and the dynamics, keep the dtype that they have:
            leapfrog with a rounded gradient still preserves volume, so a bound stays one, of the model whose decoder
            rounds so.

    Returns:
        (vae, init_params, num_features): `init_params(rng_key)` gives params["vae"], and num_features is h.

    Raises:
        ValueError: for an unknown architecture, activation or compute_dtype, a shape that is not (H, W, C), a conv net
            smaller than 8 × 8 or with other than one hidden width; and, from the encoder, an example of another shape.
    """
    shape = check_image_shape(image_shape)
    latent_dim = check_count("latent_dim", latent_dim, 1)
    widths = tuple(check_count("hidden", width, 1) for width in hidden)
    check_choice("architecture", architecture, ARCHITECTURES)
    name = ("tanh" if architecture == "mlp" else "softplus") if activation is None else activation
    check_choice("activation", name, ACTIVATIONS)
    check_choice("compute_dtype", compute_dtype, COMPUTE_DTYPES)
    function, dtype = ACTIVATIONS[name], COMPUTE_DTYPES[compute_dtype]
    if architecture == "mlp":
        encoder = MLPEncoder(latent_dim, widths, function, dtype)
        decoder = MLPDecoder(shape, likelihood.num_outputs, widths[::-1], function, dtype)
    else:
        if len(widths) != 1:
            raise ValueError(f"the conv net has one dense layer: hidden must be one width, got {widths}")
        if min(shape[:2]) < 8:
            raise ValueError(
                f"the conv net halves the image three times: expected at least 8 × 8, got {shape}"
            )
        encoder = ConvEncoder(latent_dim, widths[0], function, dtype)
        decoder = ConvDecoder(shape, likelihood.num_outputs, widths[0], function, dtype)

    def init_params(rng_key: PRNGKey) -> PyTree:
        encoder_key, decoder_key = jax.random.split(rng_key)
        return {
            "encoder": encoder.init(encoder_key, jnp.zeros(shape)),
            "decoder": decoder.init(decoder_key, jnp.zeros(latent_dim)),
        }

    def encode(params: PyTree, x: Array) -> Any:
        if x.shape != shape:
            raise ValueError(f"this net takes one image of shape {shape}, got {tuple(x.shape)}")
        return _as_wide(encoder.apply(params["encoder"], x), x)

    def decode(params: PyTree, z: Vector) -> Any:
        return likelihood.unpack(_as_wide(jnp.asarray(decoder.apply(params["decoder"], z)), z))

    num_features = widths[-1] if widths else math.prod(shape)  # without a hidden layer: the image itself
    return VAE(encode, decode, likelihood, latent_dim), init_params, num_features


def _as_wide(outputs: PyTree, inputs: Array) -> PyTree:
    """A net's outputs in its input's dtype at least."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, inputs.dtype)), outputs)


def check_image_shape(image_shape: Sequence[int]) -> Shape:
    """Return (H, W, C) as a tuple of ints, or raise ValueError."""
    if len(image_shape) != 3:
        raise ValueError(f"image_shape must be (height, width, channels), got {tuple(image_shape)}")
    height, width, channels = (check_count("image_shape", side, 1) for side in image_shape)
    return height, width, channels
