"""Data sets of a user's own: an npz archive, or a folder of image files."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from hmcvae.data.archives import read_members
from hmcvae.data.dataset import Splits, mismatch
from hmcvae.data.prepared import import_optional

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
# What is read is held in memory: of more than this the user is told, not the kernel.
MAX_BYTES = 16 * 2**30
# Of a set without test images, one in so many is set aside, chosen by a fixed seed.
TEST_SHARE = 10
_TEST_SEED = 1812


def is_own(name: str) -> bool:
    """Whether a data set's name is the path of an archive or a folder."""
    return name.endswith(".npz") or os.sep in name or "/" in name


def read_own(path: Path) -> Splits:
    """The images of an archive or a folder.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it does not hold what it should; see `read_archive` and `folder`.
    """
    path = path.expanduser()
    if path.is_dir():
        return _read_folders(path)
    if not path.is_file():
        raise FileNotFoundError(f"no data at {path}: expected an npz archive or a folder of images")
    return read_archive(path)


def read_archive(path: Path) -> Splits:
    """An npz with `train`, and `test` and `validation` where it has them: uint8 [n, h, w] or [n, h, w, c], or bool.

    Raises:
        ValueError: for other arrays, or what is no archive.
    """
    arrays = read_members(path, ("train",), ("test", "validation"), MAX_BYTES)
    images = {key: _as_images(path, key, values) for key, values in arrays.items()}
    shapes = {values.shape[1:] for values in images.values()}
    if len(shapes) > 1:
        raise mismatch(path, "images of one shape in all arrays", sorted(shapes))
    return _with_test(images["train"], images.get("test"), f"npz archive {path}", images.get("validation"))


def folder(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "n h w c"]:
    """All image files of a folder, by name, those in its subfolders among them: grey ones [n, h, w, 1], others
    [n, h, w, 3]. Needs Pillow.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if they are not of one size, or one cannot be read; says which.
        ImportError: without Pillow.
    """
    image_module = import_optional("PIL.Image", "experiments")
    place = Path(path).expanduser()
    files = sorted(file for file in place.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise FileNotFoundError(f"no image files in {place}: expected {', '.join(sorted(SUFFIXES))}")
    first: tuple[tuple[int, int], str] | None = None
    images: np.ndarray | None = None
    for index, file in enumerate(files):
        try:
            with image_module.open(file) as image:
                found = image.size, "L" if image.mode in ("1", "L") else "RGB"
                if image.mode.startswith(("I", "F")):
                    raise ValueError(f"{image.mode} pixels: expected 8 bits")
                if images is None or first is None:
                    first = found
                    shape = (len(files), found[0][1], found[0][0], 1 if found[1] == "L" else 3)
                    if math.prod(shape) > MAX_BYTES:
                        raise ValueError(f"{list(shape)} pixels in all, more than {MAX_BYTES} bytes")
                    images = np.zeros(shape, np.uint8)
                if found != first:
                    raise ValueError(
                        f"{found[1]} of {found[0]} where {files[0].name} is {first[1]} of {first[0]}"
                    )
                pixels = np.asarray(image.convert(found[1]), np.uint8)
        except Exception as error:  # Pillow raises kinds of its own, for files of every kind
            raise mismatch(file, "an image like the others", str(error) or repr(error)) from error
        images[index] = pixels.reshape(images.shape[1:])
    assert images is not None
    return images


def _read_folders(path: Path) -> Splits:
    """`train` and `test` (and `validation`) in a folder, or the images of a folder without them."""
    splits = [name for name in ("train", "test", "validation") if (path / name).is_dir()]
    if not splits:
        return _with_test(folder(path), None, f"image files in {path}", None)
    if "train" not in splits:
        raise mismatch(path, f"a folder train beside {' and '.join(splits)}", "none")
    found = {name: folder(path / name) for name in splits}
    shapes = {values.shape[1:] for values in found.values()}
    if len(shapes) > 1:
        raise mismatch(path, "images of one size in all of its folders", sorted(shapes))
    return _with_test(found["train"], found.get("test"), f"image files in {path}", found.get("validation"))


def _with_test(
    train: np.ndarray, test: np.ndarray | None, source: str, validation: np.ndarray | None
) -> Splits:
    if test is not None:
        return Splits(train, test, source, validation)
    if len(train) < 2:
        raise ValueError(f"{source}: expected at least two images, one of them to test on, got {len(train)}")
    order = np.random.RandomState(_TEST_SEED).permutation(len(train))
    num_test = max(1, len(train) // TEST_SHARE)
    chosen, rest = np.sort(order[:num_test]), np.sort(order[num_test:])
    return Splits(
        train[rest], train[chosen], f"{source}, of which {num_test} are set aside as test images", validation
    )


def _as_images(path: Path, key: str, values: np.ndarray) -> UInt8[np.ndarray, "n h w c"]:
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.dtype != np.uint8 or values.ndim not in (3, 4) or values.size == 0:
        raise mismatch(
            f"{path}, {key}",
            "images as uint8 [n, h, w] or [n, h, w, c]",
            f"{values.dtype} {list(values.shape)}",
        )
    return values[..., None] if values.ndim == 3 else values
