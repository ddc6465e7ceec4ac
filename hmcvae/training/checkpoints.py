"""Checkpoints of a training run: written whole or not at all (Orbax), and checked when they are read back."""

import errno
import json
import logging
import shutil
import tempfile
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from hmcvae._checks import check_count, check_flag
from hmcvae._digest import digest
from hmcvae.training.checksums import damaged_files, write_checksums
from hmcvae.training.failed_writes import quiet
from hmcvae.training.hosts import from_first, gathered, on_first
from hmcvae.training.stored import (
    AnotherTreeError,
    arrays_of,
    as_json,
    as_numbers,
    check_names,
    differences_between,
    dtype_of,
    empty_shapes,
    storable,
)
from hmcvae.types import PyTree

# Seconds for which a failed checkpoint must stay deleted.
QUIET = 0.2


class Checkpoints:
    """A folder of numbered checkpoints: the newest `keep` of them, and the newest good one where these are not good.

    Orbax writes to a temporary folder and renames it, so a run killed at any moment leaves whole checkpoints only.
    Of several processes (see `hosts`) the first reads and writes for all, so all of them make the same calls.

    Args:
        keep: how many.
        asynchronous: whether `save` comes back while the checkpoint is still being written, by another thread; what
            goes wrong there is raised by the next call. Others, and the end of the program, wait for it.

    Raises:
        ValueError: unless keep is a whole number of at least 1 and asynchronous a bool.
        NotADirectoryError: if there is a file where the folder should be.
    """

    def __init__(self, folder: Path | str, keep: int = 2, *, asynchronous: bool = False):
        self._keep = check_count("keep", keep, 1)
        self._is_asynchronous = check_flag("asynchronous", asynchronous)
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future | None = None
        self.folder = Path(folder).expanduser().resolve()
        self._manager: Any = None
        on_first(self._open)

    def _open(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"expected a folder for checkpoints, got the file {self.folder}")
        # Orbax logs a dozen lines a checkpoint at INFO through absl.
        logging.getLogger("absl").setLevel(logging.WARNING)
        # What is deleted is decided here: Orbax knows of no good ones.
        self.folder.mkdir(parents=True, exist_ok=True)
        alone = ocp.options.MultiprocessingOptions()
        if jax.process_count() > 1:  # Orbax is told that there is one process alone
            alone = ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix=f"hmcvae-{id(self)}"
            )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None, enable_async_checkpointing=False, create=False, multiprocessing_options=alone
        )
        # Named here, so that a new process can read the metadata of what another one wrote.
        handlers = {
            "state": ocp.StandardCheckpointHandler(multiprocessing_options=alone),
            "digest": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        }
        self._manager = ocp.CheckpointManager(self._plain_path(), options=options, item_handlers=handlers)

    def _plain_path(self) -> Path:
        """The folder, or a link to it: Orbax takes a path for a pattern, and TensorStore a backslash for a slash."""
        if not set("*?[]\\") & set(str(self.folder)):
            return self.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        place = tempfile.mkdtemp(prefix="hmcvae-checkpoints-")
        weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)
        link = Path(place) / "checkpoints"
        link.symlink_to(self.folder, target_is_directory=True)
        return link

    def epochs(self) -> list[int]:
        """The epochs that have a checkpoint now, oldest first."""
        self.wait()
        return on_first(self._epochs)

    def wait(self) -> None:
        """Wait for what is being written.

        Raises:
            OSError: if it could not be written.
        """
        on_first(self._wait)

    def _wait(self) -> None:
        writing = self._writing
        if writing is None:
            return
        try:
            writing.result()
        except KeyboardInterrupt:  # not before it is written whole; a second one does not wait
            wait([writing])
            raise
        finally:
            if writing.done():
                self._writing = None

    def _epochs(self) -> list[int]:
        # Not what Orbax remembers: another process may write and delete.
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def last_good(self) -> int | None:
        """The newest epoch that was saved as a good one; None without any."""
        self.wait()
        return on_first(
            lambda: next((epoch for epoch in reversed(self._epochs()) if self._is_good(epoch)), None)
        )

    def _is_good(self, epoch: int) -> bool:
        """What `save` was told; those that older versions wrote count as good."""
        try:
            return bool(self._record(epoch).get("is_good", True))
        except (OSError, ValueError, AttributeError, RecursionError):
            return False

    def _record(self, epoch: int) -> Any:
        return json.loads((self.folder / str(epoch) / "digest" / "metadata").read_text())

    def metadata(self, epoch: int | None = None) -> Any:
        """What `save` was given beside the checkpoint of `epoch`, by default the newest; None if nothing was.

        Raises:
            FileNotFoundError: if there is no such checkpoint.
            ValueError: if it cannot be read.
        """
        self.wait()
        return on_first(lambda: self._metadata(epoch))

    def _metadata(self, epoch: int | None) -> Any:
        epoch = self._known(epoch)
        try:
            return self._record(epoch).get("metadata")
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"the checkpoint {self.folder / str(epoch)} cannot be read: {error}") from error

    def _known(self, epoch: int | None) -> int:
        """The number of a checkpoint that is there."""
        known = self._epochs()
        if not known:
            raise FileNotFoundError(f"no checkpoint in {self.folder}")
        epoch = known[-1] if epoch is None else check_count("epoch", epoch, 0)
        if epoch not in known:
            raise FileNotFoundError(f"no checkpoint of epoch {epoch} in {self.folder}; there are {known}")
        return epoch

    def save(self, epoch: int, tree: PyTree, *, is_good: bool = True, metadata: Any = None) -> None:
        """Write `tree`, a pytree of arrays, as the checkpoint of `epoch`. One that is there is replaced; those of later
        epochs go: they are left from before the run was taken back to an earlier epoch.

        Args:
            is_good: whether this one may stand in for the good ones before it: the newest good one is never deleted.
            metadata: what is written beside it, of values that JSON can hold; the first process's.

        Raises:
            ValueError: if epoch is no whole number of at least 0; metadata that JSON cannot hold; or a tree that could
                not be read back: leaves that are no numbers, or two of one name. Nothing is written.
            OSError: if it cannot be written (a full disk, a folder that is gone); those before it stay.
        """
        epoch = check_count("epoch", epoch, 0)
        host = jax.tree.map(as_numbers, gathered(tree))
        if self._is_asynchronous:  # the caller may write into NumPy's arrays meanwhile
            host = jax.tree.map(np.array, host)
        check_names(host)
        record = {"is_good": bool(is_good), "metadata": as_json(metadata)}
        on_first(lambda: self._begin(epoch, host, record))

    def _begin(self, epoch: int, host: PyTree, record: dict[str, Any]) -> None:
        self._wait()
        # In a thread even where it is waited for: Ctrl-C, raised in the main one, must not break Orbax's event loop.
        self._writer = self._writer or ThreadPoolExecutor(1, "hmcvae-checkpoints")
        self._writing = self._writer.submit(self._save, epoch, host, record)
        if not self._is_asynchronous:
            self._wait()

    def _save(self, epoch: int, host: PyTree, record: dict[str, Any]) -> None:
        record = {"crc32": digest(host)} | record
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.map(storable, host)), digest=ocp.args.JsonSave(record)
        )
        known = self._epochs()
        place, replaced = self.folder / str(epoch), self.folder / f"{epoch}.replaced"
        if not self.folder.is_dir():
            raise FileNotFoundError(f"the folder of the checkpoints is gone: {self.folder}")
        shutil.rmtree(replaced, ignore_errors=True)
        if epoch in known:
            place.rename(replaced)
            self._manager.reload()
        with quiet():
            try:
                # Without `force` Orbax passes over an epoch below its latest, and says nothing.
                self._manager.save(epoch, args=args, force=True)
                self._manager.wait_until_finished()
                write_checksums(place)
            except Exception as error:  # Orbax, TensorStore and the system each raise kinds of their own
                self._take_back(epoch, replaced)
                kept = self._epochs()
                raise OSError(
                    getattr(error, "errno", None) or errno.EIO,
                    f"the checkpoint of epoch {epoch} could not be written ({_reason(error)}); "
                    + (f"that of epoch {kept[-1]} is kept" if kept else "there is none before it"),
                    str(self.folder),
                ) from error
        shutil.rmtree(replaced, ignore_errors=True)
        self._delete_old(epoch)

    def _take_back(self, epoch: int, replaced: Path) -> None:
        """Leave nothing of a checkpoint that could not be written, and what it was to replace as it was."""
        # Orbax raises the first error while its other writes go on, which make anew what is deleted under them, and
        # there is nothing to wait for: it is deleted until it has stayed away for a while.
        begin = quiet_since = time.monotonic()
        while time.monotonic() < min(quiet_since + QUIET, begin + 10 * QUIET):
            for half in (self.folder / str(epoch), *self.folder.glob(f"{epoch}.orbax-checkpoint-tmp*")):
                if half.exists():
                    shutil.rmtree(half, ignore_errors=True)
                    quiet_since = time.monotonic()
            time.sleep(QUIET / 20)
        if replaced.is_dir():
            replaced.rename(self.folder / str(epoch))

    def _delete_old(self, newest: int) -> None:
        known = self._epochs()
        upto = [epoch for epoch in known if epoch <= newest]
        kept = set(upto[-self._keep :])
        kept.update([epoch for epoch in upto if self._is_good(epoch)][-1:])
        for epoch in known:
            if epoch not in kept:
                self._manager.delete(epoch)

    def restore(self, like: PyTree, epoch: int | None = None) -> PyTree:
        """The checkpoint of `epoch`, by default the newest, with the structure, shapes and dtypes of `like`.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it cannot be read, or is not the tree that was written (a corrupted file), or has not the
                names, shapes and dtypes of `like` (another model's checkpoint); nothing on disk is changed.
        """
        self.wait()
        like = jax.tree.map(lambda leaf: np.empty(np.shape(leaf), dtype_of(leaf)), like)
        read: list[PyTree] = []
        on_first(lambda: read.append(self._restore(like, epoch)))
        return jax.tree.map(jax.numpy.asarray, from_first(read[0] if read else like))

    def _restore(self, like: PyTree, epoch: int | None) -> PyTree:
        epoch = self._known(epoch)
        place = self.folder / str(epoch)
        try:
            return self._read(like, epoch, [number for number in self._epochs() if number != epoch])
        except ValueError as error:
            if place.is_dir():
                raise
            raise FileNotFoundError(
                f"the checkpoint {place} was deleted while it was read; there are now {self._epochs()}"
            ) from error

    def _read(self, like: PyTree, epoch: int, others: list[int]) -> PyTree:
        place = self.folder / str(epoch)
        advice = f"move {place} away to go on from epoch {others[-1]}" if others else "it is the only one"
        target = jax.tree.map(storable, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target), digest=ocp.args.JsonRestore())
        saved: Any = None
        damaged = damaged_files(place)
        if damaged:
            raise ValueError(f"the checkpoint {place} is corrupted: {', '.join(damaged[:3])}; {advice}")
        try:
            metadata = self._manager.item_metadata(epoch)["state"]
            differences = differences_between(
                arrays_of(getattr(metadata, "tree", metadata)), arrays_of(target)
            )
            if not differences:
                saved = self._manager.restore(epoch, args=args)
        except Exception as error:  # Orbax, TensorStore and zstd each raise kinds of their own
            raise ValueError(
                f"the checkpoint {place} cannot be read: it is corrupted ({_reason(error)}); {advice}"
            ) from error
        if not differences:
            differences = differences_between(empty_shapes(saved["state"], like), empty_shapes(target, like))
        if differences:
            raise AnotherTreeError(place, differences)
        state = jax.tree.map(lambda stored, own: stored if own.size else own, saved["state"], like)
        expected, found = saved["digest"]["crc32"], digest(state)
        if expected != found:
            raise ValueError(
                f"the checkpoint {place} is corrupted: expected checksum {expected}, got {found}; {advice}"
            )
        return state

    def clear(self) -> None:
        """Delete all of them."""

        def delete() -> None:
            self._wait()
            for epoch in self._epochs():
                self._manager.delete(epoch)

        on_first(delete)

    def close(self) -> None:
        self.wait()
        if self._writer is not None:
            self._writer.shutdown()
        if self._manager is not None:
            self._manager.close()


def _reason(error: Exception) -> str:
    """An error in one line: the system's own words where they are in it."""
    text = str(error)
    if "ENOSPC" in text or "No space left" in text:
        return "No space left on device"
    return text.strip().splitlines()[0][:300] if text.strip() else type(error).__name__
