"""A run folder: the config, the metrics and the checkpoints of one training.

RUN/config.json       the config; without it the folder holds no run
RUN/model.json        what the networks are, for `hmcvae.load`
RUN/environment.json  versions, device and data
RUN/metrics.jsonl     one line an epoch            RUN/tensorboard/   the same metrics
RUN/partial/          the last part of an epoch that is saved in parts (--steps-per-save)
RUN/checkpoints/      the newest two               RUN/best/          the best on the validation set, if there is one
RUN/*.png             pictures                     RUN/evaluation.json
RUN/lock              held while a process trains
"""

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from experiments.configs import TrainConfig, differences, from_json, to_json
from experiments.support.files import LOCK, locked, read_json, read_records, write_json
from experiments.support.machine import describe
from experiments.support.records import EpochRecord
from hmcvae import data
from hmcvae.saved import MODEL
from hmcvae.training import Checkpoints, on_first
from hmcvae.types import PyTree

# What a start leaves behind that was killed before its config was written.
EMPTY = {LOCK, "environment.json", "environment.tmp", "config.tmp", MODEL, "model.tmp"}


class _GuardedCheckpoints(Checkpoints):
    """Checkpoints that are not written where the run is no more: Orbax would make its folder anew."""

    def __init__(self, folder: Path, keep: int, check: Callable[[], None]):
        super().__init__(folder, keep, asynchronous=True)
        self._check = check

    def save(self, epoch: int, tree: PyTree, *, is_good: bool = True, metadata: Any = None) -> None:
        on_first(self._check)
        super().save(epoch, tree, is_good=is_good, metadata=metadata)


