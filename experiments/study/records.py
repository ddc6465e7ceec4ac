"""What `experiments.study` writes, and reads back: of each decoder a reference estimate, and a record of each method.

FOLDER/DECODER/reference.json          see `experiments.runs.reference`
FOLDER/DECODER/method-NAME.json        a `Record`
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from experiments.runs.reference import Reference
from experiments.support.files import read_json

BASELINE, FLAT = "Gaussian", "HVI-4"
REFERENCE, REFERENCE_OF_BEFORE = "reference.json", "pinned.json"

T = TypeVar("T")


@dataclass(frozen=True)
class Training:
    """How a method was trained.

    seconds: CPU seconds, compilation not counted.  num_epochs: over the training images, whole or not.
    images_per_chunk: images in one call of the compiled loop.
    curve: after each of these calls, (CPU seconds so far, mean bound over its steps).
    skipped_steps, clipped_steps: see `hmcvae.training.TrainState`.
    unconverged: share of the draws with an implicit solve that was not.
    """

    seconds: float
    num_epochs: float
    seconds_per_epoch: float
    images_per_chunk: int
    curve: list[list[float]]
    skipped_steps: int
    clipped_steps: int
    unconverged: float


UNTRAINED = Training(0.0, 0, float("nan"), 0, [], 0, 0, 0.0)


@dataclass(frozen=True)
class PerImage:
    """Of each test image: the bound, log p(x) by importance weighting, the standard deviation of a log weight, and the
    effective size of the weights (None where it was not kept)."""

    bound: Float[np.ndarray, " n"]
    log_likelihood: Float[np.ndarray, " n"]
    weight_sd: Float[np.ndarray, " n"]
    effective_sample_size: Float[np.ndarray, " n"] | None = None


@dataclass(frozen=True)
class Record:
    """What one method made of one decoder.

    method: its name.  definition: its settings, see `method_to_json`; None where they were not kept.
    latent_dim, seed: the decoder's.
    num_train, num_images: as the study was told; 0: all.
    planned_epochs: of training, where these were given in place of seconds; else 0.
    num_transitions, num_steps: T and L; None where they were not kept.
    derivatives_per_image: see `TrainConfig`.
    unconverged, nonfinite: shares of the draws on test images.
    learned: what the parameters of the dynamics came to.
    environment: see `machine.describe`.
    """

    method: str
    definition: dict[str, Any] | None
    latent_dim: int
    seed: int
    num_train: int
    num_images: int
    planned_epochs: float
    num_transitions: int | None
    num_steps: int | None
    derivatives_per_image: int
    training: Training
    per_image: PerImage
    unconverged: float
    nonfinite: float
    learned: dict[str, Any]
    environment: dict[str, Any]

    def to_json(self) -> dict:
        """As JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=np.ndarray.tolist))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Record":
        """What `to_json` made, now or before.

        Raises:
            ValueError: if fields are missing, or there are others.
        """
        values = dict(values) if "training" in values else _of_before(values)
        values["training"] = _made(Training, values["training"])
        per_image = {
            name: None if own is None else np.asarray(own, np.float64)
            for name, own in values.get("per_image", {}).items()
        }
        return _made(cls, values | {"per_image": _made(PerImage, per_image)})


# Where records of before had what is now in `training`.
TRAINING_OF_BEFORE = {
    "seconds": "seconds",
    "epochs": "num_epochs",
    "seconds_per_epoch": "seconds_per_epoch",
    "images_per_chunk": "images_per_chunk",
    "training_bound": "curve",
    "skipped_steps": "skipped_steps",
    "clipped_steps": "clipped_steps",
    "training_unconverged": "unconverged",
}


def _of_before(values: Mapping[str, Any]) -> dict[str, Any]:
    """A record of before in today's form: what it does not have, and need not, is None."""
    own = {"passes": 0.0, "definition": None, "num_transitions": None, "num_steps": None} | dict(values)
    training = {new: own.pop(old) for old, new in TRAINING_OF_BEFORE.items() if old in own}
    own["planned_epochs"] = own.pop("passes")
    own["per_image"] = {"effective_sample_size": None} | own.get("per_image", {})
    return own | {"training": training}


def _made(kind: type[T], values: Mapping[str, Any]) -> T:
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    missing, others = sorted(names - set(values)), sorted(set(values) - names)
    if missing or others:
        raise ValueError(
            f"missing are {', '.join(missing) or 'none'}, and not known {', '.join(others) or 'none'}: was it written "
            "by another version?"
        )
    return kind(**values)


def read_record(path: Path) -> Record:
    """The record in a file.

    Raises:
        ValueError: if it is damaged, or of another version; names the file.
    """
    values = read_json(path)
    try:
        return Record.from_json(values)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no record of a study: {error}") from error


def record_path(folder: Path, method: str) -> Path:
    """FOLDER/method-NAME.json."""
    return folder / f"method-{re.sub('[^A-Za-z0-9]+', '-', method)}.json"


def reference_path(folder: Path) -> Path:
    """Where a decoder's reference estimate is, or is to be."""
    before = folder / REFERENCE_OF_BEFORE
    return before if before.is_file() else folder / REFERENCE


def read_reference(path: Path) -> Reference:
    """The reference estimate in a file.

    Raises:
        ValueError: if it is damaged, or of another version; names the file.
    """
    values = read_json(path)
    try:
        return Reference.from_json(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Decoder:
    """One decoder: the reference estimate of its posteriors, and the records of the methods that are done, by name."""

    latent_dim: int
    seed: int
    reference: Reference
    records: dict[str, Record]

    def gaps(self, method: str) -> Float[np.ndarray, " n"]:
        """log p(x) - bound, for each image."""
        return self.reference.log_likelihood - self.records[method].per_image.bound


def read(folder: Path) -> list[Decoder]:
    """The decoders of a study that have anything to report.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a file is damaged, or of another version.
    """
    decoders = []
    names = (REFERENCE, REFERENCE_OF_BEFORE)
    for own in sorted({path.parent for name in names for path in folder.glob(f"*/{name}")}):
        records = [read_record(path) for path in sorted(own.glob("method-*.json"))]
        if records:
            reference = read_reference(reference_path(own))
            by_name = {record.method: record for record in records}
            decoders.append(Decoder(records[0].latent_dim, records[0].seed, reference, by_name))
    if not decoders:
        raise FileNotFoundError(f"no study in {folder}: no */{REFERENCE} with records beside it")
    return decoders
