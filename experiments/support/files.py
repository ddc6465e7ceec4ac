"""Files of the experiments: JSON written whole and read with blame, and a lock that one process holds."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not a Unix: no lock
    fcntl = None

LOCK = "lock"


def with_ending(stem: Path, ending: str) -> Path:
    """STEM and the ending, whatever dots the stem has."""
    return stem.with_name(stem.name + ending)


def write_json(path: Path, values: Any) -> None:
    """Write JSON whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    temporary.replace(path)


def read_json(path: Path) -> dict:
    """What `write_json` wrote.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is damaged; names the file.
    """
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are of this kind
        raise ValueError(f"{path} is damaged, it cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: expected a JSON object, got {type(values).__name__}")
    return values


def read_records(path: Path) -> list[dict]:
    """One record a line, each with its epoch; a last line that a crash cut short is left out.

    Raises:
        ValueError: for a damaged line before the last; names file and line.
    """
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    lines = lines[:-1] if lines and not lines[-1] else lines
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("epoch"), int):
                raise ValueError("expected an object with the epoch")
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}, line {number} is damaged ({error}); mend it or take it out, in a copy of the folder"
            ) from error
        records.append(record)
    return records


def check_writable(folder: Path) -> None:
    """Check, before anything is computed, that files can be written into a folder; it is made if it is not there.

    Raises:
        OSError: if they cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".write-test-{os.getpid()}"
    probe.touch()
    probe.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], bool]]:
    """Hold a folder's lock; it is made if it is not there. Gives `is_ours() -> bool`: whether the folder is still the
    one that was locked, neither removed nor made anew.

    The lock is the system's (flock) on FOLDER/lock, so a process that dies leaves none behind, whatever the file says.

    Raises:
        FileExistsError: if another process holds it; says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(file, 200).decode(errors="replace").strip() or "unknown"
                raise FileExistsError(
                    f"another process is at work in {folder} ({holder}): wait for it, or choose another folder"
                ) from None
        os.ftruncate(file, 0)
        os.write(file, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
        own = os.fstat(file)

        def is_ours() -> bool:
            return path.exists() and os.path.samestat(own, path.stat())

        yield is_ours
    finally:
        os.close(file)
