"""What each bound makes of one and the same decoder: `python -m experiments.study --data-dir DIR`.

For each latent size and seed: a plain VAE is trained, and its decoder held fixed. Then every method trains encoder,
dynamics and reverse model against it, from that VAE's encoder, for the same CPU seconds, with a learning rate that
falls to zero along them. log p(x) of the test images is pinned by annealed importance sampling, so the gap
log p(x) - bound is known, image by image.

Everything is a cell, FOLDER/DECODER/NAME.json, written whole when it is done; a study that was cut off goes on with the
cells that are missing. `experiments.report` makes tables and pictures of them.
"""

import dataclasses
import json
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from experiments.configs import (
    MAX_LOOP,
    MAX_TEMPERATURES,
    MAX_WIDTH,
    Method,
    TrainConfig,
    method_to_json,
    preset,
)
from experiments.runs.folder import RunFolder
from experiments.runs.model import Model, find_data, load_run, test_examples
from experiments.runs.reference import pin
from experiments.runs.training import train
from experiments.study.methods import AS_TRAINED, FAMILIES, METHODS, grid
from experiments.support.checks import check_above_zero, check_fields, check_images, check_number, check_whole
from experiments.support.files import environment, read_json, write_json
from hmcvae import data, training
from hmcvae._checks import check_seed
from hmcvae._random import stream
from hmcvae.bounds import Bound
from hmcvae.evaluation import estimate
from hmcvae.transitions import Target
from hmcvae.types import PRNGKey, PyTree

# Images in one call of the compiled loop: training ends within one of them of its seconds.
CHUNK = 2000


@dataclass(frozen=True)
class StudyConfig:
    """Compare inference with one decoder held fixed.

    Attributes:
        base: the preset of the plain VAE whose decoder is studied.
        latent_dims: its latent sizes.
        seeds: its seeds.
        methods: of METHODS (experiments/study_methods.py); empty: all of them, unless there is a grid.
        families: of FAMILIES; each is trained with every number of transitions and of steps.
        transitions, steps: T and L of the grid.
        decoder_epochs: how long the VAE is trained.
        seconds: CPU seconds of training for each method, compilation not counted.
        passes: over the training images, in place of the seconds: equal updates, at whatever cost; 0: seconds.
        num_train: training images for inference; 0: all.
        num_images: test images; 0: all.
        eval_samples: draws for each of them.
        num_temperatures, num_chains: of annealed importance sampling.
        data_dir: the data's folder.
        download: let tensorflow-datasets download the data.
        folder: where the cells are.
    """

    base: str = "mnist_vae"
    latent_dims: tuple[int, ...] = (10, 20, 50)
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    transitions: tuple[int, ...] = (1,)
    steps: tuple[int, ...] = (4,)
    decoder_epochs: int = 150
    seconds: float = 60.0
    passes: float = 0.0
    num_train: int = 0
    num_images: int = 300
    eval_samples: int = 100
    num_temperatures: int = 300
    num_chains: int = 8
    data_dir: Path | None = None
    download: bool = False
    folder: Path = Path("runs/study")

    def __post_init__(self):
        unknown = set(self.methods) - set(METHODS)
        if unknown:
            raise ValueError(f"methods must be among {list(METHODS)}; got {sorted(unknown)}")
        unknown = set(self.families) - set(FAMILIES)
        if unknown:
            raise ValueError(f"families must be among {list(FAMILIES)}; got {sorted(unknown)}")
        preset(self.base)
        check_fields(
            self,
            {
                "latent_dims": check_whole(1, MAX_WIDTH),
                "seeds": check_seed,
                "transitions": check_whole(1, MAX_LOOP),
                "steps": check_whole(1, MAX_LOOP),
                "decoder_epochs": check_whole(1),
                "seconds": check_above_zero,
                "passes": check_number(0),
                "num_train": check_whole(0),
                "num_images": check_images(),
                "eval_samples": check_whole(1),
                "num_temperatures": check_whole(1, MAX_TEMPERATURES),
                "num_chains": check_whole(1, MAX_LOOP),
            },
        )

    @property
    def chosen(self) -> dict[str, Method]:
        """The methods to train."""
        named = self.methods or (() if self.families else tuple(METHODS))
        return {name: METHODS[name] for name in named} | grid(self.families, self.transitions, self.steps)


def with_fixed_decoder(bound: Bound, decoder: PyTree) -> Bound:
    """The bound as a function of the encoder and its own parameters alone."""

    def build(params: PyTree, rng_key: PRNGKey, x: jax.Array) -> Target:
        whole = {"encoder": params["vae"]["encoder"], "decoder": lax.stop_gradient(decoder)}
        return bound.build({"vae": whole, "bound": params["bound"]}, rng_key, x)

    return dataclasses.replace(bound, build=build)


