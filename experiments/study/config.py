"""What a study is made of."""

from dataclasses import dataclass
from pathlib import Path

from experiments.configs import MAX_LOOP, MAX_TEMPERATURES, MAX_WIDTH, Method, preset
from experiments.study.methods import FAMILIES, METHODS, grid
from experiments.support.checks import (
    check_above_zero,
    check_choices,
    check_fields,
    check_images,
    check_number,
    check_whole,
)
from hmcvae._checks import check_seed


@dataclass(frozen=True)
class StudyConfig:
    """Compare inference with one decoder held fixed.

    Attributes:
        base: the preset of the plain VAE whose decoder is studied.
        latent_dims: its latent sizes.
        seeds: its seeds.
        methods: of METHODS (experiments/study/methods.py); empty: all of them, unless there is a grid.
        families: of FAMILIES; each is trained with every number of transitions and of steps.
        transitions, steps: T and L of the grid.
        decoder_epochs: how long the VAE is trained.
        seconds: CPU seconds of training for each method, compilation not counted.
        num_epochs: of training for each method, in place of the seconds: equal updates, at whatever cost; 0: seconds.
        num_train: training images for inference; 0: all.
        num_images: test images; 0: all.
        eval_samples: draws for each of them.
        num_temperatures, num_chains: of annealed importance sampling, for the reference estimate of log p(x).
        data_dir: the data's folder.
        download: let tensorflow-datasets download the data.
        folder: where the records are.
    """

    base: str = "mnist_vae"
    latent_dims: tuple[int, ...] = (10, 20, 50)
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    transitions: tuple[int, ...] = (1,)
    steps: tuple[int, ...] = (4,)
    decoder_epochs: int = 150
    seconds: float = 60.0
    num_epochs: float = 0.0
    num_train: int = 0
    num_images: int = 300
    eval_samples: int = 100
    num_temperatures: int = 300
    num_chains: int = 8
    data_dir: Path | None = None
    download: bool = False
    folder: Path = Path("runs/study")

    def __post_init__(self):
        for name, known in (("methods", METHODS), ("families", FAMILIES)):
            check_choices(name, getattr(self, name), known)
        preset(self.base)
        check_fields(
            self,
            {
                "latent_dims": check_whole(1, MAX_WIDTH),
                "seeds": check_seed,
                "transitions": check_whole(1, MAX_LOOP),
                "steps": check_whole(1, MAX_LOOP),
                "decoder_epochs": check_whole(1),
                "seconds": check_above_zero,
                "num_epochs": check_number(0),
                "num_train": check_whole(0),
                "num_images": check_images(),
                "eval_samples": check_whole(1),
                "num_temperatures": check_whole(1, MAX_TEMPERATURES),
                "num_chains": check_whole(1, MAX_LOOP),
            },
        )

    @property
    def chosen(self) -> dict[str, Method]:
        """The methods to train."""
        named = self.methods or (() if self.families else tuple(METHODS))
        return {name: METHODS[name] for name in named} | grid(self.families, self.transitions, self.steps)

    def progress(self, seconds: float, num_epochs: float) -> float:
        """The share of a training that is done: of its seconds, or of its epochs where these are given."""
        return num_epochs / self.num_epochs if self.num_epochs else seconds / self.seconds
