"""The record of an epoch: what a line of a run's metrics.jsonl says, for all that write, draw or count it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

SPLITS = ("validation", "test")


class Likelihood(NamedTuple):
    """log p(x) of a few images by importance weighting, in nats.

    log_likelihood: mean over the images of log (1/K) Σ_k exp L_k.  gap: it minus the bound, from the same draws.
    draws: K.  ess: effective size of the weights; None in runs of before, which did not keep it.
    """

    log_likelihood: float
    gap: float
    draws: int
    ess: float | None = None

    @property
    def bound(self) -> float:
        """Of the same images and draws."""
        return self.log_likelihood - self.gap


class Monitored(NamedTuple):
    """What the parameters at the end of an epoch are worth on images that they were not trained on.

    split: one of SPLITS.  bound: mean over the images.  likelihood: of a few of them; None where it was not drawn.
    """

    split: str
    bound: float
    likelihood: Likelihood | None = None

    def to_line(self) -> dict[str, float]:
        """Its part of a metrics line: names begin with the split's."""
        values: dict[str, Any] = {"bound": self.bound}
        if self.likelihood is not None:
            values |= self.likelihood._asdict()
        return {f"{self.split}_{name}": value for name, value in values.items() if value is not None}


class EpochRecord(NamedTuple):
    """An epoch of a training.

    epoch: counted from 1.  bound: of the training images, mean over the steps taken.  seconds: of the epoch's own call.
    unconverged: share of the draws with an implicit solve that was not.
    skipped_steps, clipped_steps: since the start of the run.
    """

    epoch: int
    bound: float
    seconds: float
    unconverged: float
    skipped_steps: int
    clipped_steps: int
    monitored: Monitored

    @classmethod
    def from_line(cls, values: Mapping[str, Any]) -> "EpochRecord":
        """The record of a metrics line.

        Raises:
            ValueError: if the line lacks something; says what.
        """
        split = next((split for split in SPLITS if f"{split}_bound" in values), SPLITS[-1])
        names = [name for name in cls._fields if name != "monitored"]
        missing = [name for name in (*names, f"{split}_bound") if name not in values]
        if missing:
            raise ValueError(
                f"the record of epoch {values.get('epoch')} has no {', '.join(missing)}: was it written by another "
                "version?"
            )
        likelihood = None
        if f"{split}_log_likelihood" in values:
            found = {name: values.get(f"{split}_{name}") for name in Likelihood._fields}
            likelihood = Likelihood(**found)  # type: ignore[arg-type]
        monitored = Monitored(split, values[f"{split}_bound"], likelihood)
        own: dict[str, Any] = {name: values[name] for name in names}
        return cls(**own, monitored=monitored)
