"""What the rows of one contestant on one posterior say together."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

MOST_ERRORS = 4.0  # standard errors that an expectation may be off by
HIGHEST_RHAT = 1.05


class Estimate(NamedTuple):
    """An expectation and its standard error, over the seeds."""

    mean: float
    error: float

    def deviation(self, truth: "Estimate") -> float:
        """In joint standard errors."""
        error = float(np.hypot(self.error, truth.error))
        return abs(self.mean - truth.mean) / error if error > 0 else float("inf") * (self.mean != truth.mean)


class Summary(NamedTuple):
    """seconds, gradients: per effective draw of the worst coordinate, of z or of z².  ess: that number, ess_z, ess_z2:
    of z and z² apart, all summed over the seeds.  deviation: the largest of the watched expectations, in standard
    errors; None where there is nothing to compare with.  error: what a contestant failed with."""

    contestant: str
    library: str
    num_runs: int
    ess: float
    ess_z: float
    ess_z2: float
    seconds: float
    gradients: float
    warm_seconds: float
    compile_seconds: float
    failed: float
    rhat: float
    watched: Mapping[str, Estimate]
    deviation: float | None = None

    @property
    def is_ours(self) -> bool:
        return self.library == "hmcvae"

    @property
    def is_right(self) -> bool:
        """It mixed, and says the truth within MOST_ERRORS."""
        return self.has_mixed and (self.deviation is None or self.deviation <= MOST_ERRORS)

    @property
    def has_mixed(self) -> bool:
        return self.rhat <= HIGHEST_RHAT


def summaries(rows: Sequence[dict], exact: Mapping[str, float]) -> list[Summary]:
    """Of all contestants on one posterior, in the order of their first rows; exact: the watched expectations whose
    value is known. The others are compared with the median of all other contestants that have mixed."""
    found = {}
    for row in rows:
        if "error" not in row:
            found.setdefault((row["contestant"], row["form"]), []).append(row)
    parts = [_summary(own) for own in found.values()]
    return [own._replace(deviation=_deviation(own, parts, exact)) for own in parts]


def _summary(rows: Sequence[dict]) -> Summary:
    def total(name: str) -> float:
        return float(sum(row[name] for row in rows))

    ess = max(total("least_ess"), 1e-9)
    return Summary(
        rows[0]["contestant"],
        rows[0]["library"],
        len(rows),
        ess,
        sum(row["ess"][0] for row in rows),
        sum(row["ess_square"][0] for row in rows),
        total("seconds") / ess,
        total("gradients") / ess,
        float(np.median([row["warm_seconds"] for row in rows])),
        max(row["compile_seconds"] for row in rows),
        total("failed") / total("num_transitions"),
        max(row["rhat"] for row in rows),
        {name: _pooled([row["watched"][name] for row in rows]) for name in rows[0]["watched"]},
    )


def _pooled(values: Sequence[dict]) -> Estimate:
    """Over the seeds; its error from those of the runs or from how far they are apart, whichever is more."""
    means, errors = (np.array([value[name] for value in values]) for name in ("mean", "error"))
    apart = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else 0.0
    return Estimate(float(means.mean()), float(max(np.sqrt(np.mean(errors**2) / len(errors)), apart)))


def _deviation(own: Summary, all_of_them: Sequence[Summary], exact: Mapping[str, float]) -> float | None:
    deviations = []
    for name, estimate in own.watched.items():
        truth = Estimate(exact[name], 0.0) if name in exact else _others(own, all_of_them, name)
        if truth is not None:
            deviations.append(estimate.deviation(truth))
    return max(deviations, default=None)


def _others(own: Summary, all_of_them: Sequence[Summary], name: str) -> Estimate | None:
    values = [
        other.watched[name]
        for other in all_of_them
        if other.contestant != own.contestant and other.has_mixed and other.watched[name].error > 0
    ]
    if not values:
        return None
    # The median, which one that is wrong does not move far; of normal estimates its error is 1.25 times the mean's.
    error = 1.25 * float(np.sqrt(np.sum([value.error**2 for value in values]))) / len(values)
    return Estimate(float(np.median([value.mean for value in values])), error)
