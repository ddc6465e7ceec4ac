"""What the benchmark of the leapfrog measures."""

from dataclasses import dataclass, replace
from pathlib import Path

from experiments.benchmarks.peers import BLACKJAX, MICI
from experiments.support.checks import check_above_zero, check_fields, check_whole

PEERS = (BLACKJAX,)  # of the leapfrog
RIEMANNIAN_PEERS = (BLACKJAX, MICI)
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Config:
    """Benchmark the leapfrog against BlackJAX's and against the bare gradient.

    Attributes:
        peers: other libraries to measure, "blackjax" and "mici"; one that is not installed is reported as "not
            measured". Not given: the leapfrog against BlackJAX alone. Given: also the Riemannian integrators against
            them.
        quick: a smoke run of a few seconds, written to runs/ and good for nothing else.
        chains: numbers of chains under vmap.
        call_seconds: how long a timed call should last.
        case_seconds: how long all calls of one case may last; it sets the number of rounds, 8 to max_rounds.
        max_rounds: see case_seconds.
        unroll: steps in an iteration of our loop and of the bare gradient's (BlackJAX has no such choice).
        folder: where the results are written; runs/bench_integrators by default.
    """

    peers: tuple[str, ...] | None = None
    quick: bool = False
    chains: tuple[int, ...] = (1, 256, 4096)
    call_seconds: float = 0.05
    case_seconds: float = 12.0
    max_rounds: int = 31
    unroll: int = 1
    folder: Path | None = None

    def __post_init__(self):
        whole = {name: check_whole(1) for name in ("chains", "max_rounds", "unroll")}
        check_fields(self, whole | {"call_seconds": check_above_zero, "case_seconds": check_above_zero})


def smaller(config: Config) -> Config:
    """Smaller for a smoke run, in every direction; the chains only where they were not given."""
    chains = config.chains if config.chains != Config.chains else (1, 16)
    return replace(config, chains=chains, call_seconds=0.002, case_seconds=0.02, max_rounds=3)
