"""What a training run is made of, its named presets, and its command line."""

import copy
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from experiments.checks import check_above_zero, check_fields, check_images, check_number, check_whole
from hmcvae import data
from hmcvae.training import Options

LIKELIHOODS = ("bernoulli", "gaussian", "discretised_logistic")
METHODS = ("vae", "iwae", "hvi", "whitened", "rhvi")
# Those with dynamics, and those in whitened coordinates.
DYNAMIC, CHARTED = ("hvi", "whitened", "rhvi"), ("whitened", "rhvi")
METRICS = ("diagonal", "amortised", "fisher", "sketched")
# K where num_samples is 0; 1 for the others.
DEFAULT_SAMPLES = {"iwae": 5}
# Of steps, samples and the like: each is kept for the way back, and beyond it an allocation aborts the process.
MAX_LOOP, MAX_WIDTH, MAX_TEMPERATURES = 10_000, 100_000, 1_000_000
_NUMBERS = {
    "num_samples": check_whole(1, MAX_LOOP),
    "num_recentrings": check_whole(0, MAX_LOOP),
    "num_probes": check_whole(1, MAX_LOOP),
    "rank": check_whole(0),
    "num_iterations": check_whole(0, MAX_LOOP),
    "num_transitions": check_whole(0, MAX_LOOP),
    "num_steps": check_whole(0, MAX_LOOP),
    "latent_dim": check_whole(1, MAX_WIDTH),
    "hidden": check_whole(1, MAX_WIDTH),
    "reverse_hidden": check_whole(1, MAX_WIDTH),
    "monitor_samples": check_whole(0),
    "eval_samples": check_whole(1),
    "eval_images": check_images(),
    "eval_temperatures": check_whole(0, MAX_TEMPERATURES),
    "num_validation": check_whole(0),
    "distillation": check_number(0),
    "position_dependence": check_number(0, 1, optional=True),
    "initial_step_size": check_above_zero,
    "max_step_size": check_above_zero,
}
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
)


