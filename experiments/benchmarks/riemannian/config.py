"""What the Riemannian benchmark measures."""

from dataclasses import dataclass, replace
from pathlib import Path

from experiments.benchmarks.peers import BLACKJAX, MICI
from experiments.support.checks import check_above_zero, check_choices, check_fields, check_whole

EPSILON, NUM_STEPS = 0.5, 6
NUM_DISCARDED = 20  # transitions from the mode into the bulk
PEERS = (BLACKJAX, MICI)
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Config:
    """Benchmark Riemannian HMC against BlackJAX and mici, against its floor, and by size.

    Attributes:
        peers: other libraries to measure; one that is not installed is reported as "not measured".
        quick: a smoke run, written to runs/ and good for nothing else.
        num_rows: rows of the regression's data.
        dim: its coefficients.
        chains: numbers of chains against BlackJAX and for the floor.
        call_seconds: how long a timed call should last (it holds one transition at least).
        rounds: timed calls of every contestant.
        mici_draws: draws by mici.
        stretches: how many times as many are ours.
        dims: dimensions to grow to.
        rows: rows of data to grow to.
        many_chains: numbers of chains to grow to.
        dtypes: of all measurements but that against mici, which is in float64.
        folder: where the results are written; runs/bench_riemannian by default.
    """

    peers: tuple[str, ...] = tuple(peer.name for peer in PEERS)
    quick: bool = False
    num_rows: int = 1000
    dim: int = 25
    chains: tuple[int, ...] = (1, 64)
    call_seconds: float = 0.3
    rounds: int = 7
    mici_draws: int = 400
    stretches: int = 10
    dims: tuple[int, ...] = (5, 25, 50, 100, 200)
    rows: tuple[int, ...] = (100, 1000, 10_000, 100_000)
    many_chains: tuple[int, ...] = (1, 8, 64, 512, 4096)
    dtypes: tuple[str, ...] = DTYPES
    folder: Path | None = None

    def __post_init__(self):
        check_choices("dtypes", self.dtypes, DTYPES)
        check_choices("peers", self.peers, (peer.name for peer in PEERS))
        whole = (
            "num_rows",
            "dim",
            "chains",
            "rounds",
            "mici_draws",
            "stretches",
            "dims",
            "rows",
            "many_chains",
        )
        check_fields(self, {name: check_whole(1) for name in whole} | {"call_seconds": check_above_zero})


def smaller(config: Config) -> Config:
    """Smaller in every direction, for a smoke run."""
    config = replace(config, num_rows=100, dim=5, chains=(2,), call_seconds=0.02, rounds=2)
    return replace(config, mici_draws=30, stretches=2, dims=(5,), rows=(100, 200), many_chains=(1, 2))
