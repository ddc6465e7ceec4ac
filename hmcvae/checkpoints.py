"""Checkpoints of a training run: written whole or not at all (Orbax), and checked when they are read back."""

import json
import logging
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from hmcvae.types import PyTree

CHECKSUMS = "checksums.json"


def digest(tree: PyTree) -> str:
    """CRC-32 of every leaf's bytes, dtype and shape: what a checkpoint must give back."""
    checksum = 0
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        checksum = zlib.crc32(f"{array.dtype}{array.shape}".encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(array).tobytes(), checksum)
    return f"{checksum:08x}"


class Checkpoints:
    """A folder of numbered checkpoints, the newest `keep` of them.

    Orbax writes to a temporary folder and renames it, so a run killed at any moment leaves whole checkpoints only.
    """

    def __init__(self, folder: Path | str, keep: int = 2):
        self.folder = Path(folder).resolve()
        # Orbax logs a dozen lines a checkpoint at INFO through absl.
        logging.getLogger("absl").setLevel(logging.WARNING)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        # Named here, so that a new process can read the metadata of what another one wrote.
        handlers = {"state": ocp.StandardCheckpointHandler(), "digest": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def epochs(self) -> list[int]:
        """The epochs that have a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, epoch: int, tree: PyTree) -> None:
        """Write `tree`, a pytree of arrays, as the checkpoint of `epoch`. One that is there is replaced; those of later
        epochs go: they are left from before the run was taken back to an earlier epoch."""
        if epoch in self.epochs():
            self._manager.delete(epoch)
        host = jax.tree.map(np.asarray, tree)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(host), digest=ocp.args.JsonSave({"crc32": digest(host)})
        )
        # Without `force` Orbax passes over an epoch below its latest, and says nothing.
        self._manager.save(epoch, args=args, force=True)
        self._manager.wait_until_finished()
        _write_checksums(self.folder / str(epoch))
        for later in [number for number in self.epochs() if number > epoch]:
            self._manager.delete(later)

    def restore(self, like: PyTree, epoch: int | None = None) -> PyTree:
        """The checkpoint of `epoch`, by default the newest, with the structure, shapes and dtypes of `like`.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it cannot be read, or is not the tree that was written (a corrupted file), or has not the
                names, shapes and dtypes of `like` (another model's checkpoint); nothing on disk is changed.
        """
        known = self.epochs()
        if not known:
            raise FileNotFoundError(f"no checkpoint in {self.folder}")
        epoch = known[-1] if epoch is None else epoch
        if epoch not in known:
            raise FileNotFoundError(f"no checkpoint of epoch {epoch} in {self.folder}; there are {known}")
        place = self.folder / str(epoch)
        older = [number for number in known if number != epoch]
        advice = f"move {place} away to go on from epoch {older[-1]}" if older else "it is the only one"
        target = jax.tree.map(lambda leaf: np.empty(np.shape(leaf), np.asarray(leaf).dtype), like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target), digest=ocp.args.JsonRestore())
        saved: Any = None
        damaged = _damaged_files(place)
        if damaged:
            raise ValueError(f"the checkpoint {place} is corrupted: {', '.join(damaged[:3])}; {advice}")
        try:
            metadata = self._manager.item_metadata(epoch)["state"]
            differences = _differences(_arrays(getattr(metadata, "tree", metadata)), _arrays(target))
            if not differences:
                saved = self._manager.restore(epoch, args=args)
        except Exception as error:  # Orbax, TensorStore and zstd each raise kinds of their own
            reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"the checkpoint {place} cannot be read: it is corrupted ({reason}); {advice}"
            ) from error
        if differences:
            raise ValueError(
                f"the checkpoint {place} is of another model: {'; '.join(differences[:3])}"
                + (f"; and {len(differences) - 3} more" if len(differences) > 3 else "")
            )
        expected, found = saved["digest"]["crc32"], digest(saved["state"])
        if expected != found:
            raise ValueError(
                f"the checkpoint {place} is corrupted: expected checksum {expected}, got {found}; {advice}"
            )
        return jax.tree.map(jax.numpy.asarray, saved["state"])

    def close(self) -> None:
        self._manager.close()


def _checksums(place: Path) -> dict[str, str]:
    """CRC-32 of every file that Orbax wrote for the tree and its digest."""
    paths = sorted(
        path for item in ("state", "digest") for path in (place / item).rglob("*") if path.is_file()
    )
    return {path.relative_to(place).as_posix(): f"{zlib.crc32(path.read_bytes()):08x}" for path in paths}


def _write_checksums(place: Path) -> None:
    temporary = place / (CHECKSUMS + ".tmp")
    temporary.write_text(json.dumps(_checksums(place), indent=2) + "\n")
    temporary.replace(place / CHECKSUMS)


def _damaged_files(place: Path) -> list[str]:
    """Files that are not as they were written; none for a checkpoint whose save was killed before its checksums.

    Found before Orbax reads them: it leaves other reads behind a failed one, whose tracebacks come later.
    """
    if not (place / CHECKSUMS).is_file():
        return []
    try:
        expected = dict(json.loads((place / CHECKSUMS).read_text()))
    except (ValueError, TypeError):
        return [f"{CHECKSUMS} cannot be read"]
    found = _checksums(place)
    changed = [name for name in expected if name in found and found[name] != expected[name]]
    return [f"{name} is missing" for name in expected if name not in found] + [
        f"{name} is damaged" for name in changed
    ]


def _arrays(tree: PyTree) -> dict[str, str]:
    """Every leaf's name, and its dtype and shape in words."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.dtype} {list(leaf.shape)}"
        for path, leaf in leaves
    }


def _differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """What a checkpoint's arrays are, where they are not what was expected."""
    return [
        f"expected {name} to be {expected.get(name, 'absent')}, got {found.get(name, 'nothing')}"
        for name in sorted(found | expected)
        if found.get(name) != expected.get(name)
    ]
