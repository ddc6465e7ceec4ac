"""What a run's model is worth on the test set: `python -m experiments.evaluate RUN`.

The bound, log p(x) by importance weighting with the encoder and with the trained bound as the proposal, the gap
between bound and likelihood, and the active units. Writes RUN/evaluation-….json, named after its settings.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs import MAX_LOOP, MAX_TEMPERATURES, TrainConfig
from experiments.reporting.reports import bits_per_dimension
from experiments.runs.model import Model, find_data, load_run, test_examples
from experiments.runs.reference import anneal, sandwich
from experiments.support.checks import check_fields, check_images, check_whole
from experiments.support.files import check_writable, write_json
from experiments.support.records import Likelihood
from experiments.support.subset import evenly
from experiments.support.timing import Stopwatch
from hmcvae import training
from hmcvae._checks import check_seed
from hmcvae._random import stream
from hmcvae.evaluation import MIN_EFFECTIVE_SAMPLE_SIZE, Summary, active_units, estimate, summarise

NUM_WEIGHTED = 200  # of the monitored images, after every epoch
MAX_SIMULATED = 50  # images that the model makes, for the sandwich


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a run on the test set.

    Attributes:
        run: the run folder.
        num_samples: K, draws for each image.
        num_images: test images, evenly chosen; 0: all.
        chunk_size: draws held in memory at a time.
        batch_size: images held in memory at a time.
        num_temperatures: of annealed importance sampling, for log p(x) without a proposal's help; 0: none.
        num_chains: its chains for each image.
        seed: of the draws.
        data_dir: the data's folder; by default the one that the run was trained with, or HMCVAE_DATA_DIR.
        download: let tensorflow-datasets download the data.
        output: the folder for the figures, by default the run's.
    """

    run: Path
    num_samples: int = 5000
    num_images: int = 1000
    chunk_size: int = 50
    batch_size: int = 20
    num_temperatures: int = 0
    num_chains: int = 8
    seed: int = 0
    data_dir: Path | None = None
    download: bool = False
    output: Path | None = None

    def __post_init__(self):
        check_fields(
            self,
            {
                "num_samples": check_whole(1),
                "num_images": check_images(),
                "chunk_size": check_whole(1),
                "batch_size": check_whole(1),
                "num_temperatures": check_whole(0, MAX_TEMPERATURES),
                "num_chains": check_whole(1, MAX_LOOP),
                "seed": check_seed,
            },
        )


def evaluate(
    config: TrainConfig,
    model: Model,
    params: Any,
    examples: jax.Array,
    *,
    num_samples: int,
    chunk_size: int = 50,
    batch_size: int = 20,
    num_temperatures: int = 0,
    num_chains: int = 8,
    seed: int = 0,
) -> dict:
    """Figures in nats with standard errors over the test images, as JSON values.

    `proposals` holds one entry for the encoder (the start of a chain: the plain VAE's draws, or those of the whitened
    Gaussian) and, for methods with dynamics, one for the end of the chain. `ais`, where asked for, is log p(x) by
    annealed importance sampling from the encoder's Gaussian, with a sandwich on images that the model made.
    """
    result: dict = {
        "num_images": len(examples),
        "num_samples": num_samples,
        "seed": seed,
        "trained_with": model.bound.name,
        "proposals": {},
    }
    sizes: dict[str, Any] = {"num_samples": num_samples, "chunk_size": chunk_size, "batch_size": batch_size}
    for name, bound in config.method.proposals(model.vae, model.num_features).items():
        with Stopwatch() as watch:
            key = stream(seed, f"evaluation, {name}")
            summary = summarise(estimate(bound, params, key, examples, **sizes))
        result["proposals"][name] = _to_json(summary) | {"seconds": watch.elapsed.seconds}
    if config.method.num_samples > 1:
        # The bound that was trained is the mean of K-sample log weights: K draws at a time, 100 times.
        key = stream(seed, "evaluation, trained bound")
        values = estimate(model.eval_bound, params, key, examples, num_samples=100, chunk_size=10)
        result["trained_bound"] = summarise(values).bound._asdict()
    if num_temperatures:
        settings = {"num_temperatures": num_temperatures, "num_chains": num_chains}
        result["ais"] = _annealed(config, model, params, examples, seed, batch_size, settings) | settings
    result["active_units"], _ = active_units(model.vae, params["vae"], examples)
    result["latent_dim"] = config.latent_dim
    if config.has_levels:
        result["num_dimensions"] = int(np.prod(examples.shape[1:]))
    return result