def start_params(config: TrainConfig, bound: Bound, encoder: PyTree, seed: int) -> PyTree:
    """The trained VAE's encoder, and the bound's own at their start."""
    return {
        "vae": {"encoder": config.method.posterior.start_encoder(encoder)},
        "bound": bound.init(stream(seed, "bound")),
    }


def train_method(
    config: TrainConfig,
    bound: Bound,
    params: PyTree,
    dataset: data.Dataset,
    options: StudyConfig,
    binarize: bool,
) -> tuple[PyTree, dict]:
    """(params, figures) after `options.seconds` CPU seconds, or `options.passes`, over which Adam's rate falls to zero
    as a half cosine."""
    images = dataset.train[: options.num_train or None]
    size = min(CHUNK, len(images))
    num_chunks = len(images) // size
    # Evenly interleaved, so that each chunk is a sample of the whole, and what is left over too: some sets are sorted.
    chosen = np.linspace(0, len(images) - 1, num_chunks * size).astype(int)
    chunks = jnp.asarray(images[chosen].reshape(size, num_chunks, *images.shape[1:]))
    train_options = dataclasses.replace(config.training, batch_size=min(config.training.batch_size, size))
    rate = train_options.learning_rate
    # Made arrays too, the moments' decay rates would be of double precision where that is on.
    adam = optax.inject_hyperparams(optax.adam, static_args=("b1", "b2", "eps", "eps_root"))
    clip = train_options.clip_norm
    optimizer = adam(learning_rate=rate)
    if clip:
        optimizer = optax.chain(optax.clip_by_global_norm(clip), optimizer)
    state = training.init_state(params, optimizer, config.training.seed)
    epoch = training.make_epoch(bound, optimizer, train_options, dataset.max_value, binarize)
    compiled: Any = epoch.lower(state, chunks[:, 0]).compile()  # type: ignore[attr-defined]
    spent, curve = 0.0, []
    unconverged: list[float] = []
    while (share := progress(options, spent, len(curve) * size / len(images))) < 1:
        if int(state.bad_run) >= train_options.max_bad_steps:
            break
        inner: Any = state.opt_state[1] if clip else state.opt_state
        current = inner.hyperparams["learning_rate"]
        falling = 0.5 * rate * (1 + math.cos(math.pi * share))
        inner.hyperparams["learning_rate"] = jnp.asarray(falling, current.dtype)
        chunk = jax.block_until_ready(chunks[:, len(curve) % num_chunks])
        cpu = time.process_time()
        state, record = jax.block_until_ready(compiled(state, chunk))
        spent += time.process_time() - cpu
        taken = np.asarray(record.is_taken)
        curve.append([spent, float(np.asarray(record.bound)[taken].mean()) if taken.any() else float("nan")])
        unconverged.append(float(np.mean(np.asarray(record.unconverged))))
    passes = len(curve) * size / len(images)
    return state.params, {
        "seconds": spent,
        "epochs": passes,
        "seconds_per_epoch": spent / passes,
        "images_per_chunk": size,
        "training_bound": curve,
        "skipped_steps": int(state.num_skipped),
        "clipped_steps": int(state.num_clipped),
        "training_unconverged": float(np.mean(unconverged)),
    }


def progress(options: StudyConfig, seconds: float, passes: float) -> float:
    """The share of a training that is done: of its seconds, or of its passes where these are given."""
    return passes / options.passes if options.passes else seconds / options.seconds


UNTRAINED: dict = {
    "seconds": 0.0,
    "epochs": 0,
    "seconds_per_epoch": float("nan"),
    "images_per_chunk": 0,
    "training_bound": [],
    "skipped_steps": 0,
    "clipped_steps": 0,
    "training_unconverged": 0.0,
}


def run_method(
    name: str, base: TrainConfig, model: Model, params: PyTree, dataset: data.Dataset, options: StudyConfig
) -> dict:
    """Train one method against the decoder, and its figures on the test images."""
    config = dataclasses.replace(base, method=options.chosen[name])
    decoder, encoder = params["vae"]["decoder"], params["vae"]["encoder"]
    examples = test_examples(config, dataset, model.binarize, options.num_images)
    bound, eval_bound = (
        with_fixed_decoder(
            config.method.build(model.vae, model.num_features, for_evaluation=for_evaluation), decoder
        )
        for for_evaluation in (False, True)
    )
    start = start_params(config, bound, encoder, config.training.seed)
    if name == AS_TRAINED:
        trained, figures = start, UNTRAINED
    else:
        trained, figures = train_method(config, bound, start, dataset, options, model.binarize)
    key = stream(config.training.seed, "study, evaluation")
    values = estimate(eval_bound, trained, key, examples, num_samples=options.eval_samples, batch_size=50)
    per_image = {
        field: np.asarray(getattr(values, field), np.float64).tolist()
        for field in ("bound", "log_likelihood", "weight_sd", "effective_sample_size")
    }
    return figures | {
        "method": name,
        "definition": method_to_json(config.method),
        "num_transitions": config.method.chain_length[0],
        "num_steps": config.method.chain_length[1],
        "passes": options.passes,
        "derivatives_per_image": config.derivatives_per_image,
        "per_image": per_image,
        "unconverged": float(np.mean(np.asarray(values.unconverged))),
        "nonfinite": float(np.mean(np.asarray(values.nonfinite))),
        "learned": config.method.learned(trained["bound"]),
    }


