"""What a training run is made of."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from experiments.configs.limits import MAX_TEMPERATURES, MAX_WIDTH
from experiments.configs.methods import METHODS, Hvi, Method
from experiments.configs.posteriors import POSTERIORS
from experiments.configs.training import Options
from experiments.support.checks import check_fields, check_images, check_path, check_text, check_whole
from hmcvae import data, networks
from hmcvae._checks import check_choice, check_flag

LIKELIHOODS = ("bernoulli", "gaussian", "discretised_logistic")
# Of methods and posteriors, what a later version added, at the value that those of before had.
LATER: dict[str, Any] = {"path_gradient": False, "fresh": False}
# Where a run is and how it is shown; two runs that differ here alone give the same numbers.
NOT_THE_MODEL = (
    "run_dir",
    "resume",
    "data_dir",
    "download",
    "eval_samples",
    "eval_images",
    "eval_temperatures",
    "monitor_samples",
    "max_bad_steps",
    "max_bad_share",
    "steps_per_save",
    "devices",
    "coordinator",
    "num_processes",
    "process_id",
)


@dataclass(frozen=True)
class TrainConfig:
    """Train a variational auto-encoder.

    Attributes:
        dataset: digits, mnist, fashion_mnist, binarized_mnist or cifar10; or the path of your own, an npz archive with
            train and test as uint8 [n, h, w, c], or a folder of images.
        data_dir: the folder with the data's files; digits needs none.
        download: let tensorflow-datasets download the data.
        num_train: how many of the training images to take; 0: all.
        num_validation: images held out of the training set for early stopping (--patience); 0: train on all of them.
        method: the bound that is trained.
        likelihood: bernoulli (pixels binarized anew each epoch), gaussian (learned scale) or discretised_logistic.
        latent_dim: the dimension d of z.
        architecture: mlp or conv.
        hidden: widths of the encoder's dense layers, mirrored in the decoder; one width for conv.
        activation: tanh, softplus, relu or elu; None: tanh for mlp, softplus for conv.
        compute_dtype: float32, or bfloat16 for the networks' layers alone: densities and dynamics stay in float32.
        training: how to train.
        monitor_samples: K, draws for each of a few test images in an estimate of log p(x) after every epoch; 0: none.
        eval_samples: draws for each test image in the likelihood's estimate at the end.
        eval_images: test images for it; 0: all.
        eval_temperatures: of annealed importance sampling on the same images; 0: none.
        start_from: a finished run with the same nets, whose encoder and decoder this one starts with, and whose
            posterior's parameters as far as they have the same names and shapes.
        run_dir: where the run is written; by default one under runs/ named after data set, method, latent_dim and seed.
        resume: go on with the run in run_dir.
        steps_per_save: save long epochs after so many steps, too, and look then whether to stop; 0: only whole epochs.
        devices: how many share each batch; 0, or of several processes: all. The numbers are those of one.
        coordinator: HOST:PORT of the first of several processes, or auto for a cluster's own; None: this one is alone.
        num_processes: how many there are.
        process_id: which of them this is, from 0.
    """

    dataset: str = "digits"
    data_dir: Path | None = None
    download: bool = False
    num_train: int = 0
    num_validation: int = 0
    method: Method = field(default_factory=Hvi)
    likelihood: Literal["bernoulli", "gaussian", "discretised_logistic"] = "bernoulli"
    latent_dim: int = 8
    architecture: Literal["mlp", "conv"] = "mlp"
    hidden: tuple[int, ...] = (100, 100)
    activation: Literal["tanh", "softplus", "relu", "elu"] | None = None
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    training: Options = field(default_factory=lambda: Options(num_epochs=200, batch_size=100))
    monitor_samples: int = 0
    eval_samples: int = 1000
    eval_images: int = 1000
    eval_temperatures: int = 0
    start_from: Path | None = None
    run_dir: Path | None = None
    resume: bool = False
    steps_per_save: int = 0
    devices: int = 1
    coordinator: str | None = None
    num_processes: int = 1
    process_id: int = 0

    def __post_init__(self):
        check_choice("likelihood", self.likelihood, LIKELIHOODS)
        if not isinstance(self.dataset, str) or not (self.dataset in data.NAMES or data.is_own(self.dataset)):
            raise ValueError(
                f"dataset must be one of {', '.join(data.NAMES)}, or the path of an npz archive or a folder of images, "
                f"got {self.dataset!r}"
            )
        if not isinstance(self.method, Method):
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if not isinstance(self.training, Options):
            raise ValueError(f"training must be Options, got {self.training!r}")
        check_choice("architecture", self.architecture, networks.ARCHITECTURES)
        if self.activation not in (None, *networks.ACTIVATIONS):
            raise ValueError(
                f"activation must be None or one of {', '.join(networks.ACTIVATIONS)}, got {self.activation!r}"
            )
        # What is needed only after hours of training is checked before them.
        check_fields(
            self,
            {
                "latent_dim": check_whole(1, MAX_WIDTH),
                "hidden": check_whole(1, MAX_WIDTH),
                "monitor_samples": check_whole(0),
                "eval_samples": check_whole(1),
                "eval_images": check_images(),
                "eval_temperatures": check_whole(0, MAX_TEMPERATURES),
                "num_train": check_whole(0),
                "num_validation": check_whole(0),
                "steps_per_save": check_whole(0),
                "devices": check_whole(0),
                "num_processes": check_whole(1),
                "process_id": check_whole(0),
                "download": check_flag,
                "resume": check_flag,
                "data_dir": check_path,
                "start_from": check_path,
                "run_dir": check_path,
                "coordinator": check_text,
            },
        )
        self.method.check(self.latent_dim)
        if self.training.patience and not self.num_validation:
            raise ValueError(f"patience = {self.training.patience} needs num_validation > 0, got 0")

    @property
    def folder(self) -> Path:
        """run_dir, or its default."""
        if self.run_dir is not None:
            return Path(self.run_dir)
        widths = "-".join(map(str, self.hidden))
        name = f"{Path(self.dataset).stem}-{self.method.tag}-{self.architecture}{widths}-d{self.latent_dim}"
        name += f"-{self.activation}" if self.activation else ""
        name += f"-{self.compute_dtype}" if self.compute_dtype != "float32" else ""
        return Path("runs") / f"{name}-seed{self.training.seed}"

    @property
    def has_levels(self) -> bool:
        """Whether log p(x) is of pixels of many whole values: then it is told in bits per dimension, too."""
        return self.likelihood == "discretised_logistic"

    @property
    def derivatives_per_image(self) -> int:
        """How often the bound of one image differentiates log p(x, ·) or the decoder: see `Elbo.derivatives`."""
        return self.method.derivatives(self.latent_dim)


def to_json(config: TrainConfig) -> dict:
    """The config as JSON values."""
    values = {name: getattr(config, name) for name in _names(TrainConfig)}
    training = dataclasses.asdict(config.training) | {"learning_rate": config.training.rate}
    values |= {"method": method_to_json(config.method), "training": training}
    return json.loads(json.dumps(values, default=str))


def method_to_json(method: Method) -> dict:
    """A method's settings as JSON values, with its kind and its posterior's."""
    own = {name: getattr(method, name) for name in _names(type(method))}
    posterior = {"kind": type(method.posterior).__name__} | dataclasses.asdict(method.posterior)
    return {"kind": type(method).__name__} | own | {"posterior": posterior}


def from_json(values: dict) -> TrainConfig:
    """The config that `to_json` wrote.

    Raises:
        ValueError: if the fields are not those of this version.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"a run's config must be an object with the fields of TrainConfig, got {values!r}")
    # What a later version added has its default.
    plain = [own for own in dataclasses.fields(TrainConfig) if own.default is not dataclasses.MISSING]
    values = {own.name: own.default for own in plain} | dict(values)
    _check_names("a run's config", values, _names(TrainConfig))
    training = values["training"]
    if not isinstance(training, Mapping):
        raise ValueError(f"a run's training must be an object with the fields of Options, got {training!r}")
    _check_names("a run's training", training, _names(Options))
    values["training"] = Options(**training)
    values["method"] = method_from_json(values["method"])
    return TrainConfig(**values)