@dataclass(frozen=True)
class TrainConfig:
    """Train a variational auto-encoder; see `PRESETS` for ready-made settings.

    Attributes:
        dataset: digits, mnist, fashion_mnist, binarized_mnist or cifar10.
        data_dir: the folder with the data's files; digits needs none.
        download: let tensorflow-datasets download the data.
        num_validation: images held out of the training set for early stopping (--patience); 0: train on all of them.
        method: vae (the ELBO), iwae (its K-sample bound), hvi (Hamiltonian variational inference), whitened (the
            same in coordinates whitened by a metric of each datum's own; num_transitions 0: its Gaussian alone), or
            rhvi (Riemannian: there, with a metric that goes with the position).
        metric: of whitened and rhvi, for their coordinates: fisher (the decoder's, at the encoder's mean), sketched
            (the same from num_probes random derivatives), amortised (a head on the encoder's features), or diagonal
            (the encoder's variances).
        num_recentrings: of whitened and rhvi: Gauss-Newton steps from the encoder's mean towards the mode.
        num_probes: of a sketched metric.
        rank: of whitened and rhvi: directions along which the metric is corrected by the decoder's own, one derivative
            each; 0: none.
        random_directions: draw these directions anew for each image instead of learning them.
        distillation: of whitened and rhvi: weight with which their metric is taught the decoder's in training; 0: off.
        position_dependence: of rhvi: the share κ of the metric that goes with the position, held at this value; None:
            learned.
        num_iterations: of rhvi: iterations of each implicit solve in training; 0: to tolerance, with implicit
            derivatives, as evaluation always does.
        annealed: run the dynamics along a learned path from q(z | x) to p(x, z).
        likelihood: bernoulli (pixels binarized anew each epoch), gaussian (learned scale) or discretised_logistic.
        latent_dim: the dimension d of z.
        architecture: mlp or conv.
        hidden: widths of the encoder's dense layers, mirrored in the decoder; one width for conv.
        num_samples: K, draws of the bound in one importance-weighted term; 0: 5 of iwae, 1 of the others.
        num_transitions: T, transitions of hvi.
        num_steps: L, leapfrog steps of each transition.
        initial_step_size: of the learned leapfrog step, in units of z over the square root of the masses.
        max_step_size: the bound that the learned step stays below.
        per_coordinate_steps: learn a step size for each coordinate.
        learned_momentum: learn the momentum's own distribution q(v | x, z) as well as the reverse model r(v | x, z).
        reverse_hidden: hidden units of the reverse model.
        training: how to train; see `hmcvae.training.Options`.
        monitor_samples: K, draws for each of a few test images in an estimate of log p(x) after every epoch; 0: none.
        eval_samples: draws for each test image in the likelihood's estimate at the end.
        eval_images: test images for it; 0: all.
        eval_temperatures: of annealed importance sampling on the same images; 0: none.
        start_from: a finished run with the same nets, whose encoder and decoder this one starts with.
        run_dir: where the run is written; by default one under runs/ named after data set, method, latent_dim and seed.
        resume: go on with the run in run_dir.
    """

    dataset: str = "digits"
    data_dir: Path | None = None
    download: bool = False
    num_validation: int = 0
    method: Literal["vae", "iwae", "hvi", "whitened", "rhvi"] = "hvi"
    metric: Literal["diagonal", "amortised", "fisher", "sketched"] = "amortised"
    num_recentrings: int = 1
    num_probes: int = 8
    rank: int = 0
    random_directions: bool = False
    distillation: float = 0.0
    position_dependence: float | None = None
    num_iterations: int = 0
    annealed: bool = False
    likelihood: Literal["bernoulli", "gaussian", "discretised_logistic"] = "bernoulli"
    latent_dim: int = 8
    architecture: Literal["mlp", "conv"] = "mlp"
    hidden: tuple[int, ...] = (100, 100)
    num_samples: int = 0
    num_transitions: int = 1
    num_steps: int = 4
    initial_step_size: float = 0.1
    max_step_size: float = 1.0
    per_coordinate_steps: bool = False
    learned_momentum: bool = True
    reverse_hidden: int = 200
    training: Options = field(default_factory=lambda: Options(num_epochs=200, batch_size=100))
    monitor_samples: int = 0
    eval_samples: int = 1000
    eval_images: int = 1000
    eval_temperatures: int = 0
    start_from: Path | None = None
    run_dir: Path | None = None
    resume: bool = False

    def __post_init__(self):
        choices = (
            ("dataset", data.NAMES),
            ("method", METHODS),
            ("metric", METRICS),
            ("likelihood", LIKELIHOODS),
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.num_samples == 0:
            object.__setattr__(self, "num_samples", DEFAULT_SAMPLES.get(self.method, 1))
        # What is needed only after hours of training is checked before them.
        check_fields(self, _NUMBERS)
        if self.num_transitions * self.num_steps > MAX_LOOP:
            raise ValueError(
                f"num_transitions times num_steps must be at most {MAX_LOOP}, got {self.num_transitions} and "
                f"{self.num_steps}"
            )
        if self.rank > self.latent_dim:
            raise ValueError(f"rank must be at most latent_dim = {self.latent_dim}, got {self.rank}")
        needs_metric = [name for name in ("rank", "distillation") if getattr(self, name)]
        if needs_metric and self.method not in CHARTED:
            raise ValueError(f"{' and '.join(needs_metric)} need method whitened or rhvi, got {self.method}")
        if self.method == "iwae" and self.num_samples < 2:
            raise ValueError(f"iwae needs num_samples of at least 2, got {self.num_samples}")
        if self.training.patience and not self.num_validation:
            raise ValueError(f"patience = {self.training.patience} needs num_validation > 0, got 0")

    @property
    def folder(self) -> Path:
        """run_dir, or its default."""
        if self.run_dir is not None:
            return Path(self.run_dir)
        dynamics = f"{self.num_transitions}x{self.num_steps}" if self.method in DYNAMIC else ""
        dynamics += "annealed" if dynamics and self.annealed else ""
        kind = self.method
        if self.method in CHARTED:
            kind += f"-{self.metric}{self.num_recentrings}"
            kind += f"-{'random' if self.random_directions else 'rank'}{self.rank}" if self.rank else ""
            kind += f"-distilled{self.distillation:g}" if self.distillation else ""
            kind += f"-share{self.position_dependence:g}" if self.position_dependence is not None else ""
            kind += "-"
        name = f"{self.dataset}-{kind}{dynamics}-{self.architecture}-d{self.latent_dim}"
        return Path("runs") / f"{name}-seed{self.training.seed}"


def derivatives_per_image(config: TrainConfig) -> int:
    """How often the bound of one image differentiates log p(x, ·) or the decoder, along the dynamics: L + 1 for each
    transition of an annealed path, L of any other and one for its start; one for each recentring; d forward ones for a
    Fisher metric, one for each direction of a correction, one for a lesson; all of it K times for K samples. An
    implicit step's are not fixed: they are counted as its metric's, and its gradient. Without any of these, the loss's
    own gradient counts as one for each sample."""
    steps = config.num_transitions * config.num_steps
    total = config.num_recentrings if config.method in CHARTED else 0
    if config.method in DYNAMIC and steps:
        total += steps + (config.num_transitions if config.annealed else 1)
    if config.method in CHARTED:
        metric = {"fisher": config.latent_dim, "sketched": config.num_probes}.get(config.metric, 0)
        total += metric + config.rank + (1 if config.distillation else 0)
        # RHVI's metric at the start of each transition, and at the end of each step.
        total += config.latent_dim * (steps + config.num_transitions) if config.method == "rhvi" else 0
    return config.num_samples * max(total, 1)


def _mnist(method: str, **changes) -> TrainConfig:
    options = Options(num_epochs=100, batch_size=200, learning_rate=1e-3)
    settings: dict = {
        "dataset": "mnist",
        "method": method,
        "latent_dim": 20,
        "hidden": (200, 200),
        "training": options,
    }
    return TrainConfig(**(settings | changes))


def _conv(method: str, hidden: int, **changes) -> TrainConfig:
    options = Options(num_epochs=1000, batch_size=250, learning_rate=1e-3, clip_norm=100.0, patience=50)
    settings = {"latent_dim": 32, "architecture": "conv", "hidden": (hidden,), "num_validation": 10000}
    return _mnist(method, training=options, **(settings | changes))


_CIFAR = dataclasses.replace(
    _conv(
        "hvi", 450, dataset="cifar10", likelihood="discretised_logistic", latent_dim=128, num_validation=500
    ),
    training=Options(num_epochs=100, batch_size=100, clip_norm=1000.0, patience=20),
)

# Steps of a quarter of a period in all, π/2 in whitened coordinates, start near where training takes them. But the
# features of a conv net are all of one sign, so its first steps in training throw the factor far: there a leapfrog of
# this length diverges, and dynamics begin short.
_AMORTISED: dict = {"num_steps": 4, "num_recentrings": 2, "initial_step_size": 0.3}
_CONV_AMORTISED: dict = _AMORTISED | {"initial_step_size": 0.03}

PRESETS: dict[str, TrainConfig] = {
    "digits": TrainConfig(),
    "digits_vae": TrainConfig(method="vae"),
    "digits_2d": TrainConfig(latent_dim=2),
    "mnist_vae": _mnist("vae"),
    "mnist_iwae": _mnist("iwae", num_samples=5),
    "mnist_hvi1": _mnist("hvi", num_steps=1),
    "mnist_hvi": _mnist("hvi", num_steps=4),
    "mnist_hvi_plain": _mnist("hvi", num_steps=4, learned_momentum=False),
    "mnist_full_gaussian": _mnist("whitened", num_transitions=0, num_recentrings=0),
    "mnist_recentred_gaussian": _mnist("whitened", num_transitions=0, num_recentrings=2),
    "mnist_amortised": _mnist("whitened", **_AMORTISED),
    "mnist_fisher": _mnist("whitened", metric="fisher", num_steps=4, initial_step_size=0.3),
    "mnist_sketched": _mnist("whitened", metric="sketched", num_steps=4),
    "mnist_rhvi": _mnist("rhvi", metric="fisher", num_steps=2),
    "mnist_2d": _mnist("hvi", num_steps=4, latent_dim=2),
    "mnist_conv_vae": _conv("vae", 450),
    "mnist_conv_hvi": _conv("hvi", 450, num_steps=16),
    "mnist_conv_amortised": _conv("whitened", 450, **_CONV_AMORTISED),
    "mnist_conv_amortised_800": _conv("whitened", 800, **_CONV_AMORTISED),
    "fashion_vae": _mnist("vae", dataset="fashion_mnist"),
    "fashion_hvi": _mnist("hvi", dataset="fashion_mnist"),
    "fashion_amortised": _mnist("whitened", dataset="fashion_mnist", **_AMORTISED),
    "cifar10_vae": dataclasses.replace(_CIFAR, method="vae"),
    "cifar10_hvi": _CIFAR,
    "cifar10_amortised": dataclasses.replace(_CIFAR, method="whitened", **_CONV_AMORTISED),
}


def preset(name: str) -> TrainConfig:
    """A named setting.

    Raises:
        ValueError: if there is none of this name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


def parse(arguments: list[str]) -> TrainConfig:
    """A config from the command line: a preset (default: digits), and any field of it changed."""
    import tyro

    rest, name = list(arguments), "digits"
    for index, argument in enumerate(arguments):
        if argument == "--preset" and index + 1 < len(arguments):
            name, rest = arguments[index + 1], arguments[:index] + arguments[index + 2 :]
        elif argument.startswith("--preset="):
            name, rest = argument.removeprefix("--preset="), arguments[:index] + arguments[index + 1 :]
    if arguments and arguments[-1] == "--preset":
        raise ValueError(f"--preset needs a name: one of {', '.join(PRESETS)}")
    base = copy.copy(preset(name))
    if base.num_samples == DEFAULT_SAMPLES.get(
        base.method, 1
    ):  # not set by the preset: another method has its own
        object.__setattr__(base, "num_samples", 0)
    description = f"Train a variational auto-encoder. --preset NAME chooses one of: {', '.join(PRESETS)}."
    return tyro.cli(
        TrainConfig,
        prog="python -m experiments.train",
        description=description,
        default=base,
        args=rest,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def to_json(config: TrainConfig) -> dict:
    """The config as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def from_json(values: dict) -> TrainConfig:
    """The config that `to_json` wrote.

    Raises:
        ValueError: if the fields are not those of this version.
    """
    values = dict(values)
    known = {f.name for f in dataclasses.fields(TrainConfig)}
    # Fields that runs of before did not have.
    values = {
        "eval_temperatures": 0,
        "monitor_samples": 0,
        "start_from": None,
        "rank": 0,
        "random_directions": False,
        "distillation": 0.0,
        "position_dependence": None,
    } | values
    if set(values) != known:
        raise ValueError(f"a run's config must have the fields {sorted(known)}, got {sorted(values)}")
    for name in ("data_dir", "run_dir", "start_from"):
        values[name] = None if values[name] is None else Path(values[name])
    values["hidden"] = tuple(values["hidden"])
    values["training"] = Options(**values["training"])
    return TrainConfig(**values)


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Where two configs are not the same model and training: `field: old -> new`."""
    a, b = to_json(old), to_json(new)
    a, b = a | a.pop("training"), b | b.pop("training")
    free: set[str] = set(NOT_THE_MODEL)
    if old.training.schedule == new.training.schedule == "constant":
        free.add("num_epochs")  # a longer run begins like a shorter one only without a schedule
    return [f"{name}: {a[name]} -> {b[name]}" for name in a if name not in free and a[name] != b[name]]
