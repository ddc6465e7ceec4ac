"""Image data sets as NumPy arrays of whole-number pixels, read from disk.

    data = load("mnist", "path/to/data", num_validation=10_000)
    pixels = data.train / data.max_value        # [n, h, w, c], in [0, 1]

`load` takes the first that it finds of: local files (idx, npz, amat, the CIFAR-10 Python batches); a copy
prepared by tensorflow-datasets in its array_record format, which is read without TensorFlow; and, only with
`download=True`, a download through tensorflow-datasets. `digits` comes with scikit-learn.

The split of `digits` and the choice of validation images are drawn from fixed seeds with
`numpy.random.RandomState`, whose stream is frozen (NEP 19): they are the same in every NumPy version. They do
depend on the order of the images, and tensorflow-datasets shuffles them: `Dataset.source` belongs in a run's
record.
"""

from __future__ import annotations

import functools
import gzip
import importlib
import json
import math
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

__all__ = ["NAMES", "Dataset", "check_pixels", "load", "read_idx"]

DATA_DIR_VARIABLE = "HMCVAE_DATA_DIR"
_DIGITS_SEED = 1797  # splits the digits into training and test images
_VALIDATION_SEED = 2015  # chooses the validation images


class _Format(NamedTuple):
    image_shape: tuple[int, int, int]
    max_value: int
    num_train: int
    num_test: int


_FORMATS = {
    "digits": _Format((8, 8, 1), 16, 1_500, 297),
    "mnist": _Format((28, 28, 1), 255, 60_000, 10_000),
    "fashion_mnist": _Format((28, 28, 1), 255, 60_000, 10_000),
    "binarized_mnist": _Format((28, 28, 1), 1, 50_000, 10_000),
    "cifar10": _Format((32, 32, 3), 255, 50_000, 10_000),
}
NAMES: tuple[str, ...] = tuple(_FORMATS)

# MNIST and Fashion-MNIST come in files of the same names and sizes; the test pixels' CRC-32 tells them apart.
_TEST_CRC = {"mnist": 0xE4CA5F57, "fashion_mnist": 0x12728439}


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


class _Splits(NamedTuple):
    """What a reader found: before the checks, and before validation images are set aside."""

    train: np.ndarray
    test: np.ndarray
    source: str
    validation: np.ndarray | None = None  # the data set's own validation images, where it has them


class _Absent(Exception):
    """A reader did not find its files; the message says which."""


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    num_validation: Any = 0,
) -> Dataset:
    """Load a data set into memory, without touching the network unless `download` is set.

    Args:
        name: one of `NAMES`.
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

    Raises:
        ValueError: unknown name; num_validation out of range; a file that is not what it should be.
        FileNotFoundError: no data; says where it was looked for, and what to do.
        ImportError: the way to the data needs a package that is not there; says which.
    """
    if name not in _FORMATS:
        raise ValueError(f"expected the name of a data set, one of {', '.join(NAMES)}; got {name!r}")
    if not (data_dir is None or isinstance(data_dir, (str, os.PathLike))):
        raise ValueError(f"expected data_dir to be a path, got {data_dir!r}")
    is_whole = isinstance(num_validation, (int, np.integer)) and not isinstance(num_validation, bool)
    if not is_whole or num_validation < 0:
        raise ValueError(f"expected num_validation to be a whole number >= 0, got {num_validation!r}")
    num_validation = int(num_validation)
    splits = _digits() if name == "digits" else _find(name, data_dir, download)
    _check_splits(name, splits)
    train, validation = _set_aside_validation(splits, num_validation)
    source = _describe_source(name, splits)
    return Dataset(name, train, validation, splits.test, _FORMATS[name].max_value, source)


def check_pixels(images: np.ndarray, max_value: float) -> None:
    """Check that `images` is a set of images [n, h, w, c] with every pixel in [0, max_value].

    Raises:
        ValueError: not four axes; no pixels; not real numbers; pixels that are NaN, negative or above
            max_value (how many of each, and where the first one is).
    """
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


