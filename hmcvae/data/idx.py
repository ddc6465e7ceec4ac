"""The idx files of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hmcvae.data.dataset import Absent, Splits, existing, max_pixels, mismatch

# MNIST and Fashion-MNIST come in files of the same names and sizes; the test pixels' CRC-32 tells them apart.
TEST_CRC = {"mnist": 0xE4CA5F57, "fashion_mnist": 0x12728439}


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
                raise mismatch(path, "an idx header of 16 bytes", f"a file of {len(header)} bytes")
            magic, *shape = struct.unpack(">4I", header)
            if magic != 0x0803:
                raise mismatch(path, "the magic number 0x00000803 (unsigned bytes, 3 axes)", f"{magic:#010x}")
            size, stored = math.prod(shape), path.stat().st_size
            # Deflate makes at most 1,032 bytes of one.
            most = 1032 * stored if is_gzip else stored - 16
            if size > most or (not is_gzip and size != most):
                raise mismatch(
                    path, f"{size} pixels, of shape {shape}", f"{most}{' at most' if is_gzip else ''}"
                )
            if max_pixels is not None and size > max_pixels:
                raise mismatch(path, f"at most {max_pixels} pixels", f"{size}, of shape {shape}")
            pixels = bytearray(size)  # which NumPy leaves writable
            found = _fill(file, memoryview(pixels))
            rest = file.read(1)  # and at the end of a gzip file, its checksum
    except (OSError, EOFError, zlib.error) as error:
        if not is_gzip or isinstance(error, FileNotFoundError):
            raise
        raise mismatch(path, "a whole gzip file", repr(error)) from error
    if found != size or rest:
        raise mismatch(
            path, f"{size} pixels, of shape {shape}", found if found != size else f"more than {size}"
        )
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def _fill(file: Any, buffer: memoryview) -> int:
    """How many bytes of the buffer a file could fill."""
    found = 0
    while found < len(buffer) and (count := file.readinto(buffer[found:])):
        found += count
    return found


def read_idx_pair(folder: Path, name: str) -> Splits:
    paths = [existing(folder, f"{stem}-images-idx3-ubyte", ".gz") for stem in ("train", "t10k")]
    train, test = (read_idx(path, max_pixels(name))[..., None] for path in paths)
    crc = zlib.crc32(test.tobytes())
    for other, other_crc in TEST_CRC.items():
        if other != name and crc == other_crc:
            raise Absent(f"{folder}: its idx files are those of {other}")
    return Splits(train, test, f"idx files in {folder}")
