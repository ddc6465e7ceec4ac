"""How a run trains: the loop's settings and the optimiser's."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import optax

from hmcvae import training
from hmcvae._checks import check_choice
from hmcvae.training.settings import check_learning_rate

OPTIMIZERS = {"adam": training.adam, "muon": training.muon}
# The learning rate of each where none is given.
RATES = {"adam": 1e-3, "muon": 1e-2}


def check_optimizer(name: str) -> None:
    """Raise ValueError unless it is one of OPTIMIZERS."""
    check_choice("optimizer", name, OPTIMIZERS)


def rate_of(optimizer: str, learning_rate: float | None) -> float:
    """The learning rate that is given, or else the optimizer's own."""
    return RATES[optimizer] if learning_rate is None else learning_rate


@dataclass(frozen=True)
class Options(training.Settings):
    """How to train; checked when it is made.

    Attributes:
        optimizer: "adam" or "muon"; see `hmcvae.training`.
        learning_rate: the optimiser's, at its highest; None: 1e-3 of adam, 1e-2 of muon.
        schedule: "constant"; "cosine" to zero; or "burda": falling by 10^(-1/7) over eight stages of 3^i epochs
            (Burda et al. 2016, section 5), scaled to num_epochs.

    Raises:
        ValueError: for a value outside its range.
    """

    optimizer: Literal["adam", "muon"] = "adam"
    learning_rate: float | None = None
    schedule: str = "constant"

    def __post_init__(self):
        super().__post_init__()
        check_optimizer(self.optimizer)
        rate = check_learning_rate(self.rate, self.schedule)
        if self.learning_rate is not None:
            object.__setattr__(self, "learning_rate", rate)

    @property
    def rate(self) -> float:
        """The learning rate, the optimizer's own where none is given: a preset's stays open, so that another optimizer
        finds one that suits it."""
        return rate_of(self.optimizer, self.learning_rate)

    def make_optimizer(self, num_batches: int) -> optax.GradientTransformation:
        """The optimiser with the schedule, over a run of num_epochs of num_batches steps."""
        make = OPTIMIZERS[self.optimizer]
        return make(self.rate, self.schedule, self.num_epochs * num_batches)

    @property
    def loop(self) -> dict[str, Any]:
        """What `training.fit` takes beside the optimizer."""
        values = asdict(self)
        return {field.name: values[field.name] for field in fields(training.Settings)}