def _mismatch(where: object, expected: object, got: object) -> ValueError:
    return ValueError(f"{where}: expected {expected}, got {got}")


def _check_splits(name: str, splits: _Splits) -> None:
    expected = _FORMATS[name]
    for split in ("train", "validation", "test"):
        images = getattr(splits, split)
        if images is None:
            continue
        where = f"{name}, {split} images from {splits.source}"
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected.image_shape:
            shape = ", ".join(map(str, expected.image_shape))
            raise _mismatch(where, f"uint8 [n, {shape}]", f"{images.dtype} {list(images.shape)}")
        try:
            check_pixels(images, expected.max_value)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def _set_aside_validation(splits: _Splits, num_validation: int) -> tuple[np.ndarray, np.ndarray]:
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


def _describe_source(name: str, splits: _Splits) -> str:
    whole = _FORMATS[name]
    if len(splits.train) == whole.num_train and len(splits.test) == whole.num_test:
        return splits.source
    return (
        f"{splits.source} (NOT the whole set: {len(splits.train):,} of {whole.num_train:,} training "
        f"and {len(splits.test):,} of {whole.num_test:,} test images)"
    )


def _find(name: str, data_dir: str | os.PathLike[str] | None, download: bool) -> _Splits:
    """The first of the sources of `name` that is there."""
    chosen = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE) or None
    folders = [] if chosen is None else [Path(chosen).expanduser()]
    places = [folder / sub for folder in folders for sub in (name, "")]
    tfds_folders = [folder / sub for folder in folders for sub in ("tfds", "")]
    if data_dir is None:
        tfds_folders.append(Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser())

    attempts = [functools.partial(read, place, name) for place in places for read in _LOCAL_READERS[name]]
    attempts += [functools.partial(_read_prepared, folder, name) for folder in tfds_folders]
    if download:
        attempts.append(functools.partial(_download, tfds_folders[0], name))
    if name == "cifar10":
        attempts += [functools.partial(_read_cifar10_npz, place, "cifar10_subset") for place in places]

    absent = [f"{folder}: no such folder" for folder in folders if not folder.is_dir()]
    for attempt in attempts:
        try:
            return attempt()
        except _Absent as reason:
            absent.append(str(reason))
    looked = "".join(f"\n  {path}" for path in dict.fromkeys(absent))
    raise FileNotFoundError(
        f"no data for {name!r}. Not found:{looked}\n"
        f"Put the files in one of these places; or name the folder that has them with data_dir (--data-dir) "
        f"or the variable {DATA_DIR_VARIABLE}; or let tensorflow-datasets download them with download=True "
        f"(--download), after `pip install -e '.[tfds]'`."
    )


def _digits() -> _Splits:
    datasets = _import("sklearn.datasets", "experiments")
    images = datasets.load_digits().images.astype(np.uint8)[..., None]
    images = images[np.random.RandomState(_DIGITS_SEED).permutation(len(images))]
    num_train = _FORMATS["digits"].num_train
    return _Splits(images[:num_train], images[num_train:], "scikit-learn digits")