class RunFolder:
    """The files of one run."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self._tensorboard: Any = None
        self._is_ours: Callable[[], bool] = lambda: True

    @property
    def metrics_path(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def config_path(self) -> Path:
        return self.folder / "config.json"

    def checkpoints(self) -> Checkpoints:
        return _GuardedCheckpoints(self.folder / "checkpoints", 2, self.check_there)

    def best(self) -> Checkpoints:
        return _GuardedCheckpoints(self.folder / "best", 1, self.check_there)

    def partial(self) -> Checkpoints:
        return _GuardedCheckpoints(self.folder / "partial", 1, self.check_there)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training here.

        Raises:
            FileExistsError: if one does.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the run folder cannot be made ({error.strerror}); choose another by --run-dir",
                str(self.folder),
            ) from error
        with locked(self.folder) as is_ours:
            self._is_ours = is_ours
            try:
                yield
            except BaseException:
                with suppress(OSError):  # what stopped the run is told, not what closing it then met
                    self.close()
                raise
            self.close()

    def check_there(self) -> None:
        """Check that the run is still there, as it was when it was begun or gone on with.

        Raises:
            FileNotFoundError: if its folder or config has been removed meanwhile.
        """
        if not (self._is_ours() and self.config_path.is_file()):
            raise FileNotFoundError(
                f"the run folder {self.folder} was removed or replaced while the run was training; stopped. Start it "
                "anew"
            )

    def check_free(self, config: TrainConfig) -> None:
        """Check, before anything is loaded, that the run can be made; or with config.resume, that it is the same one.

        Raises:
            FileExistsError: if the folder holds something and resume is off; nothing in it is touched.
            FileNotFoundError: if resume is on and there is no run.
            ValueError: if the run to resume is of another config.
        """
        if not config.resume:
            if self.folder.exists() and not self._is_empty():
                advice = (
                    "go on with it by --resume and the same settings, or choose another by --run-dir"
                    if self.config_path.is_file()
                    else "it holds no run (no config.json), so choose another by --run-dir, or move it away"
                )
                raise FileExistsError(f"the run folder {self.folder} exists and is not empty; {advice}")
            return
        is_new = not self.folder.exists() or self._is_empty()
        if is_new:
            raise FileNotFoundError(
                f"no run in {self.folder}: {self.config_path} is not there; start it without --resume"
            )
        changed = differences(self.config(), config)
        num_trained = self._num_recorded()
        if not changed and config.training.num_epochs < num_trained:
            changed = [
                f"num_epochs: {num_trained} epochs have been trained, got {config.training.num_epochs}"
            ]
        if changed:
            raise ValueError(
                f"the run in {self.folder} has another config, so it cannot be resumed with this one: "
                + "; ".join(changed)
            )

    def _is_empty(self) -> bool:
        return self.folder.is_dir() and {path.name for path in self.folder.iterdir()} <= EMPTY

    def create(self, config: TrainConfig, dataset: data.Dataset, model: dict) -> None:
        """Make a new run, or with config.resume check that the old one has the same config and training images.

        Raises:
            FileExistsError, FileNotFoundError: see `check_free`.
            ValueError: likewise; or if the run to resume is of other images.
        """
        self.check_free(config)
        images = {
            "source": dataset.source,
            "train_crc32": f"{zlib.crc32(dataset.train.tobytes()):08x}",
            "image_shape": list(dataset.image_shape),
            "max_value": dataset.max_value,
        }
        before = self.environment().get("data", images) if config.resume else images
        # The same images in another order (tensorflow-datasets shuffles them) would be another run.
        if before["train_crc32"] != images["train_crc32"]:
            raise ValueError(
                f"the run in {self.folder} had other training images, or in another order, so it cannot be resumed "
                f"with these: expected those from {before['source']}, got {images['source']}"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        if not config.resume or not (self.folder / "environment.json").is_file():
            write_json(self.folder / "environment.json", describe() | {"data": images})
        write_json(self.folder / MODEL, model)
        write_json(self.config_path, to_json(config))  # last: with it there is a run

    def config(self) -> TrainConfig:
        """The run's config.

        Raises:
            FileNotFoundError: if there is no run here.
            ValueError: if its config cannot be read.
        """
        path = self.config_path
        if not path.is_file():
            raise FileNotFoundError(f"no run in {self.folder}: {path} is not there")
        try:
            return from_json(json.loads(path.read_bytes()))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as a config: {error}") from error

    def environment(self) -> dict:
        """What `create` wrote of versions, device and data; empty if it is not there.

        Raises:
            ValueError: if it is damaged.
        """
        path = self.folder / "environment.json"
        found = read_json(path) if path.is_file() else {}
        images = found.get("data", {"source": "", "train_crc32": ""})
        if not isinstance(images, dict) or not {"source", "train_crc32"} <= set(images):
            raise ValueError(f"{path} is damaged: expected data with source and train_crc32, got {images!r}")
        return found

    def start_epoch(self, epochs: list[int]) -> int:
        """The checkpoint to go on from, of `epochs`; 0 for a fresh start. The newest, or the one before it if the run
        was killed between the newest and its record, so that the metrics have every epoch."""
        if not epochs:
            return 0
        newest, recorded = epochs[-1], self._num_recorded()
        return newest - 1 if recorded < newest and newest - 1 in (0, *epochs) else newest

    def records(self) -> list[EpochRecord]:
        """The metrics so far, one record an epoch.

        Raises:
            ValueError: if a line is damaged, or lacks something.
        """
        lines = read_records(self.metrics_path)
        try:
            return [EpochRecord.from_line(line) for line in lines]
        except ValueError as error:
            raise ValueError(f"{self.metrics_path}: {error}") from error

    def _num_recorded(self) -> int:
        return max((line["epoch"] for line in read_records(self.metrics_path)), default=0)

    def trim(self, epoch: int) -> list[dict]:
        """Leave the records up to `epoch`, the checkpoint's, so that a resumed run's epochs stand there once."""
        kept = [line for line in read_records(self.metrics_path) if line["epoch"] <= epoch]
        temporary = self.metrics_path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(self.metrics_path)
        return kept

    def log(self, record: dict) -> None:
        """Append an epoch's record to metrics.jsonl, and to TensorBoard where tensorboardX is installed."""
        self.check_there()
        with self.metrics_path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._tensorboard is None:
            self._tensorboard = _tensorboard_writer(self.folder / "tensorboard")
        for name, value in record.items():
            if name != "epoch":
                self._tensorboard.add_scalar(name, value, record["epoch"])

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None


class _NoTensorBoard:
    def add_scalar(self, *_: Any) -> None: ...

    def close(self) -> None: ...


def _tensorboard_writer(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return _NoTensorBoard()
    return SummaryWriter(str(folder))
