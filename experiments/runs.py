"""A run folder: the config, the metrics, the checkpoints, and the model built from the config.

RUN/config.json       the config           RUN/metrics.jsonl  one line an epoch
RUN/environment.json  versions and device  RUN/tensorboard/   the same metrics
RUN/checkpoints/      the newest two       RUN/best/          the best on the validation set, if there is one
RUN/*.png             pictures             RUN/evaluation.json
"""

import dataclasses
import json
import os
import platform
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hmcvae
from experiments.config import CHARTED, DYNAMIC, TrainConfig, differences, from_json, to_json
from hmcvae import bounds, charts, data, likelihoods, networks, solvers, training
from hmcvae._random import stream
from hmcvae.bounds import Bound
from hmcvae.checkpoints import Checkpoints
from hmcvae.vae import VAE

NUM_MONITORED = 1000
MIN_SCALE = 0.01  # of the learned Gaussian, in grey values: the borders of digits never vary


@dataclass(frozen=True)
class Model:
    """A config turned into functions: the bound to train, its starting parameters, the data's handling, and the bound
    to evaluate, whose implicit solves are to tolerance (mostly the same)."""

    vae: VAE
    bound: Bound
    params: Any
    binarize: bool
    exact: Bound


def load_data(config: TrainConfig) -> data.Dataset:
    """The data set of a config, checked against its likelihood."""
    dataset = data.load(
        config.dataset, config.data_dir, download=config.download, num_validation=config.num_validation
    )
    if config.likelihood == "discretised_logistic" and dataset.max_value != 255:
        raise ValueError(
            f"discretised_logistic needs 8-bit pixels (0 … 255), got {dataset.name} with 0 … {dataset.max_value}"
        )
    return dataset


def build(config: TrainConfig, dataset: data.Dataset) -> Model:
    """The model of a config for a data set; parameters come from the config's seed."""
    make = {
        "bernoulli": likelihoods.bernoulli,
        "gaussian": partial(likelihoods.gaussian, min_scale=MIN_SCALE),
        "discretised_logistic": likelihoods.discretised_logistic,
    }
    vae, init_params, num_features = networks.build_vae(
        dataset.image_shape,
        config.latent_dim,
        make[config.likelihood](),
        architecture=config.architecture,
        hidden=config.hidden,
    )
    bound = make_bound(config, vae, num_features)
    is_taught = config.method in CHARTED and config.distillation > 0
    exact = (
        make_bound(config, vae, num_features, exact=True) if config.method == "rhvi" or is_taught else bound
    )
    vae_key, bound_key = jax.random.split(stream(config.training.seed, "parameters"))
    params = {"vae": init_params(vae_key), "bound": bound.init(bound_key)}
    return Model(vae, bound, params, config.likelihood == "bernoulli" and dataset.max_value > 1, exact)


def start_params(config: TrainConfig, model: Model) -> Any:
    """The parameters that training starts with: the model's own, or with `config.start_from` that run's encoder and
    decoder, and the bound's at its start.

    Raises:
        FileNotFoundError, ValueError: if there is no such run, or its nets are of other shapes.
    """
    if config.start_from is None:
        return model.params
    vae = load_run(config.start_from)[4]["vae"]
    expected, found = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (model.params["vae"], vae)
    )
    if expected != found:
        differing = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        first = differing[0]
        raise ValueError(
            f"the run in {config.start_from} has other nets: {len(differing)} arrays differ, the first is {first}: "
            f"expected {expected.get(first)}, got {found.get(first)}"
        )
    return {"vae": vae | {"encoder": start_encoder(config, vae["encoder"])}, "bound": model.params["bound"]}


def start_encoder(config: TrainConfig, encoder: Any) -> Any:
    """A trained encoder, for the bound of `config` to start with: a chart that reads the encoder's scales in whitened
    coordinates gets scales of one, in place of those in z."""
    if config.method not in CHARTED or config.metric not in ("fisher", "sketched"):
        return encoder
    head = encoder["params"]["GaussianHead_0"]
    head = head | {"log_scale": jax.tree.map(jnp.zeros_like, head["log_scale"])}
    return {"params": encoder["params"] | {"GaussianHead_0": head}}


