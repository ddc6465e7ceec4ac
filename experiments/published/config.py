"""What a comparison on a published net is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.configs import MAX_LOOP, MAX_TEMPERATURES, NETS, Net, check_optimizer, rate_of
from experiments.published.methods import METHODS
from experiments.support.checks import (
    check_choices,
    check_fields,
    check_images,
    check_number,
    check_path,
    check_text,
    check_whole,
)
from hmcvae._checks import check_choice, check_seed


@dataclass(frozen=True)
class PublishedConfig:
    """Train all methods on a published net for equal seconds or equal epochs, each after the same small search, and put
    them beside the published figures.

    Attributes:
        net: see `experiments.configs.nets`.
        methods: see `experiments.published.methods`; none given: all of them.
        seeds: how often each is trained.
        seconds: of each training, at the pace that its method has when all are timed in turns.
        num_epochs: the same for all, instead of seconds; 0: by seconds.
        optimizer: "adam" or "muon"; the same for all.
        learning_rate: the optimiser's at its highest, around which is searched; it falls to zero as a half cosine.
            None: 1e-3 of adam, 1e-2 of muon.
        batch_size: of all trainings; 0: the net's.
        kl_warmup_epochs: see `hmcvae.training.Settings`.
        num_trials: of each method's search, on held-out training images; 0 or 1: no search.
        trial_share: of the seconds or epochs, for each trial.
        patience: epochs without a better bound on held-out training images after which a training stops; 0: off. The
            parameters kept are the best on them in any case.
        monitor_samples: draws in the estimate of log p(x) of 200 held-out images after every epoch, by which trials are
            compared.
        bound_samples: draws of the bound for each test image.
        eval_samples: draws for each test image of the method's own posterior, for log p(x).
        eval_images: test images; 0: all.
        ais_images: of them, for log p(x) by annealing.
        ais_temperatures, ais_chains: of annealing; no temperatures: none.
        made_images: that each model makes, for the sandwich.
        start_from: the folder of an earlier comparison: each training goes on from the end of the one there of the same
            method and seed, whose epochs and seconds are counted in.
        start_method: all trainings go on from the end of this method's there instead, to see what each adds to it: from
            its nets, and from its posterior as far as theirs has the same arrays. Epochs and seconds are those that
            follow.
        steps_per_save: save long epochs after so many steps, too; 0: only whole epochs.
        num_train: training images to take; 0: all.
        data_dir: the data's folder.
        download: let tensorflow-datasets download the data.
        folder: where the runs are; by default runs/published-NET.
        results: where the tables and the picture go, by default the folder.
        name: theirs, published_NET by default.
    """

    net: str
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    seconds: float = 3600.0
    num_epochs: int = 0
    optimizer: Literal["adam", "muon"] = "adam"
    learning_rate: float | None = None
    batch_size: int = 0
    kl_warmup_epochs: int = 0
    num_trials: int = 4
    trial_share: float = 0.05
    patience: int = 0
    monitor_samples: int = 100
    bound_samples: int = 10
    eval_samples: int = 5000
    eval_images: int = 0
    ais_images: int = 1000
    ais_temperatures: int = 1000
    ais_chains: int = 8
    made_images: int = 100
    start_from: Path | None = None
    start_method: str | None = None
    steps_per_save: int = 0
    num_train: int = 0
    data_dir: Path | None = None
    download: bool = False
    folder: Path | None = None
    results: Path | None = None
    name: str | None = None

    def __post_init__(self):
        check_choice("net", self.net, NETS)
        check_choices("methods", self.methods, METHODS)
        check_optimizer(self.optimizer)
        if self.start_method is not None:
            check_choice("start_method", self.start_method, METHODS)
            if self.start_from is None:
                raise ValueError(
                    f"start_method={self.start_method} needs start_from, the folder where it is, got none"
                )
        if not self.seeds:
            raise ValueError("expected at least one seed, got none")
        positive, optional = (check_number(0, is_open=True, optional=may_lack) for may_lack in (False, True))
        whole = {
            "num_epochs": 0,
            "batch_size": 0,
            "kl_warmup_epochs": 0,
            "num_trials": 0,
            "patience": 0,
            "monitor_samples": 1,
        }
        whole |= {
            "bound_samples": 1,
            "eval_samples": 1,
            "steps_per_save": 0,
            "num_train": 0,
            "made_images": 2,
        }
        check_fields(
            self,
            {name: check_whole(low) for name, low in whole.items()}
            | {
                "seeds": check_seed,
                "seconds": positive,
                "learning_rate": optional,
                "trial_share": check_number(0, 1, is_open=True),
                "eval_images": check_images(),
                "ais_images": check_images(),
                "ais_temperatures": check_whole(0, MAX_TEMPERATURES),
                "name": check_text,
                "start_from": check_path,
                "ais_chains": check_whole(1, MAX_LOOP),
            },
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The methods' names, each once."""
        return tuple(dict.fromkeys(self.methods)) or tuple(METHODS)

    @property
    def rate(self) -> float:
        """The learning rate around which is searched."""
        return rate_of(self.optimizer, self.learning_rate)

    @property
    def own(self) -> Net:
        """The net."""
        return NETS[self.net]

    @property
    def setting(self) -> dict[str, Any]:
        """What the pace of all methods, and the best rate of each, depend on."""
        names = ("optimizer", "batch_size", "kl_warmup_epochs", "num_train")
        started = {} if self.start_from is None else {"start_from": str(self.start_from)}
        started |= {} if self.start_method is None else {"start_method": self.start_method}
        return {"net": self.net} | {name: getattr(self, name) for name in names} | started

    def start_of(self, name: str, seed: int) -> Path | None:
        """The run that a method goes on from.

        Raises:
            ValueError: if it is not there, trained to its end.
        """
        if self.start_from is None:
            return None
        found = self.start_from / f"{self.start_method or name}-seed{seed}"
        if not (found / "done.json").is_file():
            raise ValueError(f"{self.start_from} must hold {found.name}, trained to its end, to go on from")
        return found

    @property
    def place(self) -> Path:
        """The runs' folder."""
        return Path(self.folder or f"runs/published-{self.net}")

    @property
    def stem(self) -> Path:
        """Of the results' files."""
        return Path(self.results or self.place) / (self.name or f"published_{self.net}")
