"""Data sets of a user's own: an npz archive, or a folder of image files."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from hmcvae.data.archives import read_members
from hmcvae.data.dataset import NAMES, Splits, mismatch
from hmcvae.data.pictures import SUFFIXES, Picture, read_picture
from hmcvae.data.prepared import import_optional

SPLITS = ("train", "test", "validation")
# What is read is held in memory: of more than this the user is told, not the kernel.
MAX_BYTES = 16 * 2**30
# Of a set without test images, one in so many is set aside, chosen by a fixed seed.
TEST_SHARE = 10
_TEST_SEED = 1812


def is_own(name: str | os.PathLike[str]) -> bool:
    """Whether a data set's name is the path of an archive or a folder: a `Path`, or a string that is that of an
    archive, or has a slash, or names a folder that is there (unless it is the name of a data set)."""
    if isinstance(name, os.PathLike):
        return True
    has_form = name.endswith(".npz") or os.sep in name or "/" in name
    return has_form or (
        bool(name) and name not in NAMES and "\0" not in name and Path(name).expanduser().is_dir()
    )


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
    [n, h, w, 3]. Needs Pillow; see `hmcvae.data.pictures` for what is made of a file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if they are not of one size, or one cannot be read, is a film, has transparent pixels, or more than
            8 bits; or a folder that leads back into itself. Says which.
        ImportError: without Pillow.
    """
    import_optional("PIL.Image", "experiments")
    place = Path(path).expanduser()
    files = image_files(place)
    if not files:
        raise FileNotFoundError(f"no image files in {place}: expected {', '.join(sorted(SUFFIXES))}")
    first: Picture | None = None
    images = np.zeros((0, 0, 0, 1), np.uint8)
    for index, file in enumerate(files):
        try:
            own = read_picture(file, MAX_BYTES)
            if first is None:
                first = own
                images = _room(len(files), own.pixels.shape)
            if first.is_grey is None and own.is_grey is not None:
                first = own._replace(pixels=first.pixels) if own.is_grey else _coloured(first)
                images = images if own.is_grey else np.repeat(images, 3, axis=-1)
            if first.is_grey is False and own.is_grey is None:
                own = _coloured(own)
            if own.pixels.shape != first.pixels.shape:
                raise ValueError(f"{own.describe()} where {files[0].name} is {first.describe()}")
        except Exception as error:  # Pillow raises kinds of its own, for files of every kind
            raise mismatch(file, "an image like the others", str(error) or repr(error)) from error
        images[index] = own.pixels
    return images


def _room(count: int, shape: tuple[int, ...]) -> np.ndarray:
    if count * math.prod(shape) > MAX_BYTES:
        raise ValueError(f"{[count, *shape]} pixels in all, more than {MAX_BYTES} bytes")
    return np.zeros((count, *shape), np.uint8)


def _coloured(picture: Picture) -> Picture:
    return Picture(np.repeat(picture.pixels, 3, axis=-1), False)


def image_files(place: Path) -> list[Path]:
    """The image files in a folder and its subfolders, links to folders among them, by name.

    Raises:
        ValueError: if a link leads to a folder that it is in.
    """
    found = []
    for parent, names, files in os.walk(place, followlinks=True):
        for name in names:
            own = Path(parent, name)
            if own.is_symlink() and own.resolve() in (
                Path(parent).resolve(),
                *Path(parent).resolve().parents,
            ):
                raise mismatch(own, "a folder of images", "a link to a folder that it is in")
        found += [Path(parent, name) for name in files if Path(name).suffix.lower() in SUFFIXES]
    return sorted(file for file in found if file.is_file())


def _read_folders(path: Path) -> Splits:
    """`train` and `test` (and `validation`) in a folder, or the images of a folder without them."""
    splits = [name for name in SPLITS if (path / name).is_dir()]
    if not splits:
        return _with_test(folder(path), None, f"image files in {path}", None)
    if "train" not in splits:
        raise mismatch(path, f"a folder train beside {' and '.join(splits)}", "none")
    others = sorted(own.name for own in path.iterdir() if own.is_dir() and own.name not in SPLITS)
    others = [name for name in others if not name.startswith(".") and image_files(path / name)]
    if others:
        raise mismatch(
            path, f"images in folders {', '.join(SPLITS)} alone, where there is one", ", ".join(others)
        )
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