def decoder_run(options: StudyConfig, latent_dim: int, seed: int) -> Path:
    """The folder of the VAE, trained now unless it is there whole."""
    base = preset(options.base)
    folder = options.folder / f"{base.dataset}-d{latent_dim}-seed{seed}" / "decoder"
    config = dataclasses.replace(
        base,
        latent_dim=latent_dim,
        training=dataclasses.replace(base.training, num_epochs=options.decoder_epochs, seed=seed),
        data_dir=options.data_dir,
        download=options.download,
        eval_samples=100,
        eval_images=300,
        run_dir=folder,
        resume=(folder / "config.json").is_file(),
    )
    records = RunFolder(folder).records()
    if not records or not (folder / "evaluation.json").is_file():
        train(config)
    elif records[-1]["epoch"] != options.decoder_epochs:
        raise ValueError(
            f"the decoder in {folder} was trained for another number of epochs than {options.decoder_epochs}; "
            "give its number, or another --folder"
        )
    return folder


# What every cell of one decoder must agree in, to stand in one table.
SETTINGS = (
    "base",
    "seconds",
    "passes",
    "num_train",
    "num_images",
    "eval_samples",
    "num_temperatures",
    "num_chains",
)


def check_settings(cells: Path, options: StudyConfig) -> None:
    """Write the study's settings beside its cells, or compare with those that the cells were made with.

    Raises:
        ValueError: if they differ.
    """
    path, own = cells / "settings.json", {name: getattr(options, name) for name in SETTINGS}
    if not path.is_file():
        write_json(path, own)
        return
    before = {"passes": 0.0} | read_json(path)  # studies of before had none
    changed = [f"{name}: {before[name]} -> {own[name]}" for name in SETTINGS if before[name] != own[name]]
    if changed:
        raise ValueError(
            f"the study in {cells} has other settings, so it cannot go on with these: {'; '.join(changed)}; give its "
            "own, or another --folder"
        )


def check_definition(path: Path, definition: dict) -> None:
    """Raise ValueError if a cell that is there was made by another method of the same name."""
    before = read_json(path).get("definition", definition)
    if before != json.loads(json.dumps(definition)):
        raise ValueError(
            f"{path} was made with {before}, this method is {definition} now; give another --folder"
        )


def cell_path(cells: Path, name: str) -> Path:
    """FOLDER/DECODER/method-NAME.json."""
    return cells / f"method-{re.sub('[^A-Za-z0-9]+', '-', name)}.json"


def study(options: StudyConfig) -> None:
    """Fill in the cells that are missing."""
    for latent_dim in options.latent_dims:
        for seed in options.seeds:
            run = decoder_run(options, latent_dim, seed)
            check_settings(run.parent, options)
            _, config, model, params, _ = load_run(run, data_dir=options.data_dir, download=options.download)
            dataset = find_data(config, options.data_dir, options.download)
            cells = run.parent
            path = cells / "pinned.json"
            if not path.is_file():
                examples = test_examples(config, dataset, model.binarize, options.num_images)
                pinned = pin(
                    model,
                    params,
                    examples,
                    seed,
                    num_temperatures=options.num_temperatures,
                    num_chains=options.num_chains,
                )
                write_json(path, pinned | {"environment": environment()})
            for name in options.chosen:
                path = cell_path(cells, name)
                if path.is_file():
                    check_definition(path, method_to_json(options.chosen[name]))
                    continue
                result = run_method(name, config, model, params, dataset, options)
                settings = {"num_images": options.num_images, "num_train": options.num_train, "seed": seed}
                write_json(path, result | settings | {"latent_dim": latent_dim, "environment": environment()})
                figures = {field: np.mean(values) for field, values in result["per_image"].items()}
                print(
                    f"d = {latent_dim}, seed {seed}, {name}: bound {figures['bound']:.2f}, importance-weighted "
                    f"log p(x) {figures['log_likelihood']:.2f} (ESS {figures['effective_sample_size']:.0f} of "
                    f"{options.eval_samples}), {result['epochs']:.1f} epochs",
                    flush=True,
                )


def main() -> None:
    import tyro

    study(tyro.cli(StudyConfig, prog="python -m experiments.study"))
