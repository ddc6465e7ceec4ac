"""What the comparison runs."""

from dataclasses import dataclass
from pathlib import Path

from experiments.support.checks import check_fields, check_whole

NAME = "where_geometry_wins"


@dataclass(frozen=True)
class Config:
    """Samplers on posteriors whose shape defeats one mass matrix.

    Attributes:
        data_dir: the folder that holds log_gaussian_cox_64.npz, by default HMCVAE_DATA_DIR; without it that posterior
            is left out.
        posteriors: see `lists.POSTERIORS`.
        contestants: by their names in the tables; all, if none is given.
        num_chains: chains side by side.
        seeds: runs of each contestant.
        first_seed: of the first run; the others follow it.
        divisor: of all transitions, for a smoke run.
        results: where the rows go as they are done, and what is made of them. Rows that are there are not run again.
    """

    data_dir: Path | None = None
    posteriors: tuple[str, ...] = ()
    contestants: tuple[str, ...] = ()
    num_chains: int = 4
    seeds: int = 3
    first_seed: int = 0
    divisor: int = 1
    results: Path = Path(f"runs/{NAME}")

    def __post_init__(self):
        counts = {name: check_whole(1) for name in ("num_chains", "seeds", "divisor")}
        check_fields(self, counts | {"first_seed": check_whole(0)})
