"""What each bound makes of one and the same decoder: `python -m experiments.study --data-dir DIR`.

For each latent size and seed: a plain VAE is trained, and its decoder held fixed. Then every method trains encoder,
dynamics and reverse model against it, from that VAE's encoder, for the same CPU seconds. log p(x) of the test images is
pinned by annealed importance sampling, so the gap log p(x) - bound is known, image by image.

Everything is a cell, FOLDER/DECODER/NAME.json, written whole when it is done; a study that was cut off goes on with the
cells that are missing. `experiments.report` makes tables and pictures of them.
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.config import CHARTED, DYNAMIC, TrainConfig, fail_cleanly, preset
from experiments.runs import (
    Model,
    RunFolder,
    environment,
    load_run,
    make_bound,
    test_examples,
    write_json,
)
from experiments.train import train
from hmcvae import annealing, data, metrics, training
from hmcvae._random import stream
from hmcvae.bounds import Bound
from hmcvae.evaluation import estimate
from hmcvae.types import ArrayLike, PRNGKey, PyTree

# name: how it differs from the preset's plain VAE.
METHODS: dict[str, dict] = {
    "Gaussian": {"method": "vae"},
    "Gaussian, full covariance": {"method": "whitened", "num_transitions": 0, "num_recentrings": 0},
    "Gaussian, full covariance, recentred": {"method": "whitened", "num_transitions": 0},
    "Gaussian, Fisher, recentred": {"method": "whitened", "metric": "fisher", "num_transitions": 0},
    "HVI-4": {"method": "hvi"},
    "HVI-4, masses of each datum": {"method": "whitened", "metric": "diagonal", "num_recentrings": 0},
    "HVI 4 x 1, annealed": {"method": "hvi", "num_transitions": 4, "num_steps": 1, "annealed": True},
    "amortised-4": {"method": "whitened", "num_recentrings": 0},
    "amortised-4, recentred": {"method": "whitened"},
    "amortised-4, recentred twice": {"method": "whitened", "num_recentrings": 2},
    "amortised 4 x 1, recentred, annealed": {
        "method": "whitened",
        "num_transitions": 4,
        "num_steps": 1,
        "annealed": True,
    },
    "sketched-4, recentred": {"method": "whitened", "metric": "sketched"},
    "Fisher-4": {"method": "whitened", "metric": "fisher", "num_recentrings": 0},
    "Fisher-4, recentred": {"method": "whitened", "metric": "fisher"},
    "Fisher-4, recentred twice": {"method": "whitened", "metric": "fisher", "num_recentrings": 2},
    "RHVI-2, recentred": {"method": "rhvi", "metric": "fisher", "num_steps": 2},
    "RHVI-4, recentred": {"method": "rhvi", "metric": "fisher", "num_steps": 4},
}


@dataclass(frozen=True)
class StudyConfig:
    """Compare inference with one decoder held fixed.

    Attributes:
        base: the preset of the plain VAE whose decoder is studied.
        latent_dims: its latent sizes.
        seeds: its seeds.
        methods: of METHODS; empty: all of them.
        decoder_epochs: how long the VAE is trained.
        seconds: CPU seconds of training for each method, compilation not counted.
        num_train: training images for inference.
        num_images: test images.
        eval_samples: draws for each of them.
        num_temperatures, num_chains: of annealed importance sampling.
        data_dir: the data's folder.
        folder: where the cells are.
    """

    base: str = "mnist_vae"
    latent_dims: tuple[int, ...] = (10, 20, 50)
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = ()
    decoder_epochs: int = 150
    seconds: float = 60.0
    num_train: int = 10000
    num_images: int = 300
    eval_samples: int = 100
    num_temperatures: int = 300
    num_chains: int = 8
    data_dir: Path | None = None
    folder: Path = Path("runs/study")

    def __post_init__(self):
        unknown = set(self.methods) - set(METHODS)
        if unknown:
            raise ValueError(f"methods must be among {', '.join(METHODS)}; got {sorted(unknown)}")
        if self.seconds <= 0:
            raise ValueError(f"seconds must be positive, got {self.seconds}")
        if self.num_images < 2:
            raise ValueError(f"num_images must be at least 2, got {self.num_images}")


def method_config(base: TrainConfig, name: str) -> TrainConfig:
    """The config of one method of the study, with the decoder's nets."""
    return dataclasses.replace(base, **METHODS[name])


def with_fixed_decoder(bound: Bound, decoder: PyTree) -> Bound:
    """The bound as a function of the encoder and its own parameters alone."""

    def evaluate(params: PyTree, rng_key: PRNGKey, x: jax.Array, kl_weight: ArrayLike):
        whole = {"encoder": params["vae"]["encoder"], "decoder": lax.stop_gradient(decoder)}
        return bound.evaluate({"vae": whole, "bound": params["bound"]}, rng_key, x, kl_weight)

    return dataclasses.replace(bound, evaluate=evaluate)


