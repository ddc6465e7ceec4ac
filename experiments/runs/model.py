"""The data and the model of a config, and those of a run that was trained (see `experiments.runs.folder`)."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs import TrainConfig
from experiments.runs.folder import RunFolder
from experiments.support.subset import evenly
from hmcvae import data, training
from hmcvae._random import stream
from hmcvae.bounds import Bound
from hmcvae.saved import Description
from hmcvae.vae import VAE

NUM_MONITORED = 1000
MAX_PARAMETERS = (
    1_000_000_000  # 4 GB, and Adam's moments twice as much: beyond, the allocation aborts the process
)
MIN_SCALE = 0.01  # of the learned Gaussian, in grey values: the borders of digits never vary


class ImageFormat(NamedTuple):
    """What a model needs to know of its images; a `data.Dataset` knows it too."""

    image_shape: tuple[int, int, int]
    max_value: int


@dataclass(frozen=True)
class Model:
    """A config turned into functions: the bound to train, its starting parameters, what makes examples of the data, and
    the bound to evaluate, whose implicit solves are to tolerance (mostly the same). num_features: the encoder's."""

    vae: VAE
    bound: Bound
    params: Any
    preprocess: training.Pixels
    eval_bound: Bound
    num_features: int


def load_data(config: TrainConfig) -> data.Dataset:
    """The data set of a config, checked against its likelihood."""
    dataset = data.load(
        config.dataset,
        config.data_dir,
        download=config.download,
        num_validation=config.num_validation,
        num_train=config.num_train,
    )
    if config.likelihood == "discretised_logistic" and dataset.max_value != 255:
        raise ValueError(
            f"discretised_logistic needs 8-bit pixels (0 … 255), got {dataset.name} with 0 … {dataset.max_value}"
        )
    return dataset


def find_data(config: TrainConfig, data_dir: Path | None = None, download: bool = False) -> data.Dataset:
    """The data of a run that was trained: in `data_dir`, or where they were, or where HMCVAE_DATA_DIR says.

    Raises:
        FileNotFoundError: if they are in none of them.
    """
    config = dataclasses.replace(config, download=download)
    if data_dir is not None:
        return load_data(dataclasses.replace(config, data_dir=data_dir))
    try:
        return load_data(config)
    except FileNotFoundError:
        if config.data_dir is None or not os.environ.get(data.DATA_DIR_VARIABLE):
            raise
        return load_data(dataclasses.replace(config, data_dir=None))


def build(config: TrainConfig, dataset: data.Dataset | ImageFormat) -> Model:
    """The model of a config for a data set; parameters come from the config's seed.

    Raises:
        ValueError: for settings that do not fit together, or more than MAX_PARAMETERS.
    """
    vae, init_params, num_features = describe_model(config, dataset).build()
    bound = config.method.build(vae, num_features)
    eval_bound = bound
    if config.method.differs_in_evaluation:
        eval_bound = config.method.build(vae, num_features, for_evaluation=True)
    vae_key, bound_key = jax.random.split(stream(config.training.seed, "parameters"))
    shapes = jax.eval_shape(lambda: (init_params(vae_key), bound.init(bound_key)))
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    if total > MAX_PARAMETERS:
        raise ValueError(f"the model would have {total:,} parameters; expected at most {MAX_PARAMETERS:,}")
    params = {"vae": init_params(vae_key), "bound": bound.init(bound_key)}
    binarize = config.likelihood == "bernoulli" and dataset.max_value > 1
    return Model(vae, bound, params, training.Pixels(dataset.max_value, binarize), eval_bound, num_features)


def describe_model(config: TrainConfig, dataset: data.Dataset | ImageFormat) -> Description:
    """The networks of a config for a data set."""
    return Description(
        dataset.image_shape,
        config.latent_dim,
        config.likelihood,
        {"min_scale": MIN_SCALE} if config.likelihood == "gaussian" else None,
        config.architecture,
        config.hidden,
        config.activation,
        max_value=dataset.max_value,
        compute_dtype=config.compute_dtype,
    )


def start_params(config: TrainConfig, model: Model) -> Any:
    """The parameters that training starts with: the model's own, or with `config.start_from` that run's encoder and
    decoder, and of the posterior's arrays those that have the same names and shapes there.

    Raises:
        FileNotFoundError, ValueError: if there is no such run, or its nets are of other shapes.
    """
    if config.start_from is None:
        return model.params
    trained = load_run(config.start_from)[3]
    vae = trained["vae"]
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
    return {
        "vae": vae | {"encoder": config.method.posterior.start_encoder(vae["encoder"])},
        "bound": _with_posterior(model.params["bound"], trained["bound"]),
    }


def _with_posterior(own: Any, trained: Any) -> Any:
    """The bound's parameters at their start; the posterior's as they were trained, as far as they are the same."""
    if "posterior" not in own or "posterior" not in trained:
        return own
    return own | {"posterior": _taken_over(trained["posterior"], own["posterior"])}


def _taken_over(found: Any, own: Any) -> Any:
    """`own`, with the arrays of `found` where names and shapes are the same."""
    known = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(found)}

    def take(path: Any, leaf: Any) -> Any:
        there = known.get(jax.tree_util.keystr(path))
        return leaf if there is None or jnp.shape(there) != jnp.shape(leaf) else there

    return jax.tree_util.tree_map_with_path(take, own)


def monitored_images(dataset: data.Dataset) -> tuple[str, np.ndarray]:
    """The images whose bound is drawn each epoch, and their split's name: validation images, or else an even
    selection of the test set (some are sorted by class), which then decides nothing."""
    if len(dataset.validation):
        return "validation", dataset.validation
    return "test", dataset.test[evenly(len(dataset.test), NUM_MONITORED)]


def test_examples(model: Model, dataset: data.Dataset, num_images: int) -> jax.Array:
    """`num_images` test images, evenly chosen (0: all), as the model takes them. Bits are drawn with a fixed seed of
    their own, so every method and seed is judged on the same ones."""
    images = jnp.asarray(dataset.test[evenly(len(dataset.test), num_images)])
    return model.preprocess(stream(0, "test bits"), images)


def load_run(
    folder: Path | str, *, data_dir: Path | None = None, download: bool = False
) -> tuple[RunFolder, TrainConfig, Model, Any, int]:
    """(run, config, model, trained params, their epoch): the best on validation if kept, else the newest. The data are
    read only for a run that does not say what its images are like, as those of before do not."""
    run = RunFolder(folder)
    config = run.config()
    stored = run.environment().get("data", {})
    if {"image_shape", "max_value"} <= set(stored):
        images: Any = ImageFormat(tuple(stored["image_shape"]), stored["max_value"])
    else:
        images = find_data(config, data_dir, download)
    model = build(config, images)
    # The state's structure does not go with the number of steps.
    optimizer = config.training.make_optimizer(1)
    like = training.init_state(model.params, optimizer, config.training.seed)
    has_best = any((run.folder / "best").glob("[0-9]*"))  # none if no validation bound was finite
    chosen = run.best() if has_best else run.checkpoints()
    state = chosen.restore(like)
    chosen.close()
    return run, config, model, state.params, int(state.epoch)
