"""What a training that goes on must have in common with the one before, and what one that begins must not delete."""

from pathlib import Path
from typing import Any

from hmcvae._digest import digest
from hmcvae.training.checkpoints import Checkpoints
from hmcvae.training.settings import Settings
from hmcvae.training.streams import Stream
from hmcvae.types import PyTree


def identity_of(settings: Settings, data: PyTree | Stream) -> dict[str, Any]:
    """What must be the same where a training goes on: of data in memory, their checksum."""
    found: dict[str, Any] = {"seed": settings.seed}
    if not isinstance(data, Stream):
        found |= {"batch_size": settings.batch_size, "checksum of the data": digest(data)}
    return found


def check_identity(saved: dict[str, Any], own: dict[str, Any], folder: Path) -> None:
    """Raise ValueError where a training would go on as another one; what older checkpoints do not say passes."""
    other = [
        f"{name} was {saved[name]}, is {own[name]}" for name in own if saved.get(name, own[name]) != own[name]
    ]
    if other:
        raise ValueError(
            f"{folder} holds another training: {'; '.join(other)}. To begin with its parameters, see "
            "training.load_params"
        )


def check_folders(resume: bool, **kept: Checkpoints | None) -> None:
    """Raise ValueError for folders that are none, or the same, or, without `resume`, hold what would be deleted."""
    seen: dict[Any, str] = {}
    for name, own in kept.items():
        if own is None:
            continue
        if not isinstance(own, Checkpoints):
            raise ValueError(f"{name} must be training.Checkpoints, such as Checkpoints(folder), got {own!r}")
        if own.folder in seen:  # each deletes what it does not keep
            raise ValueError(
                f"{seen[own.folder]} and {name} need folders of their own, got {own.folder} for both"
            )
        seen[own.folder] = name
        # Epoch 0 is from before the first step: nothing is lost with it.
        if not resume and any(own.epochs()):
            raise ValueError(
                f"{own.folder} holds a training's {name}, the newest of {own.epochs()[-1]}: give resume=True to go on "
                "with it, or another folder"
            )
