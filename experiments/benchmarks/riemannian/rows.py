"""What the Riemannian benchmark finds: rows that go into its JSON and come back from it."""

from dataclasses import asdict, dataclass

from experiments.reporting.reports import plural


@dataclass(frozen=True)
class Case:
    """chains: under vmap."""

    chains: int
    dtype: str

    @property
    def case(self) -> str:
        return f"{plural(self.chains, 'chain')}, {self.dtype}"


@dataclass(frozen=True)
class SpeedRow(Case):
    """A contestant's transitions, all chains together.

    seconds_over_ours: of a transition, with its standard error.  converged: share of the transitions whose solves all
    did.  iterations: a step.  The last three, and acceptance, are None where a contestant does not report them.
    """

    contestant: str
    rounds: int
    transitions_per_second: float
    seconds_over_ours: float
    seconds_over_ours_error: float
    compile_seconds: float
    acceptance: float | None = None
    converged: float | None = None
    iterations: float | None = None


@dataclass(frozen=True)
class EssRow:
    """A contestant's least effective sample size, in stretches of so many draws."""

    contestant: str
    draws: int
    stretch: int
    least_ess_per_draw: float
    cpu_milliseconds_per_draw: float
    ess_per_cpu_second: float
    acceptance: float
    converged: float


@dataclass(frozen=True)
class FloorRow(Case):
    """A step and its parts, for all chains; see `floor.parts_of_step` for the names of `microseconds`.

    momentum_iterations, position_iterations: made in a step, on average.  floor: the sum of the parts.
    """

    microseconds: dict[str, float]
    momentum_iterations: float
    position_iterations: float
    iterations_microseconds: float
    floor: float
    over_floor: float


@dataclass(frozen=True)
class GrowthRow(Case):
    """Steps per second of all chains at a size; None where the program would need too much memory.

    varied: which of "dim", "rows" and "chains" grows.  megabytes: that the program works in.
    """

    varied: str
    rows: int
    dim: int
    compile_seconds: float
    megabytes: float
    steps_per_second: float | None = None
    acceptance: float | None = None
    converged: float | None = None
    iterations: float | None = None


@dataclass(frozen=True)
class Findings:
    """All of them. difference_from_mici: of one step of mici's from ours, relative; None where it was not measured."""

    against_blackjax: list[SpeedRow]
    against_mici: list[EssRow]
    difference_from_mici: float | None
    floor: list[FloorRow]
    growth: list[GrowthRow]

    def to_json(self) -> dict:
        made = asdict(self)
        against_mici = {
            "rows": made["against_mici"],
            "difference_from_mici": made.pop("difference_from_mici"),
        }
        return made | {"against_mici": against_mici}

    @staticmethod
    def from_json(report: dict) -> "Findings":
        return Findings(
            [SpeedRow(**row) for row in report["against_blackjax"]],
            [EssRow(**row) for row in report["against_mici"]["rows"]],
            report["against_mici"]["difference_from_mici"],
            [FloorRow(**row) for row in report["floor"]],
            [GrowthRow(**row) for row in report["growth"]],
        )