def _annealed(
    config: TrainConfig,
    model: Model,
    params: Any,
    examples: jax.Array,
    seed: int,
    batch_size: int,
    settings: dict[str, int],
) -> dict:
    """log p(x) by annealing, from the method's own posterior where that is whitened, with its sandwich."""
    posterior = config.method.posterior.build(model.num_features, config.latent_dim, for_evaluation=True)
    found = anneal(
        model.vae,
        params["vae"],
        seed,
        "evaluation, ",
        examples,
        min(max(2, len(examples) // 4), MAX_SIMULATED),
        posterior=posterior if posterior.is_whitened else None,
        posterior_params=params["bound"]["posterior"] if posterior.is_whitened else None,
        batch_size=batch_size,
        **settings,
    )
    return sandwich(*found)


def make_likelihood_monitor(
    config: TrainConfig, model: Model, rng_key: jax.Array, images: np.ndarray
) -> Callable[[Any], Likelihood | None]:
    """`params -> likelihood`: log p(x) of up to NUM_WEIGHTED of the images, evenly chosen, by K draws of the bound.

    K is `config.monitor_samples`; None where it is 0. A bound of K' samples is drawn ⌈K / K'⌉ times: the mean of its
    weights is that of all their samples. Implicit solves are to tolerance: the weights of others are of no use. Bits
    and draws are the same every time; the bits are those that `training.make_monitor` draws with `rng_key`.

    Raises:
        ValueError: for a bound whose exp is no estimate of p(x).
    """
    if config.monitor_samples == 0:
        return lambda params: None
    if not model.bound.is_unbiased:
        raise ValueError(
            f"monitor_samples needs a bound that can be importance weighted, or must be 0; got "
            f"{config.monitor_samples} and {model.bound.name}"
        )
    pixel_key, _ = jax.random.split(rng_key)
    chosen = evenly(len(images), NUM_WEIGHTED)
    # The bits of all of them are drawn, so that these are the monitored bound's.
    examples = training.preprocess_all(model.preprocess, pixel_key, jnp.asarray(images))[chosen]
    num_terms = math.ceil(config.monitor_samples / config.method.num_samples)
    draw_key = stream(0, "monitored log p(x)")

    def monitor(params: Any) -> Likelihood:
        values = estimate(model.eval_bound, params, draw_key, examples, num_samples=num_terms, batch_size=20)
        found = summarise(values)
        return Likelihood(
            found.log_likelihood.mean,
            found.gap.mean,
            num_terms * config.method.num_samples,
            found.effective_sample_size,
        )

    return monitor


def _to_json(summary: Summary) -> dict:
    values = summary._asdict()
    return {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in values.items()}


def table(result: dict) -> str:
    """The result as a few lines to read."""
    lines = [
        f"{result['num_images']} test images, {result['num_samples']} draws each; nats, ± standard error over the "
        f"images; {result['active_units']} of {result['latent_dim']} latent units active",
        f"{'proposal':<10}{'bound':>18}{'log p(x) ≥':>18}{'gap':>16}{'ESS':>8}{'not finite':>12}{'unconverged':>13}",
    ]
    for name, figures in result["proposals"].items():
        cells = "".join(
            f"{figures[key]['mean']:>{width}.2f} ±{figures[key]['error']:5.2f}"
            for key, width in (("bound", 11), ("log_likelihood", 11), ("gap", 9))
        )
        lines.append(
            f"{name:<10}{cells}{figures['effective_sample_size']:>8.0f}{figures['nonfinite']:>12.2%}"
            f"{figures['unconverged']:>13.2%}"
        )
    if "ais" in result:
        ais, made = result["ais"], result["ais"]["made"]
        lines.append(
            f"log p(x) by annealed importance sampling, {ais['num_temperatures']} temperatures x {ais['num_chains']} "
            f"chains (ESS {ais['effective_sample_size']:.1f}): {ais['mean']:.2f} ± {ais['error']:.2f}; on "
            f"{made['num_images']} images that the model made between {made['lower']['mean']:.2f} and "
            f"{made['upper']['mean']:.2f}: a width of {made['width']['mean']:.2f} ± {made['width']['error']:.2f}"
        )
    if "num_dimensions" in result:
        best = max(figures["log_likelihood"]["mean"] for figures in result["proposals"].values())
        best, how = (
            (result["ais"]["mean"], "annealing") if "ais" in result else (best, "importance weighting")
        )
        bits = bits_per_dimension(best, result["num_dimensions"])
        lines.append(f"{bits:.3f} bits per dimension, by {how}")
    return "\n".join(lines + cautions(result))


def cautions(result: dict) -> list[str]:
    """What a reader of the figures must know of their weights."""
    # By the images, not by the mean over them, which the easy ones carry.
    found = [
        f"caution: {figures['low_ess']:.0%} of the images have fewer than {MIN_EFFECTIVE_SAMPLE_SIZE:.0f} effective "
        f"draws of proposal {name}: its log p(x) is too low by an unknown amount; "
        + (
            "take more draws"
            if result["num_samples"] <= MIN_EFFECTIVE_SAMPLE_SIZE
            else "compare proposals by annealing"
        )
        for name, figures in result["proposals"].items()
        if figures["low_ess"] > 0
    ]
    return found + _annealing_cautions(result["ais"]) if "ais" in result else found


def _annealing_cautions(ais: dict) -> list[str]:
    """Of each of the three estimates: the test images', and from below and above those of made images."""
    made, found = ais["made"], []
    for what, size in (
        ("", ais["effective_sample_size"]),
        (" of made images, from below,", made["effective_sample_size"]),
        (" of made images, from above,", made["upper_effective_sample_size"]),
    ):
        if not size >= ais["num_chains"] / 2:
            found.append(
                f"caution: the annealed weights{what} have an effective size of {size:.1f} of {ais['num_chains']} "
                "chains: take more temperatures"
            )
    for what, share in (("test", ais["nonfinite"]), ("made", made["nonfinite"])):
        if share > 0:
            found.append(f"caution: {share:.2%} of the annealed weights of {what} images are not finite")
    return found


def evaluation_name(config: EvaluateConfig, epoch: int, num_images: int) -> str:
    """A name of its own: neither the training's evaluation nor one with other settings is written over."""
    annealed = f"-t{config.num_temperatures}x{config.num_chains}" if config.num_temperatures else ""
    return f"evaluation-epoch{epoch}-k{config.num_samples}-n{num_images}{annealed}-seed{config.seed}.json"


def evaluate_run(config: EvaluateConfig) -> dict:
    """Evaluate a run's model, print the figures, then write them.

    Raises:
        OSError: before any compute, if they cannot be written.
    """
    folder = config.output or config.run
    run, train_config, model, params, epoch = load_run(
        config.run, data_dir=config.data_dir, download=config.download
    )
    try:
        check_writable(folder)
    except OSError as error:
        error.add_note("give a folder for the figures by --output")
        raise
    dataset = find_data(train_config, config.data_dir, config.download)
    examples = test_examples(model, dataset, config.num_images)
    result = evaluate(
        train_config,
        model,
        params,
        examples,
        num_samples=config.num_samples,
        chunk_size=config.chunk_size,
        batch_size=config.batch_size,
        num_temperatures=config.num_temperatures,
        num_chains=config.num_chains,
        seed=config.seed,
    )
    # Printed first: what was computed is then not lost where it cannot be written.
    print(f"epoch {epoch} of {run.folder}")
    print(table(result), flush=True)
    write_json(folder / evaluation_name(config, epoch, len(examples)), result | {"epoch": epoch})
    return result


def main() -> None:
    import tyro

    evaluate_run(
        tyro.cli(
            EvaluateConfig, prog="python -m experiments.evaluate", config=(tyro.conf.PositionalRequiredArgs,)
        )
    )
