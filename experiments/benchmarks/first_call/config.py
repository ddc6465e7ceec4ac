"""What the benchmark of first calls measures."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from experiments.support.checks import check_fields, check_whole


@dataclass(frozen=True)
class Config:
    """Seconds of a first call, and of calls in which one thing is another: ours against BlackJAX's.

    Attributes:
        quick: a smoke run, good for nothing else.
        length: observations of the stochastic volatility.
        num_chains, num_warmup, num_samples: of a call.
        max_depth: of trees.
        num_steps: of HMC's trajectories.
        rounds: how often each sampler goes through all the calls, each time in new processes.
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
    dtype: Literal["float32", "float64"] = "float64"
    folder: Path | None = None

    def __post_init__(self):
        least = {"length": 2, "num_chains": 1, "num_warmup": 1, "num_samples": 1}
        least |= {"max_depth": 1, "num_steps": 1, "rounds": 1}
        check_fields(self, {name: check_whole(low) for name, low in least.items()})
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype!r}")


def smaller(config: Config) -> Config:
    """Smaller in every direction, for a smoke run."""
    return replace(
        config, length=20, num_chains=2, num_warmup=20, num_samples=5, max_depth=3, num_steps=2, rounds=1
    )
