"""A run's draws on disk, appended as they come, and all that it needs to go on.

    FOLDER/draws/NAME.npy   every array of a draw, [draw, chain, …]: NumPy's format, whose header is renewed as it grows
    FOLDER/state.npz        where the run stands: written beside the old one, and put in its place in one step
    FOLDER/run.json         what run it is, and what its draws are made of

Draws are appended before the state that counts them, so whatever is there beyond what it counts is of a run that was
killed in between, and is cut off.
"""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hmcvae._paths import dotted
from hmcvae.types import PyTree

RUN, STATE, LOCK, DRAWS = "run.json", "state.npz", "lock", "draws"
# Room for the header of an array that grows: a multiple of 64 bytes, as NumPy wants it.
HEADER = 256


def names_of(tree: PyTree) -> list[str]:
    """A name for each leaf of (position, logdensity, info), which a file can have, and no other has."""
    names: list[str] = []
    for path, _ in jax.tree.leaves_with_path(tree):
        rest = dotted(path[1:])
        safe = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in rest)[:60]
        what = ("position", "logdensity", "info")[path[0].idx]
        names.append(f"{len(names):03d}-{what}" + (f".{safe}" if safe else ""))
    return names


class Store:
    """The folder of one run, which one process at a time writes."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder).expanduser()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else's until the block ends, and then free however this process ended.

        Raises:
            ValueError: if another process writes there, it is a file, or it holds something that is no run.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"folder must be a folder, or be made as one, got the file {self.folder}")
        self._check_own()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            import fcntl
        except ImportError:  # where the system has none of it
            yield
            return
        with (self.folder / LOCK).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another process is writing to {self.folder}") from None
            yield

    def _check_own(self) -> None:
        """Raise ValueError for a folder of something else, whose files may have the names of a run's."""
        if not self.folder.is_dir() or (self.folder / RUN).exists():
            return
        # What a run leaves that was killed before it said what it is; and what systems put into any folder.
        known = {LOCK, f"{RUN}.tmp"} | ({DRAWS} if not any((self.folder / DRAWS).glob("*")) else set())
        strange = sorted(
            path.name
            for path in self.folder.iterdir()
            if path.name not in known and not path.name.startswith(".")
        )
        if strange:
            raise ValueError(
                f"folder must be new, empty or a run's, got {self.folder}, which holds {', '.join(strange[:3])}"
                + (" and more" if len(strange) > 3 else "")
            )

    def description(self) -> dict | None:
        """What run.json says; None if there is no run.

        Raises:
            ValueError: if it cannot be read.
        """
        path = self.folder / RUN
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text())
            if not isinstance(found, dict) or not {"run", "draw"} <= found.keys():
                raise ValueError("it has other contents")
            return found
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error

    def begin(self, description: dict) -> None:
        """A new run; `description` is JSON values."""
        (self.folder / DRAWS).mkdir(exist_ok=True)
        self._replace(RUN, (json.dumps(description, indent=2) + "\n").encode())

    def append(self, names: list[str], arrays: list[np.ndarray], count: int) -> None:
        """Arrays [chain, draw, …] behind the `count` draws that are there.

        Raises:
            ValueError: if there are fewer than `count`.
            OSError: if they cannot be written.
        """
        for name, array in zip(names, arrays, strict=True):
            rows = np.ascontiguousarray(np.swapaxes(_storable(array), 0, 1))
            path = self.folder / DRAWS / f"{name}.npy"
            end = HEADER + count * rows[:1].nbytes
            found = path.stat().st_size if path.exists() else 0
            if count and found < end:
                raise ValueError(f"{path} must hold {count} draws, {end} bytes, got {found}: it was cut")
            with path.open("r+b" if found else "w+b") as file:
                # The header first: a reader never finds one that promises more than there is.
                file.write(_header(rows.dtype, (count, *rows.shape[1:])))
                file.flush()
                file.truncate(end)
                file.seek(end)
                file.write(rows.tobytes())
                file.flush()
                file.seek(0)
                file.write(_header(rows.dtype, (count + len(rows), *rows.shape[1:])))
                file.flush()
                os.fsync(file.fileno())

    def read(self, name: str, dtype: str, count: int) -> np.ndarray:
        """The first `count` draws of an array, [chain, draw, …], left on disk until they are looked at.

        Raises:
            ValueError: if they are not there.
        """
        path = self.folder / DRAWS / f"{name}.npy"
        try:
            rows = np.load(path, mmap_mode="r")
        except Exception as error:  # NumPy takes a broken file for an archive, a pickle or none
            raise ValueError(f"{path} cannot be read: {error}") from error
        if rows.ndim < 2 or len(rows) < count:
            raise ValueError(f"{path} must hold {count} draws, got shape {rows.shape}: it was cut")
        return np.swapaxes(rows[:count].view(jnp.dtype(dtype)), 0, 1)

    def save(self, leaves: list[Any], header: dict) -> None:
        """Where the run stands: arrays, and JSON values."""
        buffer = io.BytesIO()
        host = [_storable(_plain(leaf)) for leaf in leaves]
        text = np.frombuffer(json.dumps(header).encode(), np.uint8)
        np.savez(buffer, header=text, **{f"leaf{index}": leaf for index, leaf in enumerate(host)})  # pyright: ignore
        self._replace(STATE, buffer.getvalue())

    def state(self) -> tuple[dict, list[np.ndarray]] | None:
        """(header, arrays) of the last `save`; None without any.

        Raises:
            ValueError: if it cannot be read.
        """
        path = self.folder / STATE
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file) as stored:
                header = json.loads(stored["header"].tobytes().decode())
                return header, [stored[f"leaf{index}"] for index in range(len(stored.files) - 1)]
        except Exception as error:  # zipfile and NumPy each raise kinds of their own
            raise ValueError(f"{path} cannot be read: {error}") from error

    def _replace(self, name: str, content: bytes) -> None:
        temporary = self.folder / f"{name}.tmp"
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.folder / name)


