"""What a call on an accelerator is told."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from experiments.configs import PRESETS
from experiments.support.checks import check_choices, check_fields, check_number, check_whole


@dataclass(frozen=True)
class Config:
    """Check the numerics on this device, time epochs of the bounds and steps of the samplers, and go on training.

    Attributes:
        data_dir: the data's folder.
        seconds: of the whole call; what is left of them after the timings goes to the trainings. The last save and
            its bounds may take some more: leave room below a hard limit.
        presets: whose epochs are timed and which are trained on.
        num_images: of an epoch that is timed, in uint8; seconds are told for as many.
        repeats: timed epochs.
        chains: how many at once, one number a row.
        call_seconds: how long a timed call of the chains should last.
        num_compared: test images whose log-weights are compared with the CPU's.
        steps_per_save: of the trainings: they stop at such a step when their seconds are over.
        runs: the trainings' folder; carry it from call to call.
        folder: where the report goes; runs/accelerator by default.
        quick: a small run, on the embedded digits, to see that it works.
    """

    data_dir: Path | None = None
    seconds: float = 540.0
    presets: tuple[str, ...] = ("mnist_conv_vae", "mnist_conv_hvi", "mnist_conv_amortised")
    num_images: int = 10000
    repeats: int = 5
    chains: tuple[int, ...] = (1, 16, 256, 4096, 65536)
    call_seconds: float = 0.5
    num_compared: int = 64
    steps_per_save: int = 200
    runs: Path = Path("runs/accelerator/trainings")
    folder: Path | None = None
    quick: bool = False

    def __post_init__(self):
        positive = check_number(0, is_open=True)
        whole = ("num_images", "repeats", "num_compared", "steps_per_save", "chains")
        check_fields(
            self, {name: check_whole(1) for name in whole} | {"seconds": positive, "call_seconds": positive}
        )
        check_choices("presets", self.presets, PRESETS)


def smaller(config: Config) -> Config:
    """Seconds in place of minutes."""
    return dataclasses.replace(
        config,
        seconds=min(config.seconds, 60.0),
        presets=("digits_vae", "digits"),
        num_images=400,
        repeats=2,
        chains=(1, 4),
        call_seconds=0.01,
        num_compared=4,
        steps_per_save=5,
    )
