"""The first of a data set's sources that is there, checked and split."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hmcvae.data.archives import read_amat_files, read_packed_npz
from hmcvae.data.cifar import read_cifar10_batches, read_cifar10_npz
from hmcvae.data.dataset import FORMATS, NAMES, Absent, Dataset, Splits, check_pixels, mismatch
from hmcvae.data.idx import read_idx_pair
from hmcvae.data.own import is_own, read_own
from hmcvae.data.prepared import download_copy, import_optional, read_prepared

DATA_DIR_VARIABLE = "HMCVAE_DATA_DIR"
_DIGITS_SEED = 1797  # splits the digits into training and test images
_VALIDATION_SEED = 2015  # chooses the validation images
_TRAIN_SEED = 1936  # chooses some of the training images


def load(
    name: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    num_validation: Any = 0,
    num_train: Any = 0,
) -> Dataset:
    """Load a data set into memory, without touching the network unless `download` is set.

    Args:
        name: one of `NAMES`; or the path of data of your own, a string or a `Path`: an npz archive with `train` (and
            `test`, `validation`) as uint8 [n, h, w] or [n, h, w, c], or a folder of image files (or with folders
            `train`, `test`, …). Bits are told from grey values by their range. Without test images a tenth is set
            aside.
        data_dir: folder that holds the data: local files in `<data_dir>/<name>` or `<data_dir>`, prepared
            copies in `<data_dir>/tfds` or `<data_dir>`. By default the folder that the environment variable
            HMCVAE_DATA_DIR names; and then a prepared copy may also be in tensorflow-datasets' own folder
            (TFDS_DATA_DIR, or ~/tensorflow_datasets). Not used for `digits`.
        download: let tensorflow-datasets download and prepare what is not found, into `<data_dir>/tfds` (its
            own folder where there is no data_dir). Needs TensorFlow. A CIFAR-10 subset on disk is used only
            where there is no whole set, and is no reason not to download.
        num_validation: number of images to set aside: the last of a fixed permutation of the training images,
            which lose them and else keep their order. `binarized_mnist` has validation images of its own,
            sorted by class: there it is the first of a fixed permutation of those.
        num_train: number of training images to keep, of a fixed permutation, in their order; 0: all.

    Raises:
        ValueError: unknown name; num_validation out of range; a file that is not what it should be.
        FileNotFoundError: no data; says where it was looked for, and what to do.
        ImportError: the way to the data needs a package that is not there; says which.
    """
    if isinstance(name, os.PathLike):
        name = _as_own_name(name)
    if not isinstance(name, str) or (name not in FORMATS and not is_own(name)):
        raise ValueError(
            f"expected the name of a data set, one of {', '.join(NAMES)}, or the path of an npz archive or a folder of "
            f"images; got {name!r}"
        )
    if not (data_dir is None or isinstance(data_dir, (str, os.PathLike))):
        raise ValueError(f"expected data_dir to be a path, got {data_dir!r}")
    num_validation = _whole("num_validation", num_validation)
    num_train = _whole("num_train", num_train)
    if name in FORMATS:
        splits = _digits() if name == "digits" else _find(name, data_dir, download)
        _check_splits(name, splits)
        max_value, source = FORMATS[name].max_value, _describe_source(name, splits)
    else:
        splits = read_own(_own_path(name, data_dir))
        max_value, source = (255 if int(splits.train.max()) > 1 else 1), splits.source
        for images in (splits.test, splits.validation):
            if images is not None:
                check_pixels(images, max_value)
    train, validation = _set_aside_validation(splits, num_validation)
    if num_train > len(train):
        raise ValueError(f"expected num_train <= {len(train)} training images, got {num_train}")
    if num_train:
        train = train[np.sort(np.random.RandomState(_TRAIN_SEED).permutation(len(train))[:num_train])]
        source += f", {num_train} of its training images"
    return Dataset(name, train, validation, splits.test, max_value, source)


def _whole(name: str, value: Any) -> int:
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_whole or value < 0:
        raise ValueError(f"expected {name} to be a whole number >= 0, got {value!r}")
    return int(value)


def _as_own_name(path: os.PathLike[str]) -> str:
    """A path as a string that is no name of a data set."""
    name = os.fspath(path)
    if not isinstance(name, str):
        raise ValueError(f"expected a path in characters, got {name!r}")
    return name if is_own(name) else os.path.join(os.curdir, name)


def _own_path(name: str, data_dir: str | os.PathLike[str] | None) -> Path:
    """The path itself; or where it is no more, one of its name in the data folder."""
    path = Path(name).expanduser()
    other = None if data_dir is None else Path(data_dir).expanduser() / path.name
    return other if other is not None and not path.exists() and other.exists() else path


def _check_splits(name: str, splits: Splits) -> None:
    expected = FORMATS[name]
    for split in ("train", "validation", "test"):
        images = getattr(splits, split)
        if images is None:
            continue
        where = f"{name}, {split} images from {splits.source}"
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected.image_shape:
            shape = ", ".join(map(str, expected.image_shape))
            raise mismatch(where, f"uint8 [n, {shape}]", f"{images.dtype} {list(images.shape)}")
        try:
            check_pixels(images, expected.max_value)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def _set_aside_validation(splits: Splits, num_validation: int) -> tuple[np.ndarray, np.ndarray]:
    train, own = splits.train, splits.validation
    pool, limit = (train, len(train) - 1) if own is None else (own, len(own))
    if num_validation > limit:
        whose = f"{len(train)} training" if own is None else f"{len(own)} validation"
        raise ValueError(f"expected num_validation <= {limit} of the {whose} images, got {num_validation}")
    if num_validation == 0:
        return train, train[:0]
    permutation = np.random.RandomState(_VALIDATION_SEED).permutation(len(pool))
    if own is not None:
        return train, own[permutation[:num_validation]]
    return train[np.sort(permutation[:-num_validation])], train[permutation[-num_validation:]]


def _describe_source(name: str, splits: Splits) -> str:
    whole = FORMATS[name]
    if len(splits.train) == whole.num_train and len(splits.test) == whole.num_test:
        return splits.source
    return (
        f"{splits.source} (NOT the whole set: {len(splits.train):,} of {whole.num_train:,} training "
        f"and {len(splits.test):,} of {whole.num_test:,} test images)"
    )


def _find(name: str, data_dir: str | os.PathLike[str] | None, download: bool) -> Splits:
    """The first of the sources of `name` that is there."""
    chosen = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE) or None
    folders = [] if chosen is None else [Path(chosen).expanduser()]
    places = [folder / sub for folder in folders for sub in (name, "")]
    tfds_folders = [folder / sub for folder in folders for sub in ("tfds", "")]
    if data_dir is None:
        tfds_folders.append(Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser())

    attempts = [functools.partial(read, place, name) for place in places for read in _LOCAL_READERS[name]]
    attempts += [functools.partial(read_prepared, folder, name) for folder in tfds_folders]
    if download:
        attempts.append(functools.partial(download_copy, tfds_folders[0], name))
    if name == "cifar10":
        attempts += [functools.partial(read_cifar10_npz, place, "cifar10_subset") for place in places]

    absent = [f"{folder}: no such folder" for folder in folders if not folder.is_dir()]
    for attempt in attempts:
        try:
            return attempt()
        except Absent as reason:
            absent.append(str(reason))
    looked = "".join(f"\n  {path}" for path in dict.fromkeys(absent))
    raise FileNotFoundError(
        f"no data for {name!r}. Not found:{looked}\n"
        f"Put the files in one of these places; or name the folder that has them with data_dir (--data-dir) "
        f"or the variable {DATA_DIR_VARIABLE}; or let tensorflow-datasets download them with download=True "
        f"(--download), after `pip install -e '.[tfds]'`."
    )


def _digits() -> Splits:
    datasets = import_optional("sklearn.datasets", "experiments")
    images = datasets.load_digits().images.astype(np.uint8)[..., None]
    images = images[np.random.RandomState(_DIGITS_SEED).permutation(len(images))]
    num_train = FORMATS["digits"].num_train
    return Splits(images[:num_train], images[num_train:], "scikit-learn digits")


_LOCAL_READERS: dict[str, tuple[Callable[[Path, str], Splits], ...]] = {
    "mnist": (read_idx_pair,),
    "fashion_mnist": (read_idx_pair,),
    "binarized_mnist": (read_packed_npz, read_amat_files),
    "cifar10": (read_cifar10_npz, read_cifar10_batches),
}
