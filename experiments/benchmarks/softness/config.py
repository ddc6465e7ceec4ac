"""What the benchmark of SoftAbs's softness measures."""

from dataclasses import dataclass, replace
from pathlib import Path

from experiments.support.checks import check_above_zero, check_fields, check_number, check_text, check_whole
from hmcvae._checks import check_seed


@dataclass(frozen=True)
class Config:
    """Benchmark the softness of SoftAbs.

    Attributes:
        quick: a smoke run, good for nothing else.
        posteriors: see `densities.build`.
        softnesses: α of `hmcvae.metrics.softabs`.
        num_chains, num_warmup, num_samples: of a run.
        num_steps: of a trajectory at most; the number is drawn anew for each transition, one for all chains.
        target_acceptance: that step sizes are tuned to.
        seed: of everything.
        data_dir: the folder that holds logreg/*.npz.
        folder: where the results are written; runs/bench_softness by default.
    """

    quick: bool = False
    posteriors: tuple[str, ...] = ("schools", "funnel-10", "logreg-ripley")
    softnesses: tuple[float, ...] = (1e6, 30.0, 10.0, 3.0, 1.0, 0.3)
    num_chains: int = 4
    num_warmup: int = 200
    num_samples: int = 400
    num_steps: int = 6
    target_acceptance: float = 0.8
    seed: int = 0
    data_dir: Path | None = None
    folder: Path | None = None

    def __post_init__(self):
        whole = ("num_chains", "num_samples", "num_steps")
        check_fields(
            self,
            {name: check_whole(1) for name in whole}
            | {"num_warmup": check_whole(0), "softnesses": check_above_zero, "posteriors": check_text}
            | {"target_acceptance": check_number(0, 1, is_open=True), "seed": check_seed},
        )


def smaller(config: Config) -> Config:
    """Smaller in every direction, for a smoke run."""
    config = replace(config, posteriors=("funnel-2",), softnesses=(1.0,))
    return replace(config, num_chains=2, num_warmup=20, num_samples=20)
