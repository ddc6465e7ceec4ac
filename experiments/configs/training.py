"""How a run trains: the loop's settings and the optimiser's."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import optax

from hmcvae import training
from hmcvae._checks import check_choice
from hmcvae.training.settings import check_learning_rate

OPTIMIZERS = {"adam": training.adam, "muon": training.muon}


def check_optimizer(name: str) -> None:
    """Raise ValueError unless it is one of OPTIMIZERS."""
    check_choice("optimizer", name, OPTIMIZERS)


@dataclass(frozen=True)
class Options(training.Settings):
    """How to train; checked when it is made.

    Attributes:
        optimizer: "adam", or "muon", which suits learning rates near 1e-2; see `hmcvae.training`.
        learning_rate: the optimiser's, at its highest.
        schedule: "constant"; "cosine" to zero; or "burda": falling by 10^(-1/7) over eight stages of 3^i epochs
            (Burda et al. 2016, section 5), scaled to num_epochs.

    Raises:
        ValueError: for a value outside its range.
    """

    optimizer: Literal["adam", "muon"] = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"

    def __post_init__(self):
        super().__post_init__()
        check_optimizer(self.optimizer)
        object.__setattr__(self, "learning_rate", check_learning_rate(self.learning_rate, self.schedule))

    def make_optimizer(self, num_batches: int) -> optax.GradientTransformation:
        """The optimiser with the schedule, over a run of num_epochs of num_batches steps."""
        make = OPTIMIZERS[self.optimizer]
        return make(self.learning_rate, self.schedule, self.num_epochs * num_batches)

    @property
    def loop(self) -> dict[str, Any]:
        """What `training.fit` takes beside the optimizer."""
        values = asdict(self)
        return {field.name: values[field.name] for field in fields(training.Settings)}
