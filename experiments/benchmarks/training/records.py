"""What is found of the contestants: facts of each model, seconds of each epoch, and a row for each contestant."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import NamedTuple

import numpy as np

from experiments.benchmarks.training.config import MODELS
from experiments.reporting.reports import plural

Epoch = Callable[[], float]  # trains for an epoch, and returns minus the mean loss


class EpochTime(NamedTuple):
    """bound: the mean over the epoch, as the contestant itself counts it."""

    seconds: float
    cpu_seconds: float
    bound: float


@dataclass(frozen=True)
class Gradient:
    """The loss's derivative along a random direction of the decoder's weights, in float64: the automatic one, and the
    difference quotient. They differ if second-order terms are missing."""

    automatic: float
    quotient: float

    @property
    def ratio(self) -> float:
        return self.automatic / self.quotient


@dataclass(frozen=True)
class Facts:
    """What is known of a model beside its seconds; None where it was not found out.

    compile_seconds, temporary_bytes: of the epoch's program.  flops: floating-point operations of an epoch.
    shares: what the time of an epoch goes to; empty where there is no profile.
    """

    compile_seconds: float | None = None
    temporary_bytes: int | None = None
    flops: float | None = None
    shares: dict[str, float] | None = None
    gradient: Gradient | None = None

    def or_else(self, other: "Facts") -> "Facts":
        """These, and of the other what these do not know."""
        own = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        unknown = {name: getattr(other, name) for name, value in own.items() if value is None}
        return replace(self, **unknown)

    def to_json(self) -> dict:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @staticmethod
    def from_json(values: dict) -> "Facts":
        gradient = Gradient(**values["gradient"]) if "gradient" in values else None
        return replace(Facts(**(values | {"gradient": None})), gradient=gradient)


Known = dict[str, dict[str, Facts]]  # by library and model


@dataclass(frozen=True)
class Row:
    """A contestant; figures are None where its library was not there.

    variant: of the model, empty for the model itself.  seconds, cpu_seconds: medians over the rounds.  bound: of the
    last round.  rounds: seconds of each.  *_over_ours: over those of our model on as many cores.
    """

    model: str
    library: str
    variant: str
    num_cores: int | None = None
    seconds: float | None = None
    least_seconds: float | None = None
    cpu_seconds: float | None = None
    bound: float | None = None
    rounds: list[float] = field(default_factory=list)
    seconds_over_ours: float | None = None
    cpu_seconds_over_ours: float | None = None

    @property
    def name(self) -> str:
        """The model with its variant, as the libraries' tables have it."""
        return f"{self.model}, {self.variant}" if self.variant else self.model

    @property
    def cores(self) -> str:
        return plural(self.num_cores or 0, "core")


def make_row(library: str, name: str, num_cores: int, times: list[EpochTime]) -> Row:
    """Of the epochs of one contestant."""
    seconds, cpu, bound = (np.array(values) for values in zip(*times, strict=True))
    model, _, variant = name.partition(", ")
    return Row(
        model=model,
        library=library,
        variant=variant,
        num_cores=num_cores,
        seconds=float(np.median(seconds)),
        least_seconds=float(seconds.min()),
        cpu_seconds=float(np.median(cpu)),
        bound=float(bound[-1]),
        rounds=[round(float(value), 4) for value in seconds],
    )


def compare(rows: list[Row], absent: tuple[str, ...]) -> list[Row]:
    """Rows by model with their ratios to ours on as many cores; those of an absent library hold None."""
    rows = [*rows, *(Row(model, library, "") for model in MODELS for library in absent)]
    ours = {(row.model, row.num_cores): row for row in rows if row.library == "hmcvae" and not row.variant}

    def over_ours(row: Row, key: str) -> float | None:
        base, value = ours.get((row.model, row.num_cores)), getattr(row, key)
        return value / getattr(base, key) if base and value else None

    found = [
        replace(
            row,
            seconds_over_ours=over_ours(row, "seconds"),
            cpu_seconds_over_ours=over_ours(row, "cpu_seconds"),
        )
        for row in rows
    ]
    return sorted(
        found,
        key=lambda row: (MODELS.index(row.model), row.library, -(row.num_cores or 0), row.variant),
    )
