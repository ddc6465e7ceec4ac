"""CIFAR-10, whole as Python batches or a part of it as an archive."""

from __future__ import annotations

import pickletools
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


# Opcodes that say nothing of what is in a pickle.
_SILENT = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "FRAME"})
# Ten thousand images are 31 MB: what is larger by far is no batch.
_MAX_BYTES = 2**27


def read_cifar10_batch(path: Path) -> UInt8[np.ndarray, "n 32 32 3"]:
    """A batch is a pickle, which could run any code: it is not unpickled, its instructions are read as data."""
    expected = "a pickled CIFAR-10 batch with 'data' as uint8 [n, 3072]"
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise mismatch(path, f"{expected}, at most {_MAX_BYTES} bytes", f"{size} bytes")
    try:
        rows = _find_rows(path.read_bytes())
    except Exception as error:  # reading a broken pickle can raise anything
        raise mismatch(path, expected, str(error) or repr(error)) from error
    # A row is the red plane, the green plane, the blue plane.
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _find_rows(raw: bytes) -> UInt8[np.ndarray, "n 3072"]:
    """The array at the key 'data', as NumPy pickles it: its shape, its dtype, its bytes, in one order or another."""
    tokens = [(code.name, value) for code, value, _ in pickletools.genops(raw) if code.name not in _SILENT]
    places = [i for i, (_, value) in enumerate(tokens) if value in ("data", b"data")]
    if not places:
        raise ValueError("no key 'data'")
    own = tokens[places[0] + 1 :]
    buffers: list[Any] = [value for _, value in own if isinstance(value, (str, bytes, bytearray))]
    if not buffers:
        raise ValueError("nothing in it")
    buffer = max(buffers, key=len)
    place = next(i for i, (_, value) in enumerate(own) if value is buffer)
    shapes: list[tuple[Any, Any]] = [
        (own[i][1], own[i + 1][1])
        for i in range(len(own) - 2)
        if own[i + 2][0] == "TUPLE2" and "INT" in own[i][0] and "INT" in own[i + 1][0]
    ]
    shape = shapes[0] if shapes else None
    dtypes = [value for _, value in own if isinstance(value, str) and value[1:].isdigit() and len(value) < 5]
    is_column_major = own[place - 1][0] == "NEWTRUE" or any(value == "F" for _, value in own)
    if shape is None or shape[1] != 3072 or dtypes[:1] != ["u1"] or is_column_major:
        order = ", by columns" if is_column_major else ""
        raise ValueError(f"an array of dtype {dtypes[:1]} and shape {shape}{order}")
    data = buffer.encode("latin1") if isinstance(buffer, str) else bytes(buffer)
    if len(data) != shape[0] * shape[1]:
        raise ValueError(f"{len(data)} bytes for {shape[0]} rows of 3072")
    return np.frombuffer(data, np.uint8).reshape(shape)
