"""What is known of a decoder's posteriors, whatever the bound: log p(x) by annealing, and their shape."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Float

from experiments.runs.model import Model
from hmcvae import annealing, posteriors
from hmcvae._random import stream
from hmcvae.annealing import AISEstimate
from hmcvae.posteriors import Posterior
from hmcvae.types import PRNGKey, PyTree
from hmcvae.vae import VAE

NUM_VARIATION_DRAWS = 8
MAX_SIMULATED = 100  # images that the decoder makes, between whose two estimates log p(x) is


def anneal(
    vae: VAE,
    params: PyTree,
    seed: int,
    name: str,
    examples: jax.Array,
    num_simulated: int,
    *,
    num_temperatures: int,
    num_chains: int,
    posterior: Posterior | None = None,
    posterior_params: PyTree = None,
    batch_size: int = 20,
) -> tuple[AISEstimate, AISEstimate, AISEstimate]:
    """(test images, made images from below, the same from above): log p(x) by annealed importance sampling.

    What is made by the model itself has an exact draw of its posterior, so log p(x) lies between two estimates; how far
    they are apart says how loose the one on test images may be. `name` goes into the names of the random streams.
    """
    settings: dict[str, Any] = {
        "num_temperatures": num_temperatures,
        "num_chains": num_chains,
        "num_steps": 3,
        "posterior": posterior,
        "posterior_params": posterior_params,
        "batch_size": batch_size,
    }
    positions, simulated = annealing.simulate(vae, params, stream(seed, f"{name}simulate"), num_simulated)
    # In one call: it compiles once.
    together = jnp.concatenate([examples, simulated.astype(examples.dtype)])
    forwards = annealing.ais(vae, params, stream(seed, f"{name}ais"), together, **settings)
    found, below = (
        AISEstimate(*(values[part] for values in forwards))
        for part in (slice(None, len(examples)), slice(len(examples), None))
    )
    above = annealing.reverse_ais(
        vae, params, stream(seed, f"{name}reverse"), simulated, positions, **settings
    )
    return found, below, above


class Reference(NamedTuple):
    """What is known of a decoder's posteriors, whatever the bound.

    log_likelihood: of each test image, by annealed importance sampling.
    log_weight_sd, effective_sample_size, acceptance_rate, nonfinite: of its chains, means over the images;
        effective_sample_size is None where it was not kept.
    condition_number: of each image's posterior, see `condition_numbers`.
    metric_variation: over each image's posterior, see `metric_variations`; None where it was not kept.
    lower, upper: log p(x) of each image that the decoder made itself lies between the two in the mean.
    """

    log_likelihood: Float[np.ndarray, " n"]
    log_weight_sd: float
    effective_sample_size: float | None
    acceptance_rate: float
    nonfinite: float
    condition_number: Float[np.ndarray, " n"]
    metric_variation: Float[np.ndarray, " n"] | None
    lower: Float[np.ndarray, " m"]
    upper: Float[np.ndarray, " m"]

    def to_json(self) -> dict:
        """As JSON values."""
        values = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in self._asdict().items()
        }
        sides = {side: values.pop(side) for side in ("lower", "upper")}
        return values | {"simulated": sides}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Reference":
        """What `to_json` made, now or before.

        Raises:
            ValueError: if something is missing.
        """
        sides = values.get("simulated", {})
        found = {"effective_sample_size": None, "metric_variation": None} | dict(values) | dict(sides)
        missing = [name for name in cls._fields if name not in found]
        if missing:
            raise ValueError(
                f"no {', '.join(missing)} in the reference estimate: was it written by another version?"
            )
        own: dict[str, Any] = {name: found[name] for name in cls._fields}
        for name in ("log_likelihood", "condition_number", "metric_variation", "lower", "upper"):
            own[name] = None if own[name] is None else np.asarray(own[name], np.float64)
        return cls(**own)


def reference_estimate(
    model: Model, params: PyTree, examples: jax.Array, seed: int, *, num_temperatures: int, num_chains: int
) -> Reference:
    """log p(x) of the test images by annealed importance sampling, the same between both bounds on simulated data, and
    each posterior's condition number in the coordinates of the encoder's Gaussian."""
    own = params["vae"]
    num_simulated = min(max(2, len(examples) // 3), MAX_SIMULATED)
    found, below, above = anneal(
        model.vae,
        own,
        seed,
        "",
        examples,
        num_simulated,
        num_temperatures=num_temperatures,
        num_chains=num_chains,
    )
    return Reference(
        np.asarray(found.log_likelihood, np.float64),
        _mean(found.log_weight_sd),
        _mean(found.effective_sample_size),
        _mean(found.acceptance_rate),
        _mean(found.nonfinite),
        condition_numbers(model, own, examples),
        metric_variations(model, own, examples, stream(seed, "variation")),
        np.asarray(below.log_likelihood, np.float64),
        np.asarray(above.log_likelihood, np.float64),
    )


def sandwich(found: AISEstimate, below: AISEstimate, above: AISEstimate) -> dict:
    """The three estimates of `anneal` as JSON: means over the images with standard errors, the width of the sandwich on
    made images, and the effective sizes of the chains' weights; "nonfinite" of made images: of the worse of both."""
    width = np.asarray(above.log_likelihood, np.float64) - np.asarray(below.log_likelihood, np.float64)
    return mean_and_error(found.log_likelihood) | {
        "log_weight_sd": _mean(found.log_weight_sd),
        "effective_sample_size": _mean(found.effective_sample_size),
        "acceptance_rate": _mean(found.acceptance_rate),
        "nonfinite": _mean(found.nonfinite),
        "made": {
            "num_images": len(width),
            "lower": mean_and_error(below.log_likelihood),
            "upper": mean_and_error(above.log_likelihood),
            "width": mean_and_error(width),
            "effective_sample_size": _mean(below.effective_sample_size),
            "upper_effective_sample_size": _mean(above.effective_sample_size),
            "nonfinite": max(_mean(below.nonfinite), _mean(above.nonfinite)),
        },
    }