def method_from_json(values: Any) -> Method:
    """The method that `method_to_json` wrote.

    Raises:
        ValueError: if there is none of this kind, or its fields are not those of this version.
    """
    return _made(
        "method", METHODS, values, lambda name, value: _posterior(value) if name == "posterior" else value
    )


def _posterior(values: Any) -> Any:
    return _made("posterior", POSTERIORS, values, lambda name, value: value)


def _made(what: str, kinds: Mapping[str, type], values: Any, convert: Any) -> Any:
    if not isinstance(values, Mapping) or values.get("kind") not in list(kinds):
        raise ValueError(f"a run's {what} must have a kind among {', '.join(kinds)}, got {values!r}")
    kind = kinds[values["kind"]]
    later = {name: value for name, value in LATER.items() if name in _names(kind)}
    own = later | {name: value for name, value in values.items() if name != "kind"}
    _check_names(f"a run's {what}", own, _names(kind))
    return kind(**{name: convert(name, value) for name, value in own.items()})


def _names(kind: type) -> set[str]:
    return {own.name for own in dataclasses.fields(kind)}


def _check_names(what: str, values: Mapping, known: set[str]) -> None:
    if set(values) != known:
        raise ValueError(
            f"{what} must have the fields {sorted(known)}, got {sorted(values)}: was it written by another version?"
        )


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Where two configs are not the same model and training: `field: old -> new`."""
    a, b = to_json(old), to_json(new)
    free: set[str] = set(NOT_THE_MODEL)
    if old.training.schedule == new.training.schedule == "constant":
        free.add("num_epochs")  # a longer run begins like a shorter one only without a schedule
    found = []
    for part in ("method", "posterior", "training"):
        own = (a.pop(part), b.pop(part))
        if part == "method":
            a["posterior"], b["posterior"] = (values.pop("posterior") for values in own)
        found += _changes(part, *own, free)
    return _changes("", a, b, free) + found


def _changes(part: str, a: dict, b: dict, free: set[str]) -> list[str]:
    """Of two of one kind, the fields that differ; of two kinds, these alone."""
    kinds = [values.pop("kind", "") for values in (a, b)]
    if kinds[0] != kinds[1]:
        return [f"{part}: {kinds[0]} -> {kinds[1]}"]
    prefix = f"{part}." if part in ("method", "posterior") else ""
    return [
        f"{prefix}{name}: {a[name]} -> {b[name]}" for name in a if name not in free and a[name] != b[name]
    ]