def read_idx(path: str | os.PathLike[str], max_pixels: int | None = None) -> UInt8[np.ndarray, "n h w"]:
    """Read an idx file of images (LeCun's format for MNIST), gzipped if its name ends in .gz.

    The header is read first, and of the rest no more than it says: a small gzip file can hold gigabytes.

    Args:
        max_pixels: the most that are taken; None: as many as the header says.

    Raises:
        ValueError: broken gzip, not an idx file of unsigned bytes with three axes, not the length it says, or more than
            max_pixels.
    """
    path = Path(path)
    is_gzip = path.suffix == ".gz"
    try:
        with gzip.open(path, "rb") if is_gzip else path.open("rb") as file:
            header = file.read(16)
            if len(header) < 16:
                raise _mismatch(path, "an idx header of 16 bytes", f"a file of {len(header)} bytes")
            magic, *shape = struct.unpack(">4I", header)
            if magic != 0x0803:
                raise _mismatch(
                    path, "the magic number 0x00000803 (unsigned bytes, 3 axes)", f"{magic:#010x}"
                )
            size, stored = math.prod(shape), path.stat().st_size
            # Deflate makes at most 1,032 bytes of one.
            most = 1032 * stored if is_gzip else stored - 16
            if size > most or (not is_gzip and size != most):
                raise _mismatch(
                    path, f"{size} pixels, of shape {shape}", f"{most}{' at most' if is_gzip else ''}"
                )
            if max_pixels is not None and size > max_pixels:
                raise _mismatch(path, f"at most {max_pixels} pixels", f"{size}, of shape {shape}")
            pixels = bytearray(size)  # which NumPy leaves writable
            found = _fill(file, memoryview(pixels))
            rest = file.read(1)  # and at the end of a gzip file, its checksum
    except (OSError, EOFError, zlib.error) as error:
        if not is_gzip or isinstance(error, FileNotFoundError):
            raise
        raise _mismatch(path, "a whole gzip file", repr(error)) from error
    if found != size or rest:
        raise _mismatch(
            path, f"{size} pixels, of shape {shape}", found if found != size else f"more than {size}"
        )
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def _fill(file: Any, buffer: memoryview) -> int:
    """How many bytes of the buffer a file could fill."""
    found = 0
    while found < len(buffer) and (count := file.readinto(buffer[found:])):
        found += count
    return found


def _max_pixels(name: str) -> int:
    """Of one split of a data set, with room to spare: what claims to be larger is another, or made to fill memory."""
    return 2 * _FORMATS[name].num_train * math.prod(_FORMATS[name].image_shape)


def _existing(folder: Path, filename: str, *suffixes: str) -> Path:
    for path in (folder / (filename + suffix) for suffix in ("", *suffixes)):
        if path.is_file():
            return path
    raise _Absent(f"{folder / filename}{''.join(f'[{suffix}]' for suffix in suffixes)}")


def _read_idx_pair(folder: Path, name: str) -> _Splits:
    paths = [_existing(folder, f"{stem}-images-idx3-ubyte", ".gz") for stem in ("train", "t10k")]
    train, test = (read_idx(path, _max_pixels(name))[..., None] for path in paths)
    crc = zlib.crc32(test.tobytes())
    for other, other_crc in _TEST_CRC.items():
        if other != name and crc == other_crc:
            raise _Absent(f"{folder}: its idx files are those of {other}")
    return _Splits(train, test, f"idx files in {folder}")


