"""What `experiments.study` has written, read back."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.support.files import read_json

BASELINE, FLAT = "Gaussian", "HVI-4"


@dataclass(frozen=True)
class Decoder:
    """One decoder's cells: log p(x) of its images, and the figures of the methods that are done."""

    latent_dim: int
    seed: int
    pinned: dict
    methods: dict[str, dict]

    @property
    def log_likelihood(self) -> np.ndarray:
        """log p(x) of each image, by annealed importance sampling."""
        return np.asarray(self.pinned["log_likelihood"])

    def gaps(self, method: str) -> np.ndarray:
        """log p(x) - bound, for each image."""
        return self.log_likelihood - np.asarray(self.methods[method]["per_image"]["bound"])


def read(folder: Path) -> list[Decoder]:
    """The decoders of a study that have anything to report.

    Raises:
        FileNotFoundError: if there is none.
    """
    decoders = []
    for path in sorted(folder.glob("*/pinned.json")):
        cells = [read_json(cell) for cell in sorted(path.parent.glob("method-*.json"))]
        if cells:
            methods = {cell["method"]: cell for cell in cells}
            decoders.append(Decoder(cells[0]["latent_dim"], cells[0]["seed"], read_json(path), methods))
    if not decoders:
        raise FileNotFoundError(f"no study in {folder}: no */pinned.json with cells beside it")
    return decoders