def start_params(config: TrainConfig, bound: Bound, encoder: PyTree, seed: int) -> PyTree:
    """The trained VAE's encoder, and the bound's own at their start. A chart that reads the encoder's scales in
    whitened coordinates gets scales of one to start with, in place of those in z."""
    if config.method in CHARTED and config.metric in ("fisher", "sketched"):
        head = encoder["params"]["GaussianHead_0"]
        flat = jax.tree.map(jnp.zeros_like, head["log_scale"])
        head = head | {"log_scale": flat}
        encoder = {"params": encoder["params"] | {"GaussianHead_0": head}}
    return {"vae": {"encoder": encoder}, "bound": bound.init(stream(seed, "bound"))}


def train_method(
    config: TrainConfig,
    bound: Bound,
    params: PyTree,
    dataset: data.Dataset,
    options: StudyConfig,
    binarize: bool,
) -> tuple[PyTree, dict]:
    """(params, figures) after `options.seconds` CPU seconds of whole epochs."""
    images = dataset.train[:: max(1, len(dataset.train) // options.num_train)][: options.num_train]
    train_options = dataclasses.replace(
        config.training, batch_size=min(config.training.batch_size, len(images))
    )
    optimizer = training.make_optimizer(train_options, len(images) // train_options.batch_size)
    state = training.init_state(params, optimizer, config.training.seed)
    epoch = training.make_epoch(bound, optimizer, train_options, dataset.max_value, binarize)
    device_images = jnp.asarray(images)
    compiled: Any = epoch.lower(state, device_images).compile()  # type: ignore[attr-defined]
    spent, curve = 0.0, []
    unconverged: list[float] = []
    while spent < options.seconds and int(state.bad_run) < train_options.max_bad_steps:
        cpu = time.process_time()
        state, record = jax.block_until_ready(compiled(state, device_images))
        spent += time.process_time() - cpu
        taken = np.asarray(record.is_taken)
        curve.append([spent, float(np.asarray(record.bound)[taken].mean()) if taken.any() else float("nan")])
        unconverged.append(float(np.mean(np.asarray(record.unconverged))))
    return state.params, {
        "seconds": spent,
        "epochs": len(curve),
        "seconds_per_epoch": spent / len(curve),
        "training_bound": curve,
        "skipped_steps": int(state.num_skipped),
        "clipped_steps": int(state.num_clipped),
        "training_unconverged": float(np.mean(unconverged)),
    }


def learned(config: TrainConfig, own: PyTree) -> dict:
    """Step sizes, masses, recentring steps and the like, as they were learned."""
    found: dict = {}
    chain = own.get("chain", own) if isinstance(own, dict) else {}
    if config.method in DYNAMIC and "step_size" in chain:
        raw = np.asarray(chain["step_size"])
        found["step_sizes"] = (config.max_step_size / (1 + np.exp(-raw))).tolist()
        if "log_mass" in chain:
            found["log_masses"] = np.asarray(chain["log_mass"]).tolist()
        if "dependence" in chain.get("metric", {}):
            found["position_dependence"] = (
                1 / (1 + np.exp(-np.asarray(chain["metric"]["dependence"])))
            ).tolist()
    if isinstance(own, dict) and "schedule" in own:
        weights = np.exp(np.asarray(own["schedule"]))
        found["inverse_temperatures"] = (np.cumsum(weights / weights.sum())[:-1]).tolist()
    return found


def run_method(
    name: str, base: TrainConfig, model: Model, params: PyTree, dataset: data.Dataset, options: StudyConfig
) -> dict:
    """Train one method against the decoder, and its figures on the test images."""
    config = method_config(base, name)
    decoder, encoder = params["vae"]["decoder"], params["vae"]["encoder"]
    examples = test_examples(config, dataset, model.binarize, options.num_images)
    num_features = int(jax.eval_shape(model.vae.encode, params["vae"], examples[0])[2].shape[0])
    bound = with_fixed_decoder(make_bound(config, model.vae, num_features), decoder)
    exact = with_fixed_decoder(make_bound(config, model.vae, num_features, exact=True), decoder)
    start = start_params(config, bound, encoder, config.training.seed)
    trained, figures = train_method(config, bound, start, dataset, options, model.binarize)
    key = stream(config.training.seed, "study, evaluation")
    values = estimate(exact, trained, key, examples, num_samples=options.eval_samples, batch_size=50)
    per_image = {
        field: np.asarray(getattr(values, field), np.float64).tolist()
        for field in ("bound", "log_likelihood", "weight_sd")
    }
    return figures | {
        "method": name,
        "per_image": per_image,
        "unconverged": float(np.mean(np.asarray(values.unconverged))),
        "nonfinite": float(np.mean(np.asarray(values.nonfinite))),
        "learned": learned(config, trained["bound"]),
    }


def pin(model: Model, params: PyTree, examples: jax.Array, options: StudyConfig, seed: int) -> dict:
    """log p(x) of the test images by annealed importance sampling, the same between both bounds on simulated data, and
    each posterior's condition number in the coordinates of the encoder's Gaussian."""
    settings: dict = {
        "num_temperatures": options.num_temperatures,
        "num_chains": options.num_chains,
        "num_steps": 3,
        "batch_size": 20,
    }
    vae, own = model.vae, params["vae"]
    found = annealing.ais(vae, own, stream(seed, "ais"), examples, **settings)
    positions, simulated = annealing.simulate(vae, own, stream(seed, "simulate"), max(2, len(examples) // 3))
    below = annealing.ais(vae, own, stream(seed, "ais, simulated"), simulated, **settings)
    above = annealing.reverse_ais(vae, own, stream(seed, "reverse"), simulated, positions, **settings)
    sandwich = {
        "lower": np.asarray(below.log_likelihood, np.float64).tolist(),
        "upper": np.asarray(above.log_likelihood, np.float64).tolist(),
    }
    return {
        "log_likelihood": np.asarray(found.log_likelihood, np.float64).tolist(),
        "log_weight_sd": float(np.mean(np.asarray(found.log_weight_sd))),
        "acceptance_rate": float(np.mean(np.asarray(found.acceptance_rate))),
        "nonfinite": float(np.mean(np.asarray(found.nonfinite))),
        "condition_number": condition_numbers(model, own, examples).tolist(),
        "simulated": sandwich,
    }


def condition_numbers(model: Model, params: PyTree, examples: jax.Array) -> np.ndarray:
    """κ of S^{1/2} G(μ) S^{1/2} for each image: how far the encoder's variances S are from whitening its posterior."""

    @jax.jit
    def all_eigenvalues(examples: jax.Array) -> jax.Array:
        def one(x: jax.Array) -> jax.Array:
            posterior = model.vae.posterior(params, x)
            metric = metrics.fisher(
                lambda z: model.vae.decode(params, z), model.vae.likelihood.fisher_weights, 1.0, linear=False
            )
            scale = jnp.exp(posterior.log_scale)
            return jnp.linalg.eigvalsh(metric.tensor(posterior.mean) * jnp.outer(scale, scale))

        return lax.map(one, examples, batch_size=50)

    values = np.asarray(all_eigenvalues(examples), np.float64)
    return values[:, -1] / values[:, 0]


def decoder_run(options: StudyConfig, latent_dim: int, seed: int) -> Path:
    """The folder of the VAE, trained now unless it is there whole."""
    base = preset(options.base)
    folder = options.folder / f"{base.dataset}-d{latent_dim}-seed{seed}" / "decoder"
    config = dataclasses.replace(
        base,
        latent_dim=latent_dim,
        training=dataclasses.replace(base.training, num_epochs=options.decoder_epochs, seed=seed),
        data_dir=options.data_dir,
        eval_samples=100,
        eval_images=300,
        run_dir=folder,
        resume=(folder / "config.json").is_file(),
    )
    if not (folder / "evaluation.json").is_file():
        train(config)
    elif RunFolder(folder).records()[-1]["epoch"] != options.decoder_epochs:
        raise ValueError(
            f"the decoder in {folder} was trained for another number of epochs than {options.decoder_epochs}; "
            "give its number, or another --folder"
        )
    return folder


def study(options: StudyConfig) -> None:
    """Fill in the cells that are missing."""
    for latent_dim in options.latent_dims:
        for seed in options.seeds:
            run = decoder_run(options, latent_dim, seed)
            _, config, dataset, model, params, _ = load_run(run)
            cells = run.parent
            path = cells / "pinned.json"
            if not path.is_file():
                examples = test_examples(config, dataset, model.binarize, options.num_images)
                write_json(path, pin(model, params, examples, options, seed) | {"environment": environment()})
            for index, name in enumerate(METHODS):
                path = cells / f"method-{index:02d}.json"
                if path.is_file() or (options.methods and name not in options.methods):
                    continue
                result = run_method(name, config, model, params, dataset, options)
                settings = {"num_images": options.num_images, "num_train": options.num_train, "seed": seed}
                write_json(path, result | settings | {"latent_dim": latent_dim, "environment": environment()})
                print(
                    f"d = {latent_dim}, seed {seed}, {name}: bound {np.mean(result['per_image']['bound']):.2f}, "
                    f"{result['epochs']} epochs",
                    flush=True,
                )


def main() -> None:
    import tyro

    study(tyro.cli(StudyConfig, prog="python -m experiments.study"))


if __name__ == "__main__":
    fail_cleanly(main)
