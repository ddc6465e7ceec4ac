"""Whole-number pixels as a model takes them: grey values in [0, 1], or bits drawn anew each time."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from hmcvae._checks import check_count, check_flag, check_plain, is_concrete
from hmcvae.likelihoods import check_range
from hmcvae.types import PRNGKey


@dataclass(frozen=True)
class Pixels:
    """A preprocess function, `(rng_key, pixels) -> x`: pixels 0 … max_value to float32 in [0, 1]; with `binarize`, bits
    with these probabilities.

    Raises:
        ValueError: unless max_value is a positive whole number and binarize a bool.
    """

    max_value: int
    binarize: bool = False

    def __post_init__(self):
        object.__setattr__(self, "max_value", check_count("max_value", self.max_value, 1))
        object.__setattr__(self, "binarize", check_flag("binarize", self.binarize))

    def __call__(self, rng_key: PRNGKey, pixels: Shaped[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
        """One image, or several of one key.

        Raises:
            ValueError: see `check_images`; of pixels that are being traced only the dtype is seen.
        """
        check_images(pixels, self.max_value)
        grey = jnp.asarray(pixels).astype(jnp.float32) / self.max_value
        return jax.random.bernoulli(rng_key, grey).astype(jnp.float32) if self.binarize else grey

    def check(self, images: Any, name: str) -> None:
        """Raise ValueError for pixels outside 0 … max_value; see `check_images`."""
        check_images(images, self.max_value, f"{name} pixels")

    def check_spread(self, images: Any, name: str) -> None:
        """Raise ValueError for training images that use next to nothing of 0 … max_value: such as were divided by it
        before, or bits that were given the range of grey values. For concrete images."""
        if np.dtype(images.dtype).kind not in "bui":
            check_range(images, f"{name} pixels")
            return
        highest = int(np.asarray(images).max())
        if highest == 0 or (highest == 1 and self.max_value > 1):
            advice = "bits are taken with max_value = 1" if highest else "were they divided by it before?"
            raise ValueError(
                f"expected {name} pixels that use the range 0 … max_value = {self.max_value}, got {highest} at most: "
                + advice
            )


def check_array(images: Any, name: str) -> None:
    """Raise ValueError for what is no array: a list, None."""
    if not (hasattr(images, "dtype") and hasattr(images, "shape")):
        raise ValueError(f"expected {name} as an array [n, …], got {type(images).__name__}")


def check_images(images: Any, max_value: int, name: str = "pixels") -> None:
    """Check that images hold whole numbers 0 … max_value; or, where max_value is 1, any numbers in [0, 1].

    Of images that are being traced, the dtype is checked.

    Raises:
        ValueError: for another dtype, or pixels outside that range or NaN: what was expected and what came.
    """
    max_value = check_count("max_value", max_value, 1)
    check_array(images, name)
    dtype = np.dtype(images.dtype)
    if jnp.issubdtype(dtype, jnp.floating) and max_value != 1:
        raise ValueError(
            f"expected {name} as whole numbers 0 … max_value = {max_value} (uint8), got {dtype}; numbers that are in "
            "[0, 1] already are taken with max_value = 1"
        )
    if dtype.kind not in "bui" and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"expected {name} as whole numbers 0 … max_value = {max_value} (uint8), got {dtype}")
    if dtype.kind in "ui" and np.iinfo(dtype).max < max_value:
        raise ValueError(
            f"expected {name} of at most max_value = {max_value}, got {dtype}, which cannot hold it"
        )
    check_plain(name, images)
    is_within = dtype.kind == "u" and np.iinfo(dtype).max <= max_value
    if is_concrete(images) and images.size and not is_within:
        _check_range_of(np.asarray(images), max_value, name)


def _check_range_of(array: np.ndarray, max_value: int, name: str) -> None:
    array = array.astype(np.uint8) if array.dtype.kind == "b" else array
    lowest, highest = array.min(), array.max()
    # NaN compares with nothing, and passes through NumPy's reductions.
    if lowest >= 0 and highest <= max_value:
        return
    if np.isnan(highest):
        count = int(np.isnan(array.astype(np.float64)).sum())
        raise ValueError(
            f"expected {name} from 0 to max_value = {max_value}, got NaN in {count} of {array.size}"
        )
    at_most = highest if highest > max_value else f"values from {lowest} to {highest}"
    raise ValueError(
        f"expected {name} of at most max_value = {max_value}, got {at_most}"
        if lowest >= 0
        else f"expected {name} from 0 to max_value = {max_value}, got values from {lowest} to {highest}"
    )
