"""What the benchmark of the no-U-turn sampler measures."""

from dataclasses import dataclass, replace
from pathlib import Path

from experiments.support.checks import check_above_zero, check_fields, check_whole
from hmcvae._checks import check_choice


@dataclass(frozen=True)
class Config:
    """Benchmark the no-U-turn sampler against BlackJAX's.

    Attributes:
        quick: a smoke run, good for nothing else.
        densities: for the seconds; see `densities.SPEED`.
        chains: numbers of chains for the seconds.
        call_seconds: how long a timed call should last (it holds one transition at least).
        rounds: timed calls of both.
        posteriors: for the effective draws; see `densities.POSTERIORS`.
        num_chains, num_warmup, num_samples: of those.
        dtype: of the seconds; effective draws are in float64.
        folder: where the results are written; runs/bench_nuts by default.
    """

    quick: bool = False
    densities: tuple[str, ...] = ("gaussian-10", "gaussian-50", "logistic")
    chains: tuple[int, ...] = (1, 64)
    call_seconds: float = 0.2
    rounds: int = 15
    posteriors: tuple[str, ...] = ("gaussian-50", "logistic", "schools", "poisson")
    num_chains: int = 4
    num_warmup: int = 500
    num_samples: int = 1000
    dtype: str = "float32"
    folder: Path | None = None

    def __post_init__(self):
        whole = ("chains", "rounds", "num_chains", "num_warmup", "num_samples")
        check_fields(
            self,
            {name: check_whole(1) for name in whole}
            | {"call_seconds": check_above_zero}
            | {"dtype": lambda name, value: check_choice(name, value, ("float32", "float64"))},
        )


def smaller(config: Config) -> Config:
    """Smaller in every direction, for a smoke run."""
    config = replace(config, densities=("gaussian-10",), chains=(2,), call_seconds=0.01, rounds=2)
    return replace(config, posteriors=("gaussian-10",), num_warmup=50, num_samples=50)