def _header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Of NumPy's format 1.0, always HEADER bytes long."""
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    text = repr(fields).encode("latin1")
    room = HEADER - 10
    if len(text) >= room:
        raise ValueError(f"an array of shape {shape} cannot be stored")
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + text.ljust(room - 1) + b"\n"


def _plain(leaf: Any) -> np.ndarray:
    """Random keys as their numbers."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _storable(array: np.ndarray) -> np.ndarray:
    """NumPy's files know its own types alone: others, as bfloat16 is, are kept as whole numbers of their size."""
    return array if array.dtype.kind in "biufc" else array.view(f"u{array.dtype.itemsize}")


def as_leaves(arrays: list[np.ndarray], like: list[Any]) -> list[Any]:
    """Arrays of `Store.state` in place of others.

    Raises:
        ValueError: if they are not as many, or of other shapes.
    """
    if len(arrays) != len(like):
        raise ValueError(f"the saved state has {len(arrays)} arrays, this algorithm's has {len(like)}")
    return [_as_leaf(array, own) for array, own in zip(arrays, like, strict=True)]


def _as_leaf(array: np.ndarray, like: Any) -> Any:
    is_key = isinstance(like, jax.Array) and jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
    plain = _plain(like)
    if array.shape != plain.shape or array.dtype != _storable(plain).dtype:
        raise ValueError(
            f"the saved state has an array {array.dtype}{list(array.shape)}, this algorithm's is "
            f"{plain.dtype}{list(plain.shape)}"
        )
    if isinstance(like, bool | int | float):  # to be saved again as it was
        return type(like)(array.view(plain.dtype).item())
    found = jnp.asarray(array.view(plain.dtype))
    return jax.random.wrap_key_data(found, impl=jax.random.key_impl(like)) if is_key else found
