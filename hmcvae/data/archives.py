"""NumPy archives, and text files of bits."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from hmcvae.data.dataset import Splits, existing, max_pixels, mismatch


def read_npz(path: Path, name: str, *keys: str) -> list[np.ndarray]:
    # As float64 they would still be read, and refused for that.
    found = read_members(path, keys, (), 8 * max_pixels(name))
    return [found[key] for key in keys]


def read_members(
    path: Path, keys: Sequence[str], others: Sequence[str], max_bytes: int
) -> dict[str, np.ndarray]:
    """The arrays `keys` of an archive, and of `others` those that it has, each of at most max_bytes.

    Raises:
        ValueError: if one is missing, too large, or cannot be read.
    """
    if not zipfile.is_zipfile(path):
        raise mismatch(path, "an npz archive", "a file that is none, or is cut short")
    try:
        with zipfile.ZipFile(path) as archive:
            there = [key for key in others if f"{key}.npy" in archive.namelist()]
            for key in (*keys, *there):
                _check_member(path, archive, key, max_bytes)
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in (*keys, *there)}
    except _TooLarge as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # reading a broken archive can raise anything
        raise mismatch(path, f"readable arrays {', '.join(keys)}", repr(error)) from error


class _TooLarge(Exception):
    """An array that is not read for its size; the message says which."""


def _check_member(path: Path, archive: zipfile.ZipFile, key: str, max_bytes: int) -> None:
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
    if max(size, stored) > max_bytes:
        raise _TooLarge(f"{path}: expected at most {max_bytes} bytes in {key}, got {dtype} {list(shape)}")


def read_packed_npz(folder: Path, name: str) -> Splits:
    path = existing(folder, f"{name}.npz")
    train, validation, test = (_unpack(path, rows) for rows in read_npz(path, name, "train", "valid", "test"))
    return Splits(train, test, f"static binarization in {path}", validation)


def _unpack(path: Path, rows: np.ndarray) -> UInt8[np.ndarray, "n 28 28 1"]:
    if rows.dtype != np.uint8 or rows.shape[1:] != (98,):
        raise mismatch(path, "bits packed as uint8 [n, 98]", f"{rows.dtype} {list(rows.shape)}")
    return np.unpackbits(rows, axis=1).reshape(-1, 28, 28, 1)


def read_amat_files(folder: Path, name: str) -> Splits:
    paths = [existing(folder, f"{name}_{split}.amat") for split in ("train", "valid", "test")]
    train, validation, test = map(_read_amat, paths)
    return Splits(train, test, f"static binarization in the amat files in {folder}", validation)


def _read_amat(path: Path) -> UInt8[np.ndarray, "n 28 28 1"]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")  # refused below
            rows = np.loadtxt(path, dtype=np.uint8, comments=None, ndmin=2)
    except ValueError as error:
        raise mismatch(path, "lines of 784 pixels, 0 or 1", error) from error
    if not rows.size:
        raise mismatch(path, "lines of 784 pixels", "none")
    if rows.shape[1] != 784:
        raise mismatch(path, "lines of 784 pixels", f"lines of {rows.shape[1]}")
    return rows.reshape(-1, 28, 28, 1)