def _read_npz(path: Path, name: str, *keys: str) -> list[np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise _mismatch(path, "an npz archive", "a file that is none, or is cut short")
    try:
        with zipfile.ZipFile(path) as archive:
            for key in keys:
                _check_member(path, archive, key, _max_pixels(name))
        with np.load(path, allow_pickle=False) as archive:
            return [archive[key] for key in keys]
    except _TooLarge as error:
        raise ValueError(str(error)) from None
    except (OSError, EOFError, ValueError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise _mismatch(path, f"readable arrays {', '.join(keys)}", repr(error)) from error


class _TooLarge(Exception):
    """An array that is not read for its size; the message says which."""


def _check_member(path: Path, archive: zipfile.ZipFile, key: str, max_pixels: int) -> None:
    """Check an array's header against what is stored, before NumPy makes room for it."""
    member = archive.getinfo(f"{key}.npy")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
        size, stored = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
    if size != stored and not dtype.hasobject:
        raise _TooLarge(
            f"{path}: expected {key} to have {size} bytes, of {dtype} {list(shape)}, got {stored}"
        )
    if max(size, stored) > 8 * max_pixels:  # as float64 they would still be read, and refused for that
        raise _TooLarge(f"{path}: expected at most {max_pixels} pixels in {key}, got {dtype} {list(shape)}")


def _read_packed_npz(folder: Path, name: str) -> _Splits:
    path = _existing(folder, f"{name}.npz")
    train, validation, test = (
        _unpack(path, rows) for rows in _read_npz(path, name, "train", "valid", "test")
    )
    return _Splits(train, test, f"static binarization in {path}", validation)


def _unpack(path: Path, rows: np.ndarray) -> UInt8[np.ndarray, "n 28 28 1"]:
    if rows.dtype != np.uint8 or rows.shape[1:] != (98,):
        raise _mismatch(path, "bits packed as uint8 [n, 98]", f"{rows.dtype} {list(rows.shape)}")
    return np.unpackbits(rows, axis=1).reshape(-1, 28, 28, 1)


def _read_amat_files(folder: Path, name: str) -> _Splits:
    paths = [_existing(folder, f"{name}_{split}.amat") for split in ("train", "valid", "test")]
    train, validation, test = map(_read_amat, paths)
    return _Splits(train, test, f"static binarization in the amat files in {folder}", validation)


def _read_amat(path: Path) -> UInt8[np.ndarray, "n 28 28 1"]:
    try:
        rows = np.loadtxt(path, dtype=np.uint8, ndmin=2)
    except ValueError as error:
        raise _mismatch(path, "lines of 784 pixels, 0 or 1", error) from error
    if rows.shape[1] != 784:
        raise _mismatch(path, "lines of 784 pixels", f"lines of {rows.shape[1]}")
    return rows.reshape(-1, 28, 28, 1)


def _read_cifar10_npz(folder: Path, stem: str) -> _Splits:
    path = _existing(folder, f"{stem}.npz")
    train, test = _read_npz(path, "cifar10", "train", "test")
    return _Splits(train, test, str(path))


def _read_cifar10_batches(folder: Path, name: str) -> _Splits:
    folder = folder / "cifar-10-batches-py"
    filenames = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    *train, test = map(_read_cifar10_batch, [_existing(folder, filename) for filename in filenames])
    return _Splits(np.concatenate(train), test, f"Python batches in {folder}")


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays in plain containers and nothing else: a batch file cannot run code."""

    _ALLOWED = frozenset(
        {("numpy", "ndarray")}
        | {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
        | {(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
    )

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) == ("numpy", "dtype"):
            # The batches pass align=0, as Python 2 wrote it, and NumPy >= 2.4 warns; it is for records only.
            return lambda spec, align=False, copy=False: np.dtype(spec)
        if (module_name, global_name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(
                {"latin1": "latin1"}[encoding]
            )  # how Python 3 writes bytes
        if (module_name, global_name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module_name}.{global_name}, which is no part of an array")
        return super().find_class(module_name, global_name)


def _read_cifar10_batch(path: Path) -> UInt8[np.ndarray, "n 32 32 3"]:
    try:
        with path.open("rb") as file:
            batch = _ArrayUnpickler(file, encoding="bytes").load()
        rows = batch[b"data"] if b"data" in batch else batch["data"]
    except Exception as error:  # unpickling a broken file can raise anything
        raise _mismatch(path, "a pickled CIFAR-10 batch with 'data'", repr(error)) from error
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape[1:] != (3072,):
        got = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise _mismatch(path, "'data' as uint8 [n, 3072]", got)
    # A row is the red plane, the green plane, the blue plane.
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


_LOCAL_READERS: dict[str, tuple[Callable[[Path, str], _Splits], ...]] = {
    "mnist": (_read_idx_pair,),
    "fashion_mnist": (_read_idx_pair,),
    "binarized_mnist": (_read_packed_npz, _read_amat_files),
    "cifar10": (_read_cifar10_npz, _read_cifar10_batches),
}


def _prepared_folder(folder: Path, name: str) -> Path:
    """The newest `<folder>/<name>/<version>` in array_record format.

    Found without tfds, which goes to the network for what is not on disk, and there retries for minutes.
    """
    versions = [info.parent for info in (folder / name).glob("*/dataset_info.json")]
    versions = [path for path in versions if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]  # not "incomplete.…"
    others = []
    for path in sorted(versions, key=lambda path: [int(part) for part in path.name.split(".")], reverse=True):
        try:
            file_format = json.loads((path / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
        except (ValueError, AttributeError) as error:
            raise _mismatch(
                path, "a dataset_info.json written by tensorflow-datasets", repr(error)
            ) from error
        if file_format == "array_record":
            return path
        others.append(f"{path} as array_record (it is {file_format}: move it away and prepare it anew)")
    raise _Absent("; ".join(others) or f"{folder / name}/<version>/dataset_info.json (tensorflow-datasets)")


def _read_prepared(folder: Path, name: str) -> _Splits:
    """A copy prepared by tensorflow-datasets; about a second for 10,000 images, which are stored as PNG."""
    path = _prepared_folder(folder, name)
    _check_features(path)
    tfds = _import_tfds()
    splits = ["train", "test"] + (["validation"] if name == "binarized_mnist" else [])
    try:
        # From the folder, not `tfds.builder(name)`: this one reads no dataset code and never leaves the disk.
        builder = tfds.builder_from_directory(str(path))
        images = [_read_split(builder, split) for split in splits]
    except Exception as error:  # array_record raises RuntimeError, tfds whatever it happens upon
        raise _mismatch(path, f"a whole tensorflow-datasets copy of {name}", repr(error)) from error
    return _Splits(images[0], images[1], f"tensorflow-datasets copy in {path}", *images[2:])


# Of these alone is an image data set made. Importing what else a file names would run it.
_FEATURES = frozenset(
    f"tensorflow_datasets.core.features.{name}"
    for name in (
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "class_label_feature.ClassLabel",
        "text_feature.Text",
        "tensor_feature.Tensor",
        "scalar.Scalar",
    )
)
_NAME_OF_A_CLASS = frozenset({"pythonClassName", "python_class_name", "type"})


def _check_features(path: Path) -> None:
    """Raise ValueError if a prepared copy's features.json has a class imported that is none of tensorflow-datasets'."""
    try:
        pending = [json.loads((path / "features.json").read_text())]
    except (OSError, ValueError, RecursionError) as error:
        raise _mismatch(path, "a features.json written by tensorflow-datasets", repr(error)) from error
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            for name in _NAME_OF_A_CLASS & value.keys():
                if isinstance(value[name], str) and value[name] not in _FEATURES:
                    raise _mismatch(
                        path, "a features.json with features of images alone", repr(value[name])[:200]
                    )
            pending += value.values()
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, str) and value.lstrip()[:1] in ("{", "["):  # content in JSON of its own
            try:
                pending.append(json.loads(value))
            except (ValueError, RecursionError):
                continue


def _read_split(builder: Any, split: str) -> UInt8[np.ndarray, "n h w c"]:
    return np.stack([example["image"] for example in builder.as_data_source(split=split)])


def _download(folder: Path, name: str) -> _Splits:
    _import("tensorflow", "tfds")  # encodes the images when a data set is prepared
    tfds = _import_tfds()
    # What tfds copies from Google's bucket is in tfrecord format: always prepare from the original files.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder = tfds.builder(name, data_dir=str(folder))
    builder.download_and_prepare(file_format="array_record", download_config=config)
    return _read_prepared(folder, name)


def _import_tfds() -> ModuleType:
    # The first two are imported late by tfds, which then fails in ways that do not say what to install.
    for module in ("PIL.Image", "array_record.python.array_record_module"):
        _import(module, "experiments")
    return _import("tensorflow_datasets", "experiments")


def _import(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"these data need {module} ({error}): pip install 'hmcvae[{extra}]'") from error
