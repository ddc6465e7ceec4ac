"""What each bound makes of one and the same decoder: `python -m experiments.study --data-dir DIR`.

For each latent size and seed: a plain VAE is trained, and its decoder held fixed. Then every method trains encoder,
dynamics and reverse model against it, from that VAE's encoder, for the same CPU seconds, with a learning rate that
falls to zero along them. Annealed importance sampling gives a reference estimate of log p(x) of the test images, so the
gap log p(x) - bound is known, image by image.

Each method's record is a file of its own, written whole when it is done (see `experiments.study.records`); a study that
was cut off goes on with the records that are missing. `experiments.report` makes tables and pictures of them.
"""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from experiments.configs import TrainConfig, method_to_json, preset
from experiments.runs.folder import RunFolder
from experiments.runs.model import Model, find_data, load_run, test_examples
from experiments.runs.reference import reference_estimate
from experiments.runs.training import train
from experiments.study.config import StudyConfig
from experiments.study.methods import AS_TRAINED
from experiments.study.records import (
    UNTRAINED,
    PerImage,
    Record,
    read_record,
    record_path,
    reference_path,
)
from experiments.study.training import start_params, train_method, with_fixed_decoder
from experiments.support.files import read_json, write_json
from experiments.support.machine import describe
from hmcvae import data
from hmcvae._random import stream
from hmcvae.evaluation import estimate
from hmcvae.types import PyTree

# What every record of one decoder must agree in, to stand in one table.
SETTINGS = (
    "base",
    "seconds",
    "num_epochs",
    "num_train",
    "num_images",
    "eval_samples",
    "num_temperatures",
    "num_chains",
)


def run_method(
    name: str,
    base: TrainConfig,
    model: Model,
    params: PyTree,
    dataset: data.Dataset,
    examples: jax.Array,
    options: StudyConfig,
) -> Record:
    """Train one method against the decoder, and its figures on the test images."""
    config = dataclasses.replace(base, method=options.chosen[name])
    method, seed = config.method, config.training.seed
    bound, eval_bound = (
        with_fixed_decoder(
            method.build(model.vae, model.num_features, for_evaluation=for_evaluation),
            params["vae"]["decoder"],
        )
        for for_evaluation in (False, True)
    )
    trained, training = start_params(config, bound, params["vae"]["encoder"], seed), UNTRAINED
    if name != AS_TRAINED:
        images = dataset.train[: options.num_train or None]
        trained, training = train_method(config, bound, trained, images, options, model.preprocess)
    key = stream(seed, "study, evaluation")
    values = estimate(eval_bound, trained, key, examples, num_samples=options.eval_samples, batch_size=50)
    num_transitions, num_steps = method.chain_length
    return Record(
        method=name,
        definition=method_to_json(method),
        latent_dim=config.latent_dim,
        seed=seed,
        num_train=options.num_train,
        num_images=options.num_images,
        planned_epochs=options.num_epochs,
        num_transitions=num_transitions,
        num_steps=num_steps,
        derivatives_per_image=config.derivatives_per_image,
        training=training,
        per_image=PerImage(
            np.asarray(values.bound, np.float64),
            np.asarray(values.log_likelihood, np.float64),
            np.asarray(values.weight_sd, np.float64),
            np.asarray(values.effective_sample_size, np.float64),
        ),
        unconverged=float(np.mean(np.asarray(values.unconverged))),
        nonfinite=float(np.mean(np.asarray(values.nonfinite))),
        learned=method.learned(trained["bound"]),
        environment=describe(),
    )


def decoder_run(options: StudyConfig, latent_dim: int, seed: int) -> Path:
    """The folder of the VAE, trained now unless it is there whole.

    Raises:
        ValueError: if it is there with another number of epochs.
    """
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
    elif records[-1].epoch != options.decoder_epochs:
        raise ValueError(
            f"the decoder in {folder} was trained for another number of epochs than {options.decoder_epochs}; "
            "give its number, or another --folder"
        )
    return folder


def check_settings(folder: Path, options: StudyConfig) -> None:
    """Write the study's settings beside its records, or compare with those that the records were made with.

    Raises:
        ValueError: if they differ.
    """
    path, own = folder / "settings.json", {name: getattr(options, name) for name in SETTINGS}
    if not path.is_file():
        write_json(path, own)
        return
    before = read_json(path)
    before = {
        "num_epochs": before.get("passes", 0.0)
    } | before  # the name of before; the first studies had none
    changed = [
        f"{name}: {before.get(name)} -> {own[name]}" for name in SETTINGS if before.get(name) != own[name]
    ]
    if changed:
        raise ValueError(
            f"the study in {folder} has other settings, so it cannot go on with these: {'; '.join(changed)}; give its "
            "own, or another --folder"
        )


def check_definition(path: Path, definition: dict) -> None:
    """Raise ValueError if a record that is there was made by another method of the same name."""
    before = read_record(path).definition
    if before is not None and before != json.loads(json.dumps(definition)):
        raise ValueError(
            f"{path} was made with {before}, this method is {definition} now; give another --folder"
        )


def study_decoder(options: StudyConfig, latent_dim: int, seed: int) -> None:
    """Fill in what is missing of one decoder: itself, the reference estimate, and records."""
    run = decoder_run(options, latent_dim, seed)
    folder = run.parent
    check_settings(folder, options)
    _, config, model, params, _ = load_run(run, data_dir=options.data_dir, download=options.download)
    dataset = find_data(config, options.data_dir, options.download)
    examples = test_examples(model, dataset, options.num_images)
    path = reference_path(folder)
    if not path.is_file():
        chains = {"num_temperatures": options.num_temperatures, "num_chains": options.num_chains}
        reference = reference_estimate(model, params, examples, seed, **chains)
        write_json(path, reference.to_json() | {"environment": describe()})
    for name, method in options.chosen.items():
        path = record_path(folder, name)
        if path.is_file():
            check_definition(path, method_to_json(method))
            continue
        record = run_method(name, config, model, params, dataset, examples, options)
        write_json(path, record.to_json())
        print(_summary(record, options), flush=True)


def _summary(record: Record, options: StudyConfig) -> str:
    own = record.per_image
    size = np.nan if own.effective_sample_size is None else own.effective_sample_size.mean()
    return (
        f"d = {record.latent_dim}, seed {record.seed}, {record.method}: bound {own.bound.mean():.2f}, "
        f"importance-weighted log p(x) {own.log_likelihood.mean():.2f} (ESS {size:.0f} of {options.eval_samples}), "
        f"{record.training.num_epochs:.1f} epochs"
    )


def study(options: StudyConfig) -> None:
    """Fill in the records that are missing."""
    for latent_dim in options.latent_dims:
        for seed in options.seeds:
            study_decoder(options, latent_dim, seed)


def main() -> None:
    import tyro

    study(tyro.cli(StudyConfig, prog="python -m experiments.study"))