def make_chart(config: TrainConfig, num_features: int, *, exact: bool = False) -> charts.Chart:
    """The whitened coordinates that a config names; with `exact`, without the lessons of a distilled metric."""
    d = config.latent_dim
    make = {
        "diagonal": charts.diagonal,
        "amortised": lambda: charts.amortised(num_features, d),
        "fisher": lambda: charts.fisher(d),
        "sketched": lambda: charts.fisher(d, config.num_probes),
    }
    chart = make[config.metric]()
    if config.rank:
        chart = charts.low_rank(
            chart, num_features, d, config.rank, random_directions=config.random_directions
        )
    if config.num_recentrings:
        chart = charts.recentred(chart, config.num_recentrings)
    return charts.distilled(chart, config.distillation) if config.distillation and not exact else chart


def make_bound(config: TrainConfig, vae: VAE, num_features: int, *, exact: bool = False) -> Bound:
    """The bound that a config trains; with `exact`, implicit solves are to tolerance, as an evaluation needs them."""
    if config.method in DYNAMIC:
        conditional = networks.reverse_model(num_features, config.latent_dim, config.reverse_hidden)
        dynamics: dict[str, Any] = {
            "reverse": conditional,
            "momentum": conditional if config.learned_momentum else None,
            "num_transitions": config.num_transitions,
            "num_steps": config.num_steps,
            "initial_step_size": config.initial_step_size,
            "max_step_size": config.max_step_size,
            "annealed": config.annealed,
        }
        if config.method == "rhvi":
            solver = solvers.TO_TOLERANCE
            if config.num_iterations and not exact:
                solver = solvers.fixed_point(num_iterations=config.num_iterations, differentiate="unrolled")
            dynamics["position_dependence"] = config.position_dependence
            bound = bounds.rhvi(vae, make_chart(config, num_features, exact=exact), solver=solver, **dynamics)
        else:
            dynamics["per_coordinate_steps"] = config.per_coordinate_steps
            bound = (
                bounds.hvi(vae, **dynamics)
                if config.method == "hvi"
                else bounds.whitened_hvi(vae, make_chart(config, num_features, exact=exact), **dynamics)
            )
    else:
        bound = bounds.elbo(vae)
    return bounds.importance_weighted(bound, config.num_samples) if config.num_samples > 1 else bound


def monitored_images(dataset: data.Dataset) -> tuple[str, np.ndarray]:
    """The images whose bound is drawn each epoch, and their split's name: validation images, or else an even
    selection of the test set (some are sorted by class), which then decides nothing."""
    if len(dataset.validation):
        return "validation", dataset.validation
    chosen = np.linspace(0, len(dataset.test) - 1, min(NUM_MONITORED, len(dataset.test))).astype(int)
    return "test", dataset.test[chosen]


def test_examples(config: TrainConfig, dataset: data.Dataset, binarize: bool, num_images: int) -> jax.Array:
    """`num_images` test images, evenly chosen (0: all), as the model takes them. Bits are drawn with a fixed seed of
    their own, so every method and seed is judged on the same ones."""
    count = min(num_images or len(dataset.test), len(dataset.test))
    chosen = np.linspace(0, len(dataset.test) - 1, count).astype(int)
    key = stream(0, "test bits")
    return training.prepare(key, jnp.asarray(dataset.test[chosen]), dataset.max_value, binarize)


