"""What the benchmark of first calls measures."""

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Config:
    """Seconds of a first call, and of calls in which one thing is another: ours against BlackJAX's.

    Attributes:
        quick: a smoke run, good for nothing else.
        length: observations of the stochastic volatility.
        num_chains, num_warmup, num_samples: of a call.
        max_depth: of trees.
        num_steps: of HMC's trajectories.
        rounds: how often each sampler goes through all the calls, each time from empty caches.
        dtype: of positions.
        folder: where the results are written; runs/bench_first_call by default.
    """

    quick: bool = False
    length: int = 1000
    num_chains: int = 4
    num_warmup: int = 100
    num_samples: int = 100
    max_depth: int = 6
    num_steps: int = 16
    rounds: int = 3
    dtype: str = "float64"
    folder: Path | None = None


def smaller(config: Config) -> Config:
    """Smaller in every direction, for a smoke run."""
    return replace(
        config, length=20, num_chains=2, num_warmup=20, num_samples=5, max_depth=3, num_steps=2, rounds=1
    )
