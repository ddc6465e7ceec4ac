"""CIFAR-10, whole as Python batches or a part of it as an archive."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hmcvae.data.archives import read_npz
from hmcvae.data.dataset import Splits, existing, mismatch


def read_cifar10_npz(folder: Path, stem: str) -> Splits:
    path = existing(folder, f"{stem}.npz")
    train, test = read_npz(path, "cifar10", "train", "test")
    return Splits(train, test, str(path))


def read_cifar10_batches(folder: Path, name: str) -> Splits:
    folder = folder / "cifar-10-batches-py"
    filenames = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    *train, test = map(read_cifar10_batch, [existing(folder, filename) for filename in filenames])
    return Splits(np.concatenate(train), test, f"Python batches in {folder}")


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


def read_cifar10_batch(path: Path) -> UInt8[np.ndarray, "n 32 32 3"]:
    try:
        with path.open("rb") as file:
            batch = _ArrayUnpickler(file, encoding="bytes").load()
        rows = batch[b"data"] if b"data" in batch else batch["data"]
    except Exception as error:  # unpickling a broken file can raise anything
        raise mismatch(path, "a pickled CIFAR-10 batch with 'data'", repr(error)) from error
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape[1:] != (3072,):
        got = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise mismatch(path, "'data' as uint8 [n, 3072]", got)
    # A row is the red plane, the green plane, the blue plane.
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