class RunFolder:
    """The files of one run."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self._tensorboard: Any = None

    @property
    def metrics_path(self) -> Path:
        return self.folder / "metrics.jsonl"

    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder / "checkpoints")

    def best(self) -> Checkpoints:
        return Checkpoints(self.folder / "best", keep=1)

    def check_free(self, config: TrainConfig) -> None:
        """Check, before anything is loaded, that the run can be made; or with config.resume, that it is the same one.

        Raises:
            FileExistsError: if the folder holds something and resume is off; nothing in it is touched.
            FileNotFoundError: if resume is on and there is no run.
            ValueError: if the run to resume is of another config.
        """
        if not config.resume:
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise FileExistsError(
                    f"the run folder {self.folder} exists and is not empty; go on with it by --resume and the same "
                    "settings, or choose another by --run-dir"
                )
            return
        changed = differences(self.config(), config)
        if changed:
            raise ValueError(
                f"the run in {self.folder} has another config, so it cannot be resumed with this one: "
                + "; ".join(changed)
            )

    def create(self, config: TrainConfig, dataset: data.Dataset) -> None:
        """Make a new run, or with config.resume check that the old one has the same config and training images.

        Raises:
            FileExistsError, FileNotFoundError: see `check_free`.
            ValueError: likewise; or if the run to resume is of other images.
        """
        self.check_free(config)
        images = {"source": dataset.source, "train_crc32": f"{zlib.crc32(dataset.train.tobytes()):08x}"}
        if not config.resume:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "config.json", to_json(config))
            write_json(self.folder / "environment.json", environment() | {"data": images})
            return
        # The same images in another order (tensorflow-datasets shuffles them) would be another run.
        before = self.environment().get("data", images)
        if before["train_crc32"] != images["train_crc32"]:
            raise ValueError(
                f"the run in {self.folder} had other training images, or in another order, so it cannot be resumed "
                f"with these: expected those from {before['source']}, got {images['source']}"
            )
        write_json(self.folder / "config.json", to_json(config))

    def config(self) -> TrainConfig:
        """The run's config.

        Raises:
            FileNotFoundError: if there is no run here.
            ValueError: if its config cannot be read.
        """
        path = self.folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"no run in {self.folder}: {path} is not there")
        try:
            return from_json(json.loads(path.read_text()))
        except (json.JSONDecodeError, TypeError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as a config: {error}") from error

    def environment(self) -> dict:
        """What `create` wrote of versions, device and data; empty if it is not there."""
        path = self.folder / "environment.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def start_epoch(self, epochs: list[int]) -> int:
        """The checkpoint to go on from, of `epochs`; 0 for a fresh start. The newest, or the one before it if the run
        was killed between the newest and its record, so that the metrics have every epoch."""
        if not epochs:
            return 0
        newest, recorded = epochs[-1], max((record["epoch"] for record in self.records()), default=0)
        return newest - 1 if recorded < newest and newest - 1 in (0, *epochs) else newest

    def records(self) -> list[dict]:
        """The metrics so far, one record an epoch; a line cut short by a crash is left out."""
        records = []
        if self.metrics_path.is_file():
            for line in self.metrics_path.read_text().splitlines():
                try:
                    records.append(json.loads(line))
                except json.JSONDecodeError:
                    continue
        return records

    def trim(self, epoch: int) -> list[dict]:
        """Leave the records up to `epoch`, the checkpoint's, so that a resumed run's epochs stand there once."""
        kept = [record for record in self.records() if record["epoch"] <= epoch]
        temporary = self.metrics_path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
        temporary.replace(self.metrics_path)
        return kept

    def log(self, record: dict) -> None:
        """Append an epoch's record to metrics.jsonl, and to TensorBoard where tensorboardX is installed."""
        with self.metrics_path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._tensorboard is None:
            self._tensorboard = _tensorboard_writer(self.folder / "tensorboard")
        for name, value in record.items():
            if name != "epoch":
                self._tensorboard.add_scalar(name, value, record["epoch"])

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()


class _NoTensorBoard:
    def add_scalar(self, *_: Any) -> None: ...

    def close(self) -> None: ...


def _tensorboard_writer(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return _NoTensorBoard()
    return SummaryWriter(str(folder))


def load_run(folder: Path | str) -> tuple[RunFolder, TrainConfig, data.Dataset, Model, Any, int]:
    """(run, config, dataset, model, trained params, their epoch): the best on validation if kept, else the newest."""
    run = RunFolder(folder)
    config = run.config()
    dataset = load_data(config)
    model = build(config, dataset)
    optimizer = training.make_optimizer(config.training, len(dataset.train) // config.training.batch_size)
    like = training.init_state(model.params, optimizer, config.training.seed)
    has_best = any((run.folder / "best").glob("[0-9]*"))  # none if no validation bound was finite
    chosen = run.best() if has_best else run.checkpoints()
    state = chosen.restore(like)
    chosen.close()
    return run, config, dataset, model, state.params, int(state.epoch)


def environment() -> dict:
    """Versions and device, for the record of a figure."""
    device = jax.devices()[0]
    return {
        "hmcvae": hmcvae.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "platform": device.platform,
        "device": device.device_kind,
        "num_cpus": os.cpu_count(),
    }


def write_json(path: Path, values: Any) -> None:
    """Write JSON whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    temporary.replace(path)


def save_report(
    stem: Path, command: str, config: Any, figures: dict, markdown: Callable[[dict], str]
) -> dict:
    """The figures with what one needs to repeat them, written to STEM.json and, as `markdown` shows them, STEM.md."""
    plain = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    report = {"command": command, "environment": environment(), "config": plain, **figures}
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_json(stem.with_suffix(".json"), report)
    stem.with_suffix(".md").write_text(markdown(report))
    return report
