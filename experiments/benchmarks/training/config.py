"""What the benchmark of training measures, and the images that it trains on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from experiments.support.checks import check_above_zero, check_fields, check_whole
from hmcvae import data

MODELS = ("VAE", "HVI")
EXACT = "HVI, second-order terms added"
CHECKED = ("HVI", EXACT)  # whose gradients are held against difference quotients
LEARNING_RATE = 1e-3  # Adam's
NUM_PIXELS, MAX_PIXEL = 28, 255  # each way; white

AnyConfig = TypeVar("AnyConfig", bound="Config")


@dataclass(frozen=True)
class Config:
    """Benchmark the training against pythae's.

    Attributes:
        data_dir: the folder with the data's files.
        quick: a smoke run on made-up images and small nets, written to runs/ and good for nothing else.
        num_images: images that an epoch takes its batches from.
        batch_size: images of a gradient.
        hidden: units of the layers of the encoder, and backwards of the decoder.
        latent_dim: numbers of a code.
        num_steps: leapfrog steps.
        rounds: epochs that every contestant is timed for.
        seconds: no new round begins after so many seconds of them, once there are three.
        one_core: also run both libraries on a single core (where the system can pin a process).
        extras: also time the variants: ours with new bits in every epoch, and pythae's own trainer.
        models: what of ours is timed.
        peers: pythae's models.
        folder: where the results are written; runs/ and the script's name by default.
    """

    data_dir: Path | None = None
    quick: bool = False
    num_images: int = 6000
    batch_size: int = 128
    hidden: tuple[int, ...] = (300, 300)
    latent_dim: int = 20
    num_steps: int = 3
    rounds: int = 9
    seconds: float = 150.0
    one_core: bool = True
    extras: bool = True
    models: tuple[str, ...] = MODELS
    peers: tuple[str, ...] = (*MODELS, EXACT)
    folder: Path | None = None

    def __post_init__(self):
        counts = ("num_images", "batch_size", "hidden", "latent_dim", "num_steps", "rounds")
        check_fields(self, {name: check_whole(1) for name in counts} | {"seconds": check_above_zero})
        if self.batch_size > self.num_images:
            raise ValueError(
                f"batch_size must be between 1 and num_images = {self.num_images}, got {self.batch_size}"
            )

    @property
    def num_batches(self) -> int:
        return self.num_images // self.batch_size


def smaller(config: AnyConfig) -> AnyConfig:
    """The smoke run: smaller in every direction."""
    changes = {"num_images": 64, "batch_size": 16, "hidden": (8, 8), "latent_dim": 2, "rounds": 2}
    return replace(config, one_core=False, extras=False, **changes)


def made_up(num_images: int) -> np.ndarray:
    """Bright discs, for runs without data."""
    grid = np.mgrid[:NUM_PIXELS, :NUM_PIXELS]
    centres = np.random.default_rng(0).uniform(8, 20, (num_images, 2, 1, 1))
    return (MAX_PIXEL * (((grid - centres) ** 2).sum(1) < 36)).astype(np.uint8)[..., None]


def load_images(config: Config) -> np.ndarray:
    """The images of a run, [n, 28, 28, 1]: MNIST's, or for a smoke run made-up ones."""
    if config.quick:
        return made_up(config.num_images)
    return data.load("mnist", config.data_dir).train[: config.num_images]
