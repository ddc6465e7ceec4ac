"""Small runs of the experiments."""

import dataclasses
from pathlib import Path

import numpy as np

from experiments.configs import Elbo, Hvi, Options, TrainConfig

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
