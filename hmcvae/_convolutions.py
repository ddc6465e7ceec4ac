"""Strided and transposed convolutions as one matrix product each, for processors on which XLA's are slow.

XLA's convolutions on a CPU reach a few per cent of what its matrix products do, the transposed ones and the backward
passes least, and inside a loop a third of that. Here a convolution of stride s is a dense one over blocks of s × s
pixels (space to depth), a transposed one is a dense one onto such blocks (depth to space), and a dense one is the
product of its windows, which are static slices side by side, with the kernel. Onto few maps the windows would be much
larger than the result: there each row of pixels is multiplied by a matrix that is banded, and rows are added.
Derivatives are products and shifted sums, too.

Values and parameters are those of `jax.lax.conv_general_dilated` and `jax.lax.conv_transpose` with "SAME" padding, to
rounding, where all arguments are finite: by rows, what is not finite spreads along its rows. All works on one example,
[H, W, C]; `jax.vmap` makes the batch.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Image = Float[Array, "h w c"]
Kernel = Float[Array, "k k c m"]

_AXES = ("NHWC", "HWIO", "NHWC")
_LONGEST_ROW = (
    96  # of pixels times maps, made by `transposed_by_rows`, whose matrix has a multiple of so many columns
)


def convolve(x: Image, kernel: Kernel, stride: int) -> Float[Array, "p q m"]:
    """A convolution with "SAME" padding: as a product where programs are made for a CPU."""
    if _is_for_cpu():
        return strided(x, kernel, stride)
    return lax.conv_general_dilated(x[None], kernel, (stride, stride), "SAME", dimension_numbers=_AXES)[0]


def convolve_transposed(x: Image, kernel: Kernel, stride: int) -> Float[Array, "p q m"]:
    """A transposed one, likewise: by rows onto few maps, unless rows are long, where most of the matrix is zeros."""
    if not _is_for_cpu():
        return lax.conv_transpose(x[None], kernel, (stride, stride), "SAME", dimension_numbers=_AXES)[0]
    channels, maps = kernel.shape[2:]
    if maps * stride**2 < channels and x.shape[1] * stride * maps <= _LONGEST_ROW:
        return transposed_by_rows(x, kernel, stride)
    return transposed(x, kernel, stride)


def _is_for_cpu() -> bool:
    device: Any = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return getattr(device, "platform", device or jax.default_backend()) == "cpu"


def strided(x: Image, kernel: Kernel, stride: int) -> Float[Array, "p q m"]:
    """y[p] = Σ_k x[s p + k - pad] w[k] along both axes, "SAME" padding: ⌈H/s⌉ × ⌈W/s⌉."""
    size, _, channels, maps = kernel.shape
    taps = -(-size // stride)
    sizes = [-(-side // stride) for side in x.shape[:2]]
    pads = []
    for side, own in zip(x.shape[:2], sizes, strict=True):
        before = max((own - 1) * stride + size - side, 0) // 2
        pads.append((before, (own + taps - 1) * stride - side - before, 0))
    blocks = lax.pad(x, jnp.zeros((), x.dtype), (*pads, (0, 0, 0)))
    rows, columns = (own + taps - 1 for own in sizes)
    blocks = blocks.reshape(rows, stride, columns, stride, channels).transpose(0, 2, 1, 3, 4)
    windows, weights = [], []
    for i in range(taps):
        for j in range(taps):
            # Of the last blocks that the kernel reaches, it may reach a part.
            here = slice(i * stride, (i + 1) * stride), slice(j * stride, (j + 1) * stride)
            own = kernel[here]
            part = blocks[i : i + sizes[0], j : j + sizes[1], : own.shape[0], : own.shape[1]]
            windows.append(part.reshape(*sizes, math.prod(part.shape[2:])))
            weights.append(own.reshape(math.prod(own.shape[:3]), maps))
    return jnp.concatenate(windows, -1) @ jnp.concatenate(weights)


def transposed(x: Image, kernel: Kernel, stride: int) -> Float[Array, "p q m"]:
    """y[o] = Σ_{i, k: s i = o + k - pad} x[i] w[k] along both axes: s H × s W, as `lax.conv_transpose` has it."""
    size = kernel.shape[0]
    before = _pad_of_transposed(size, stride)
    phases = np.arange(stride)
    # For the phase a of o = s p + a and the offset j of i = p + j: k = s j + pad - a, no weight where that is outside.
    first, last = math.ceil(-before / stride), (size - 1 - before + stride - 1) // stride
    index = stride * np.arange(first, last + 1)[:, None] + before - phases[None, :]
    index = np.where((index >= 0) & (index < size), index, size).reshape(-1)
    taps = last - first + 1
    whole = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))[index][:, index]
    weights = whole.reshape(taps, stride, taps, stride, *kernel.shape[2:]).transpose(0, 2, 4, 1, 3, 5)
    pad = (-first, last, 0)
    padded = lax.pad(x, jnp.zeros((), x.dtype), (pad, pad, (0, 0, 0)))
    windows = [padded[i : i + x.shape[0], j : j + x.shape[1]] for i in range(taps) for j in range(taps)]
    rows, columns, maps = *x.shape[:2], kernel.shape[-1]
    blocks = jnp.concatenate(windows, -1) @ weights.reshape(taps**2 * kernel.shape[2], stride**2 * maps)
    blocks = blocks.reshape(rows, columns, stride, stride, maps).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(rows * stride, columns * stride, maps)


def transposed_by_rows(x: Image, kernel: Kernel, stride: int) -> Float[Array, "p q m"]:
    """The same sum in another order. Along rows: a row of x, [W C], by a matrix [W C, k s W m] in which the kernel
    stands W times, s columns apart. Then along columns: the k results of each row are added s rows apart."""
    size, maps = kernel.shape[0], kernel.shape[-1]
    height, width, channels = x.shape
    if not x.size:  # rows that are not there cannot be added some apart
        return jnp.zeros((height * stride, width * stride, maps), jnp.result_type(x, kernel))
    before = _pad_of_transposed(size, stride)
    # Of the pixel i, the kernel's k-th weight reaches o = s i + before - k.
    reached = stride * np.arange(width)[:, None] + before - np.arange(size)
    band = jnp.asarray(reached[..., None] == np.arange(stride * width), kernel.dtype)
    row = stride * width * maps
    matrix = jnp.einsum("ilo,klcm->ickom", band, kernel).reshape(width * channels, size * row)
    dtype = jnp.result_type(x, kernel)
    exact = jnp.promote_types(dtype, jnp.float32)  # half precision is rounded to once, when all is added
    rows = jnp.matmul(x.reshape(height, width * channels), matrix, preferred_element_type=exact)
    rows = rows.reshape(height, size, row)
    total = jnp.zeros((), exact)
    for k in range(size):
        first = before - k
        after = stride - 1 - first  # so that each makes s H rows
        total += lax.pad(rows[:, k], jnp.zeros((), exact), ((first, after, stride - 1), (0, 0, 0)))
    return total.astype(dtype).reshape(height * stride, width * stride, maps)


def _pad_of_transposed(size: int, stride: int) -> int:
    """`lax.conv_transpose`'s, before the first pixel, for "SAME"."""
    return size - 1 if stride > size - 1 else math.ceil((size + stride - 2) / 2)
