"""What the benchmark of masses measures."""

from dataclasses import dataclass, replace
from pathlib import Path

from experiments.support.checks import check_choices, check_fields, check_text, check_whole

MASSES = ("diagonal", "dense", "diagonal_fisher", "low_rank")


@dataclass(frozen=True)
class Config:
    """Benchmark the masses of a warm-up.

    Attributes:
        quick: a smoke run, good for nothing else.
        masses: forms, as `adapt_mass` of `hmcvae.sample`.
        posteriors: see `densities.build`.
        num_seeds: runs of each.
        num_chains, num_warmup, num_samples: of a run.
        data_dir: the folder that holds logreg/*.npz.
        folder: where the results are written; runs/bench_masses by default.
    """

    quick: bool = False
    masses: tuple[str, ...] = ("diagonal", "diagonal_fisher", "low_rank")
    posteriors: tuple[str, ...] = (
        "gaussian-10",
        "gaussian-50",
        "logreg-german",
        "scales-20",
        "schools",
        "skewed-10",
    )
    num_seeds: int = 3
    num_chains: int = 4
    num_warmup: int = 300
    num_samples: int = 500
    data_dir: Path | None = None
    folder: Path | None = None

    def __post_init__(self):
        check_choices("masses", self.masses, MASSES)
        whole = ("num_seeds", "num_chains", "num_warmup", "num_samples")
        check_fields(self, {name: check_whole(1) for name in whole} | {"posteriors": check_text})


def smaller(config: Config) -> Config:
    """Smaller in every direction, for a smoke run."""
    config = replace(config, posteriors=("gaussian-3",), masses=config.masses[-1:], num_seeds=1)
    return replace(config, num_chains=2, num_warmup=40, num_samples=40)
