"""What the benchmark of the leapfrog finds: rows that go into its JSON and come back from it."""

from dataclasses import dataclass

from experiments.reporting.reports import plural


@dataclass(frozen=True)
class Row:
    """One density, number of chains and dtype.

    steps_per_second: of all chains, by contestant: "gradient", "ours" and, where it was measured, "blackjax".
    The ratios are of seconds, with standard errors; those with BlackJAX are None where it was not measured.
    """

    density: str
    chains: int
    dtype: str
    num_steps: int
    rounds: int
    gradient_microseconds: float
    steps_per_second: dict[str, float]
    ours_over_gradient: float
    ours_over_gradient_error: float
    blackjax_over_gradient: float | None = None
    blackjax_over_ours: float | None = None
    blackjax_over_ours_error: float | None = None
    difference_from_blackjax: float | None = None

    @property
    def case(self) -> str:
        return f"{self.density}, {plural(self.chains, 'chain')}, {self.dtype}"


def from_json(report: dict) -> list[Row]:
    return [Row(**row) for row in report["rows"]]
