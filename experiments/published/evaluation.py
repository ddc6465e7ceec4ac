"""What a run is worth on the test set, in pieces that are kept, so that an evaluation that is killed goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs import TrainConfig
from experiments.published.config import PublishedConfig
from experiments.published.search import total_epochs
from experiments.runs.folder import RunFolder
from experiments.runs.model import Model, find_data, load_run, test_examples
from experiments.runs.reference import mean_and_error
from experiments.support.files import read_json, write_json
from experiments.support.subset import evenly
from hmcvae import annealing
from hmcvae._random import stream
from hmcvae.evaluation import active_units, estimate, low_ess

# Images at a time, between which the figures are kept.
IMPORTANCE_PIECE, ANNEALED_PIECE = 500, 100
NUM_STEPS = 3  # of leapfrog, at each temperature
Values = dict[str, np.ndarray]


class _Trained(NamedTuple):
    """A run with its parameters and the test images, as the model takes them."""

    config: TrainConfig
    model: Model
    params: Any
    examples: jax.Array


def evaluated(options: PublishedConfig, run: RunFolder) -> dict:
    """The figures of a run, as JSON values: bound and log p(x) by importance sampling from its own posterior over the
    test set, and by annealing over some of it, with the sandwich on images that the model made."""
    _, config, model, params, epoch = load_run(run.folder)
    dataset = find_data(config, options.data_dir, options.download)
    own = _Trained(config, model, params, test_examples(model, dataset, options.eval_images))
    place = run.folder / "published"
    place.mkdir(exist_ok=True)
    found = _importance(options, own, place)
    result: dict[str, Any] = {
        "epoch": epoch,
        "epochs": total_epochs(run),
        "num_images": len(own.examples),
        "num_train": len(dataset.train),
        "bound": mean_and_error(found["bound"]),
        "log_likelihood": mean_and_error(found["log_likelihood"]),
        "ess": float(found["ess"].mean()),
        "low_ess": low_ess(found["ess"]),
        "nonfinite": float(found["nonfinite"].mean()),
        "active_units": active_units(model.vae, params["vae"], own.examples[:1000])[0],
        "skipped_steps": run.records()[-1].skipped_steps,
    }
    if config.has_levels:
        result["num_dimensions"] = int(np.prod(own.examples.shape[1:]))
    if options.ais_temperatures:
        result["ais"] = _annealing(options, own, place, found["bound"])
    return result


def in_pieces(
    place: Path, stem: str, count: int, size: int, compute: Callable[[int, slice], dict[str, Any]]
) -> Values:
    """The values of `count` images, by name, from `compute(index of the piece, its images)`; pieces that are there are
    not computed again."""
    found = []
    for index, start in enumerate(range(0, count, size)):
        path = place / f"{stem}-{start}.json"
        if not path.is_file():
            chosen = compute(index, slice(start, min(start + size, count)))
            write_json(
                path, {name: np.asarray(values, np.float64).tolist() for name, values in chosen.items()}
            )
        found.append(read_json(path))
    return {
        name: np.concatenate([np.asarray(piece[name], np.float64) for piece in found]) for name in found[0]
    }


def _importance(options: PublishedConfig, own: _Trained, place: Path) -> Values:
    """Of each test image: the bound that was trained, and log p(x) by K draws of the posterior (of a chain, where it
    starts, as the papers do)."""
    config, model, params, examples = own
    proposal = config.method.proposals(model.vae, model.num_features)["encoder"]

    def compute(index: int, chosen: slice) -> dict[str, Any]:
        keys = [
            jax.random.fold_in(stream(0, f"published, {what}"), index) for what in ("importance", "bound")
        ]
        own = estimate(
            proposal, params, keys[0], examples[chosen], num_samples=options.eval_samples, batch_size=20
        )
        trained = estimate(
            model.eval_bound,
            params,
            keys[1],
            examples[chosen],
            num_samples=options.bound_samples,
            batch_size=20,
        )
        return {
            "log_likelihood": own.log_likelihood,
            "ess": own.effective_sample_size,
            "bound": trained.bound,
            "nonfinite": trained.nonfinite,
        }

    stem = f"importance-{len(examples)}-k{options.eval_samples}-{options.bound_samples}"
    return in_pieces(place, stem, len(examples), IMPORTANCE_PIECE, compute)


def _annealing(options: PublishedConfig, own: _Trained, place: Path, bound: np.ndarray) -> dict:
    """log p(x) of some test images by annealing from the method's own posterior, and both estimates on made images."""
    config, model, params, examples = own
    posterior = config.method.posterior.build(model.num_features, config.latent_dim, for_evaluation=True)
    is_own = posterior.is_whitened
    settings: dict[str, Any] = {
        "num_temperatures": options.ais_temperatures,
        "num_chains": options.ais_chains,
        "num_steps": NUM_STEPS,
        "posterior": posterior if is_own else None,
        "posterior_params": params["bound"]["posterior"] if is_own else None,
        "batch_size": 20,
    }
    chosen = evenly(len(examples), options.ais_images)
    some = examples[jnp.asarray(chosen)]
    vae, vae_params = model.vae, params["vae"]

    def annealed(index: int, images: slice) -> dict[str, Any]:
        key = jax.random.fold_in(stream(0, "published, annealing"), index)
        return annealing.ais(vae, vae_params, key, some[images], **settings)._asdict()

    positions, made = annealing.simulate(vae, vae_params, stream(0, "published, made"), options.made_images)
    made = made.astype(examples.dtype)

    def sandwiched(index: int, images: slice) -> dict[str, Any]:
        keys = [jax.random.fold_in(stream(0, f"published, {side}"), index) for side in ("below", "above")]
        below = annealing.ais(vae, vae_params, keys[0], made[images], **settings)
        above = annealing.reverse_ais(vae, vae_params, keys[1], made[images], positions[images], **settings)
        return {
            "lower": below.log_likelihood,
            "upper": above.log_likelihood,
            "lower_ess": below.effective_sample_size,
            "upper_ess": above.effective_sample_size,
            "nonfinite": jnp.maximum(below.nonfinite, above.nonfinite),
        }

    how = f"t{options.ais_temperatures}x{options.ais_chains}"
    found = in_pieces(place, f"annealed-{len(some)}-{how}", len(some), ANNEALED_PIECE, annealed)
    sides = in_pieces(place, f"sandwich-{len(made)}-{how}", len(made), ANNEALED_PIECE, sandwiched)
    return mean_and_error(found["log_likelihood"]) | {
        "num_images": len(some),
        "gap": mean_and_error(found["log_likelihood"] - bound[chosen]),
        "effective_sample_size": float(found["effective_sample_size"].mean()),
        "lower_effective_sample_size": float(sides["lower_ess"].mean()),
        "upper_effective_sample_size": float(sides["upper_ess"].mean()),
        "nonfinite": float(max(found["nonfinite"].mean(), sides["nonfinite"].mean())),
        "num_made": len(made),
        "lower": mean_and_error(sides["lower"]),
        "upper": mean_and_error(sides["upper"]),
        "width": mean_and_error(sides["upper"] - sides["lower"]),
    }
