"""Small runs of the experiments."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from experiments.configs import Elbo, Hvi, Options, TrainConfig
from hmcvae.data import Dataset
from hmcvae.data.dataset import FORMATS

HVI = Hvi(num_steps=1, learned_momentum=False, reverse_hidden=4)
TINY = TrainConfig(
    method=Elbo(),
    latent_dim=2,
    hidden=(6,),
    training=Options(num_epochs=3, batch_size=500),
    eval_samples=3,
    eval_images=12,
)


def tiny(folder: Path, **changes) -> TrainConfig:
    options = {name: changes.pop(name) for name in list(changes) if hasattr(TINY.training, name)}
    changes["training"] = dataclasses.replace(TINY.training, **options)
    return dataclasses.replace(TINY, run_dir=folder, **changes)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_cifar(folder: Path, images: np.ndarray) -> TrainConfig:
    np.savez(folder / "cifar10.npz", train=images, test=images)
    return tiny(folder / "run", dataset="cifar10", data_dir=folder, likelihood="discretised_logistic")


def metrics_of(folder: Path) -> list[dict]:
    """The records, without the times."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record | {"seconds": 0} for record in records]


def assert_picture(path: Path) -> None:
    assert path.read_bytes().startswith(b"\x89PNG"), path
    assert path.stat().st_size > 2000, path


def made_up(name: str, num_images: int = 4) -> Dataset:
    """Images of a data set's shape and range, without its files."""
    shape, max_value = FORMATS[name][:2]
    pixels = np.random.default_rng(0).integers(0, max_value + 1, (num_images, *shape), np.uint8)
    return Dataset(name, pixels, pixels[:0], pixels, max_value, "made up")
