"""What the benchmark of scaling measures."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from experiments.support.checks import check_above_zero, check_fields, check_whole


@dataclass(frozen=True)
class Config:
    """Benchmark data from a disk, and the code for many devices.

    Attributes:
        gib: the size of the file that is streamed.
        memory_mib: of the images in memory whose rate is the measure.
        side: height and width of the streamed images, of three channels.
        hidden: width of the two dense layers of encoder and decoder.
        latent_dim: d.
        batch_size: images a step.
        num_images: MNIST-like images of an epoch on a mesh of one device.
        max_rounds: of epochs with and without that mesh.
        scratch: folder for the file, which is deleted at the end; by default the system's.
        folder: where JSON, page and picture go.
        quick: a small run to see that it works.
    """

    gib: float = 4.0
    memory_mib: float = 32.0
    side: int = 64
    hidden: int = 50
    latent_dim: int = 20
    batch_size: int = 100
    num_images: int = 6000
    max_rounds: int = 40
    scratch: Path | None = None
    folder: Path | None = None
    quick: bool = False

    def __post_init__(self):
        whole = ("side", "hidden", "latent_dim", "batch_size", "num_images", "max_rounds")
        check_fields(
            self,
            {name: check_whole(1) for name in whole}
            | {"gib": check_above_zero, "memory_mib": check_above_zero},
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.side, self.side, 3

    @property
    def image_bytes(self) -> int:
        return 3 * self.side**2

    @property
    def steps_in_memory(self) -> int:
        """Whole batches of the images in memory."""
        return int(self.memory_mib * 2**20) // (self.image_bytes * self.batch_size)

    @property
    def num_parts(self) -> int:
        """How often the file holds as many."""
        return int(self.gib * 2**30) // (self.steps_in_memory * self.batch_size * self.image_bytes)


def smaller(config: Config) -> Config:
    """Seconds in place of minutes."""
    return dataclasses.replace(
        config, gib=2**-9, memory_mib=0.25, side=8, hidden=8, batch_size=50, num_images=200, max_rounds=2
    )
