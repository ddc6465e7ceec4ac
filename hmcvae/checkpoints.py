"""Checkpoints of a training run: written whole or not at all (Orbax), and checked when they are read back."""

import logging
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from hmcvae.types import PyTree


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
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def epochs(self) -> list[int]:
        """The epochs that have a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, epoch: int, tree: PyTree) -> None:
        """Write `tree`, a pytree of arrays, as the checkpoint of `epoch`; an existing one is replaced."""
        if epoch in self.epochs():
            self._manager.delete(epoch)
        host = jax.tree.map(np.asarray, tree)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(host), digest=ocp.args.JsonSave({"crc32": digest(host)})
        )
        self._manager.save(epoch, args=args)
        self._manager.wait_until_finished()

    def restore(self, like: PyTree, epoch: int | None = None) -> PyTree:
        """The checkpoint of `epoch`, by default the newest, with the structure, shapes and dtypes of `like`.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it cannot be read, or is not the tree that was written (a corrupted file), or is not shaped
                like `like` (another model's checkpoint); nothing on disk is changed.
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
        try:
            saved: Any = self._manager.restore(epoch, args=args)
        except Exception as error:  # Orbax, TensorStore and zstd each raise kinds of their own
            reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"the checkpoint {place} cannot be read as a checkpoint of this configuration: it is corrupted, or "
                f"of another model ({reason}); {advice}"
            ) from error
        for path, (new, old) in _pairs(saved["state"], like):
            if np.shape(new) != np.shape(old):
                raise ValueError(
                    f"the checkpoint {place} is of another model: {path} has shape {np.shape(new)}, expected "
                    f"{np.shape(old)}"
                )
        expected, found = saved["digest"]["crc32"], digest(saved["state"])
        if expected != found:
            raise ValueError(
                f"the checkpoint {place} is corrupted: expected checksum {expected}, got {found}; {advice}"
            )
        return jax.tree.map(jax.numpy.asarray, saved["state"])

    def close(self) -> None:
        self._manager.close()


def _pairs(new: PyTree, old: PyTree):
    """(path, (leaf of new, leaf of old)) for every leaf."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(old)
    for (path, old_leaf), new_leaf in zip(leaves, jax.tree.leaves(new), strict=True):
        yield jax.tree_util.keystr(path), (new_leaf, old_leaf)
