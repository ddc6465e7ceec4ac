"""What the benchmark of the no-U-turn sampler finds: rows that go into its JSON and come back from it."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class SpeedRow:
    """Ours against BlackJAX's on one density.

    ours, peer: transitions a second, all chains together.  ratio: of them, ours to the peer's, with its standard error.
    ours_steps, peer_steps: integrator steps of a transition.  iterations_ratio: the same ratio for integrator steps of
    the longest tree of each transition, for which all chains wait.
    """

    density: str
    chains: int
    ours: float
    peer: float
    ratio: float
    ratio_error: float
    ours_steps: float
    peer_steps: float
    iterations_ratio: float


@dataclass(frozen=True)
class DrawsRow:
    """Of one sampler on one posterior.  gradients: for an effective draw, by the least bulk ESS."""

    posterior: str
    sampler: str
    gradients: float
    least_ess: float
    steps: float
    acceptance: float
    divergent: int


@dataclass(frozen=True)
class Findings:
    speed: list[SpeedRow]
    draws: list[DrawsRow]

    def to_json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(report: dict) -> "Findings":
        return Findings(
            [SpeedRow(**row) for row in report["speed"]], [DrawsRow(**row) for row in report["draws"]]
        )
