"""What a data set is, and what its images must be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8


class _Format(NamedTuple):
    image_shape: tuple[int, int, int]
    max_value: int
    num_train: int
    num_test: int


FORMATS = {
    "digits": _Format((8, 8, 1), 16, 1_500, 297),
    "mnist": _Format((28, 28, 1), 255, 60_000, 10_000),
    "fashion_mnist": _Format((28, 28, 1), 255, 60_000, 10_000),
    "binarized_mnist": _Format((28, 28, 1), 1, 50_000, 10_000),
    "cifar10": _Format((32, 32, 3), 255, 50_000, 10_000),
}


NAMES: tuple[str, ...] = tuple(FORMATS)


class Dataset(NamedTuple):
    """Images of one data set; pixels / max_value is in [0, 1]."""

    name: str
    train: UInt8[np.ndarray, "n h w c"]
    validation: UInt8[np.ndarray, "m h w c"]  # m = 0 when none was asked for
    test: UInt8[np.ndarray, "k h w c"]
    max_value: int  # of a pixel: 255, 16 for digits, 1 for binarized_mnist
    source: str  # where the images came from, for the run's record

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        _, height, width, channels = self.train.shape
        return height, width, channels


class Splits(NamedTuple):
    """What a reader found: before the checks, and before validation images are set aside."""

    train: np.ndarray
    test: np.ndarray
    source: str
    validation: np.ndarray | None = None  # the data set's own validation images, where it has them


class Absent(Exception):
    """A reader did not find its files; the message says which."""


def check_pixels(images: np.ndarray, max_value: float) -> None:
    """Check that `images` is a set of images [n, h, w, c] with every pixel in [0, max_value].

    Raises:
        ValueError: not four axes; no pixels; not real numbers; pixels that are NaN, negative or above
            max_value (how many of each, and where the first one is).
    """
    if not isinstance(images, np.ndarray) or isinstance(images, np.ma.MaskedArray):
        raise ValueError(f"expected images as a plain array [n, h, w, c], got {type(images).__name__}")
    if images.ndim != 4:
        raise ValueError(f"expected images of shape [n, h, w, c], got an array of shape {list(images.shape)}")
    if images.size == 0:
        raise ValueError(f"expected at least one image, got an empty array of shape {list(images.shape)}")
    if images.dtype.kind not in "buif":
        raise ValueError(f"expected pixels that are real numbers, got dtype {images.dtype}")
    # Reductions need no temporary of the size of the data; NaN passes through them and fails to compare.
    if images.min() >= 0 and images.max() <= max_value:
        return
    bad = ~((images >= 0) & (images <= max_value))
    first = tuple(int(i) for i in np.unravel_index(np.argmax(bad), bad.shape))
    num_negative, num_above = int(np.sum(images < 0)), int(np.sum(images > max_value))
    num_nan = int(np.sum(bad)) - num_negative - num_above
    raise ValueError(
        f"expected pixels in [0, {max_value}], got {num_nan} NaN, {num_negative} negative and {num_above} "
        f"above; the first is images{list(first)} = {images[first]}"
    )


def mismatch(where: object, expected: object, got: object) -> ValueError:
    return ValueError(f"{where}: expected {expected}, got {got}")


def max_pixels(name: str) -> int:
    """Of one split of a data set, with room to spare: what claims to be larger is another, or made to fill memory."""
    return 2 * FORMATS[name].num_train * math.prod(FORMATS[name].image_shape)


def existing(folder: Path, filename: str, *suffixes: str) -> Path:
    for path in (folder / (filename + suffix) for suffix in ("", *suffixes)):
        if path.is_file():
            return path
    raise Absent(f"{folder / filename}{''.join(f'[{suffix}]' for suffix in suffixes)}")