def mean_and_error(values: Any) -> dict:
    """Of at least two values: their mean, and its standard error."""
    values = np.asarray(values, np.float64)
    return {"mean": float(values.mean()), "error": float(values.std(ddof=1) / np.sqrt(len(values)))}


def _mean(values: Any) -> float:
    return float(np.mean(np.asarray(values, np.float64)))


def condition_numbers(model: Model, params: PyTree, examples: jax.Array) -> np.ndarray:
    """κ of S^{1/2} G(μ) S^{1/2} for each image: how far the encoder's variances S are from whitening its posterior."""

    @jax.jit
    def all_eigenvalues(examples: jax.Array) -> jax.Array:
        def one(x: jax.Array) -> jax.Array:
            example = model.vae.encoded(params, x)
            scale, metric = jnp.exp(example.log_scale), posteriors.decoder_metric(example)
            return jnp.linalg.eigvalsh(metric.tensor(example.mean) * jnp.outer(scale, scale))

        return lax.map(one, examples, batch_size=50)

    values = np.asarray(all_eigenvalues(examples), np.float64)
    return values[:, -1] / values[:, 0]


def metric_variations(model: Model, params: PyTree, examples: jax.Array, rng_key: PRNGKey) -> np.ndarray:
    """How much G(z) changes over each image's posterior: the root mean square of the logarithms of the eigenvalues of
    L⁻¹ G(z) L⁻ᵀ, with L Lᵀ = G(μ), over draws z ~ N(μ, G(μ)⁻¹). 0 where the frozen metric is the moving one; 0.7 where
    lengths squared are typically off by a factor of 2."""

    @jax.jit
    def variations(examples: jax.Array, keys: PRNGKey) -> jax.Array:
        def one(inputs: tuple[jax.Array, PRNGKey]) -> jax.Array:
            x, key = inputs
            example = model.vae.encoded(params, x)
            mean, metric = example.mean, posteriors.decoder_metric(example)
            lower = jnp.linalg.cholesky(metric.tensor(mean))
            root = solve_triangular(lower, jnp.eye(len(mean), dtype=mean.dtype), lower=True)
            noise = jax.random.normal(key, (NUM_VARIATION_DRAWS, len(mean)), mean.dtype)

            def square(e: jax.Array) -> jax.Array:
                G = metric.tensor(mean + root.T @ e)
                return jnp.mean(jnp.log(jnp.linalg.eigvalsh(root @ G @ root.T)) ** 2)

            return jnp.sqrt(jnp.mean(jax.vmap(square)(noise)))

        return lax.map(one, (examples, keys), batch_size=25)

    found = variations(examples, jax.random.split(rng_key, len(examples)))
    return np.asarray(found, np.float64)
