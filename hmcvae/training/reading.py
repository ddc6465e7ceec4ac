"""What a training has learned, read from its checkpoints alone: without its optimizer and its data."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hmcvae._checks import check_count
from hmcvae._paths import dotted
from hmcvae.training.checksums import CHECKSUMS, damaged_files
from hmcvae.training.stored import (
    AnotherTreeError,
    arrays_of,
    differences_between,
    dtype_of,
    empty_shapes,
    storable,
)
from hmcvae.types import PyTree


def load_params(folder: str | os.PathLike[str], like: PyTree, epoch: int | None = None) -> PyTree:
    """The parameters in a training's checkpoint, for what comes after it: `fit` itself goes on by `resume`.

    Parameters that were averaged are in the optimizer's state, and not here: see `average_of`.

    Args:
        folder: where `Checkpoints` wrote, such as `fit`'s `checkpoints` or `best`.
        like: parameters with the same names, shapes and dtypes, {"vae": …, "bound": …} or one of the two: those that
            the training began with, or `jax.eval_shape` of what makes them. Their values do not matter.
        epoch: the checkpoint's; None: the newest.

    Returns:
        A pytree like `like`.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it is damaged, or not of a training; if its parameters have not the names, shapes and dtypes of
            `like`; or if `like` is no mapping with "vae" or "bound".
    """
    if not isinstance(like, Mapping) or not like or set(like) - {"vae", "bound"}:
        came: Any = sorted(map(str, like)) if isinstance(like, Mapping) else type(like).__name__
        raise ValueError(f'like must be {{"vae": …, "bound": …}} or one of the two, got {came}')
    place = _place(Path(folder).expanduser(), epoch)
    state = read(place)
    found = state.get("params") if isinstance(state, Mapping) else None
    if not isinstance(found, Mapping):
        raise ValueError(f"the checkpoint {place} is not of a training: it has no parameters")
    own = jax.tree.map(lambda leaf: np.empty(np.shape(leaf), dtype_of(leaf)), like)
    target = jax.tree.map(storable, own)
    stored = {
        dotted(path): leaf for path, leaf in jax.tree.leaves_with_path({key: found.get(key) for key in like})
    }
    differences = differences_between(arrays_of(stored), arrays_of(target))
    if not differences:
        values = jax.tree.map_with_path(lambda path, _: stored[dotted(path)], own)
        differences = differences_between(empty_shapes(values, own), empty_shapes(target, own))
    if differences:
        raise AnotherTreeError(place, differences)
    return jax.tree.map(lambda value, leaf: jax.numpy.asarray(value if leaf.size else leaf), values, own)


def _place(folder: Path, epoch: int | None) -> Path:
    place = newest(folder) if epoch is None else folder / str(check_count("epoch", epoch, 0))
    if place is None or not place.is_dir():
        which = "checkpoint" if epoch is None else f"checkpoint of epoch {epoch}"
        raise FileNotFoundError(f"no {which} in {folder}")
    return place


def newest(folder: Path) -> Path | None:
    """The newest checkpoint; those that are being written have other names."""
    epochs = [int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit()]
    return folder / str(max(epochs)) if epochs else None


def read(place: Path) -> Any:
    """A checkpoint's tree, as dictionaries.

    Raises:
        ValueError: if it is damaged.
    """
    import orbax.checkpoint as ocp

    damaged = damaged_files(place)
    # Of a part alone, without the structure of the rest, no digest can be made.
    if not (place / CHECKSUMS).is_file():
        damaged = [f"{CHECKSUMS} is missing"]
    if damaged:
        raise ValueError(f"the checkpoint {place} is corrupted: {', '.join(damaged[:3])}")
    try:
        with ocp.StandardCheckpointer() as reader:
            return reader.restore((place / "state").resolve())
    except Exception as error:  # Orbax, TensorStore and zstd each raise kinds of their own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ValueError(f"the checkpoint {place} cannot be read: it is corrupted ({first})") from error
