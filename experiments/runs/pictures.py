"""Pictures of what a run's model has learned: `python -m experiments.generate RUN`.

Writes into the run folder: samples.png (from the prior), reconstructions.png, interpolations.png, geodesics.png
(shortest paths in the decoder's Fisher metric), and for a 2-d latent space manifold.png.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from experiments.configs import MAX_LOOP
from experiments.reporting import plots
from experiments.runs.model import Model, find_data, load_run, test_examples
from experiments.support.checks import check_fields, check_whole
from experiments.support.files import check_writable
from experiments.support.subset import evenly
from hmcvae import geodesics, posteriors
from hmcvae._checks import check_seed
from hmcvae._random import stream
from hmcvae.bounds import BoundInfo


@dataclass(frozen=True)
class GenerateConfig:
    """Draw what a run's model has learned.

    Attributes:
        run: the run folder.
        seed: of the draws.
        num_samples: images drawn from the prior.
        data_dir: the data's folder; by default the one that the run was trained with, or HMCVAE_DATA_DIR.
        download: let tensorflow-datasets download the data.
        output: the folder for the pictures, by default the run's.
    """

    run: Path
    seed: int = 0
    num_samples: int = 100
    data_dir: Path | None = None
    download: bool = False
    output: Path | None = None

    def __post_init__(self):
        check_fields(self, {"seed": check_seed, "num_samples": check_whole(1, MAX_LOOP)})


def samples(model: Model, params: Any, latent_dim: int, rng_key: jax.Array, num_samples: int) -> np.ndarray:
    """E[x | z] for z ~ p(z), [n, H, W, C]."""
    z = model.vae.prior.sample(params["vae"], rng_key, (num_samples, latent_dim))
    return np.asarray(jax.vmap(model.vae.generate, (None, 0))(params["vae"], z))


def reconstructions(model: Model, params: Any, examples: jax.Array, rng_key: jax.Array) -> np.ndarray:
    """Rows of examples, E[x | z_0] at the encoder's draw, and, where the bound moves it, E[x | z_T]."""
    keys = jax.random.split(rng_key, len(examples))
    info: BoundInfo = jax.jit(jax.vmap(model.bound, (None, 0, 0)))(params, keys, examples)[1]
    # A K-sample bound has a leading [K] in its info: show its first draw.
    first, last = (
        z.reshape(len(examples), -1, z.shape[-1])[:, 0] for z in (info.initial_position, info.position)
    )
    generate = jax.vmap(model.vae.generate, (None, 0))
    rows = [examples, generate(params["vae"], first)]
    if not np.array_equal(first, last):
        rows.append(generate(params["vae"], last))
    return np.concatenate([np.asarray(row) for row in rows])


def interpolations(model: Model, params: Any, examples: jax.Array, num_between: int = 10) -> np.ndarray:
    """Straight lines in z between the encoder's means of consecutive pairs of examples, [pairs · n, H, W, C]."""
    means = jax.vmap(lambda x: model.vae.encoded(params["vae"], x).mean)(examples)
    weights = jnp.linspace(0, 1, num_between)[:, None]
    rows = []
    for start, end in zip(means[0::2], means[1::2], strict=False):
        line = (1 - weights) * start[None] + weights * end[None]
        rows.append(np.asarray(jax.vmap(model.vae.generate, (None, 0))(params["vae"], line)))
    return np.concatenate(rows)


def geodesic_walks(
    model: Model, params: Any, examples: jax.Array, num_between: int = 10, num_links: int = 32
) -> tuple[np.ndarray, list[str]]:
    """For each pair of examples, the straight line between the encoder's means, and under it the shortest path in the
    decoder's Fisher metric plus the prior's precision, walked at constant pace; with a label for each row."""
    vae, own = model.vae, params["vae"]
    metric = posteriors.decoder_metric(vae.encoded(own, examples[0]))

    @jax.jit
    def walk(pair: jax.Array):
        start, end = (vae.encoded(own, x).mean for x in pair)
        found = geodesics.geodesic(metric, start, end, num_points=num_links + 1)
        straight = start[None] + jnp.linspace(0, 1, num_between)[:, None] * (end - start)[None]
        points = jnp.concatenate([straight, geodesics.resample(metric, found.points, num_between)])
        return jax.vmap(vae.generate, (None, 0))(own, points), found

    rows, labels = [], []
    for first in range(0, len(examples) - 1, 2):
        pictures, found = walk(examples[first : first + 2])
        rows.append(np.asarray(pictures))
        mark = "" if found.converged else " (not converged)"
        labels += [f"straight, {found.straight_length:.3g}", f"geodesic, {found.length:.3g}{mark}"]
    return np.concatenate(rows), labels


def manifold(model: Model, params: Any, side: int = 20) -> np.ndarray:
    """E[x | z] over a 2-d latent space, on a grid of the normal's quantiles (Kingma & Welling 2014, figure 4)."""
    axis = norm.ppf(jnp.linspace(0.5 / side, 1 - 0.5 / side, side))
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    return np.asarray(jax.vmap(model.vae.generate, (None, 0))(params["vae"], grid))


def draw_all(
    folder: Path,
    model: Model,
    params: Any,
    latent_dim: int,
    examples: jax.Array,
    seed: int = 0,
    num_samples: int = 100,
) -> list[Path]:
    """Write every picture; returns their paths."""
    sample_key, chain_key = jax.random.split(stream(seed, "pictures"))
    paths = [folder / f"{name}.png" for name in ("samples", "reconstructions", "interpolations")]
    pictures = samples(model, params, latent_dim, sample_key, num_samples)
    plots.image_grid(pictures, 10, paths[0], "samples: E[x | z], z ~ N(0, I)")
    few = examples[evenly(len(examples), 12)]
    rows = reconstructions(model, params, few, chain_key)
    are_bits = bool(np.isin(np.asarray(few), (0, 1)).all())
    labels = ["test image, its bits" if are_bits else "test image", "encoder", "end of chain"][
        : len(rows) // len(few)
    ]
    plots.image_grid(rows, len(few), paths[1], "reconstructions: E[x | z], z ~ q(z | x)", labels)
    if len(few) >= 2:
        lines = interpolations(model, params, few[: len(few) // 2 * 2])
        plots.image_grid(lines, 10, paths[2], "straight lines in z between pairs of test images")
        paths.append(folder / "geodesics.png")
        walks, labels = geodesic_walks(model, params, few[: min(6, len(few) // 2 * 2)])
        title = "straight lines and geodesics of the Fisher metric, with their lengths"
        plots.image_grid(walks, 10, paths[-1], title, labels)
    if latent_dim == 2:
        paths.append(folder / "manifold.png")
        title = "the 2-d latent space: E[x | z] at the normal's quantiles, 2.5 % … 97.5 %"
        plots.image_grid(manifold(model, params), 20, paths[-1], title)
    return [path for path in paths if path.exists()]


def main() -> None:
    import tyro

    config = tyro.cli(
        GenerateConfig, prog="python -m experiments.generate", config=(tyro.conf.PositionalRequiredArgs,)
    )
    run, train_config, model, params, epoch = load_run(
        config.run, data_dir=config.data_dir, download=config.download
    )
    folder = config.output or run.folder
    try:
        check_writable(folder)
    except OSError as error:
        error.add_note("give a folder for the pictures by --output")
        raise
    dataset = find_data(train_config, config.data_dir, config.download)
    examples = test_examples(model, dataset, 240)
    paths = draw_all(
        folder, model, params, train_config.latent_dim, examples, config.seed, config.num_samples
    )
    print(f"epoch {epoch} of {run.folder}")
    for path in paths:
        print(f"  {path}")
