"""Trained models, read back from the folder of their run without its data or the program that trained it.

RUN/model.json says what the networks are; the parameters are those of the best checkpoint on validation images where
there is one, else of the newest.
"""

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from hmcvae import annealing, likelihoods, posteriors
from hmcvae._checks import check_choice, check_count, check_key, is_concrete
from hmcvae.annealing import AISEstimate
from hmcvae.likelihoods import Likelihood
from hmcvae.likelihoods.base import check_unit
from hmcvae.types import PRNGKey, PyTree
from hmcvae.vae import VAE

Examples = Shaped[Array | np.ndarray, "..."]

MODEL = "model.json"
LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    name: getattr(likelihoods, name)
    for name in (
        "bernoulli",
        "gaussian",
        "discretised_logistic",
        "discretised_logistic_mixture",
        "categorical",
        "poisson",
        "negative_binomial",
    )
}


@dataclass(frozen=True)
class Description:
    """What `networks.build_vae` made a model of: all of it JSON values.

    likelihood: a name of `hmcvae.likelihoods`.  likelihood_options: its arguments.  max_value: of a pixel, where they
    are divided by it.  The rest: see `networks.build_vae`.
    """

    image_shape: Sequence[int]
    latent_dim: int
    likelihood: str = "bernoulli"
    likelihood_options: Mapping[str, Any] | None = None
    architecture: str = "mlp"
    hidden: Sequence[int] = (200, 200)
    activation: str | None = None
    max_value: int = 1
    compute_dtype: str = "float32"

    @property
    def is_of_bits(self) -> bool:
        """Whether grey pixels became bits in training."""
        return self.likelihood == "bernoulli" and self.max_value > 1

    def build(self) -> tuple[VAE, Callable[[PRNGKey], PyTree], int]:
        """(vae, init_params, num_features).

        Raises:
            ValueError: for what is no such model.
        """
        from hmcvae import networks

        check_choice("likelihood", self.likelihood, LIKELIHOODS)
        likelihood = LIKELIHOODS[self.likelihood](**(self.likelihood_options or {}))
        return networks.build_vae(
            self.image_shape,
            self.latent_dim,
            likelihood,
            architecture=self.architecture,
            hidden=self.hidden,
            activation=self.activation,
            compute_dtype=self.compute_dtype,
        )

    def to_json(self) -> dict[str, Any]:
        """As `json` writes it."""
        values = dict(vars(self))
        return values | {name: list(values[name]) for name in ("image_shape", "hidden")}


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model with its parameters; arrays of examples are [n, H, W, C], as the model takes them (in [0, 1]).

    vae, params: for everything else of this library, such as `annealing.ais(model.vae, model.params, …)`.
    epoch: of the parameters.  description: what it is.
    """

    vae: VAE
    params: PyTree
    epoch: int
    description: Description

    def __repr__(self) -> str:
        """Without the arrays."""
        return f"TrainedModel(epoch={self.epoch}, description={self.description})"

    def sample(self, rng_key: PRNGKey, num_samples: int) -> Array:
        """E[x | z] of z ~ p(z), [num_samples, H, W, C].

        Raises:
            ValueError: for what is no key, or no number of samples.
        """
        rng_key = check_key(rng_key)
        shape = (check_count("num_samples", num_samples, 1), self.description.latent_dim)
        return self.decode(self.vae.prior.sample(self.params, rng_key, shape))

    def encode(self, examples: Examples) -> Float[Array, "n d"]:
        """The encoder's mean of q(z | x).

        Raises:
            ValueError: for examples of another shape, or outside what the model has a likelihood of (raw pixels, NaN).
        """
        examples = self._checked(examples)
        return jax.vmap(lambda x: self.vae.encoded(self.params, x).mean)(examples)

    def decode(self, positions: Shaped[Array | np.ndarray, "..."]) -> Array:
        """E[x | z].

        Raises:
            ValueError: for positions that are not [n, d] and finite.
        """
        positions, d = _as_floats("positions", positions), self.description.latent_dim
        if positions.ndim != 2 or positions.shape[1] != d:
            raise ValueError(f"positions must be [n, {d}], one z a row, got shape {list(positions.shape)}")
        if is_concrete(positions) and not np.all(np.isfinite(np.asarray(positions))):
            raise ValueError("positions must be finite, got NaN or infinite numbers")
        return jax.vmap(lambda z: self.vae.generate(self.params, z))(positions)

    def reconstruct(self, examples: Examples) -> Array:
        """E[x | z] at the encoder's mean. Raises as `encode` does."""
        return self.decode(self.encode(examples))

    def log_likelihood(self, rng_key: PRNGKey, examples: Examples, **options: Any) -> AISEstimate:
        """log p(x) of each example, from below: `annealing.ais` from the prior, which is right whatever posterior the
        model was trained with. options: of `ais`; more temperatures are nearer. Raises as `encode` does.

        Of Bernoulli pixels that were grey in the data, training and the published figures are of bits that are drawn
        from them, x ~ Bernoulli(pixel); grey values themselves have a likelihood of another size, with a warning."""
        examples = self._checked(examples)
        if (
            self.description.is_of_bits
            and is_concrete(examples)
            and not np.isin(np.asarray(examples), (0, 1)).all()
        ):
            warnings.warn(
                "the examples have grey values, and this model is of bits that are drawn from them: log p(x) is "
                "comparable for bits alone, such as jax.random.bernoulli(rng_key, examples).astype(float)",
                stacklevel=2,
            )
        return annealing.ais(
            self.vae,
            self.params,
            check_key(rng_key),
            examples,
            **({"posterior": posteriors.standard_normal()} | options),  # pyright: ignore[reportArgumentType]
        )

    def _checked(self, examples: Any) -> Array:
        examples, shape = _as_floats("examples", examples), tuple(self.description.image_shape)
        if examples.shape[1:] != shape or examples.ndim != len(shape) + 1 or not len(examples):
            whole = ", ".join(map(str, shape))
            raise ValueError(f"examples must be [n, {whole}], n at least 1, got shape {list(examples.shape)}")
        self.vae.check_data(examples, "examples")
        if self.description.max_value > 1 and is_concrete(examples):
            try:
                check_unit(np.asarray(examples))
            except ValueError as error:
                raise ValueError(
                    f"examples are pixels divided by {self.description.max_value}: {error}"
                ) from None
        return examples


def _as_floats(name: str, value: Any) -> Array:
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers, got {type(value).__name__}") from error
    if array.dtype == bool or jnp.issubdtype(array.dtype, jnp.integer):
        return array.astype(float)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be real numbers, got dtype {array.dtype}")
    return array


def load(run: str | os.PathLike[str]) -> TrainedModel:
    """The model that a run has trained, from its folder alone; needs Flax and Orbax.

    Raises:
        FileNotFoundError: if there is no model, or no checkpoint of it.
        ValueError: if one of its files is damaged.
    """
    from hmcvae.training.reading import newest, read

    folder = Path(run).expanduser()
    path = folder / MODEL
    if not path.is_file():
        raise FileNotFoundError(
            f"no trained model in {folder}: {path} is not there (for checkpoints of training.fit: training.load_params)"
        )
    try:
        description = Description(**json.loads(path.read_bytes()))
        vae, init_params, _ = description.build()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe a model: {error}") from error
    place = newest(folder / "best") or newest(folder / "checkpoints")
    if place is None:
        raise FileNotFoundError(f"no checkpoint in {folder}: the model in it has not been trained yet")
    params, epoch = _of_state(read(place), place)
    shapes = jax.eval_shape(init_params, jax.random.key(0))
    own, expected = jax.tree.structure(params), jax.tree.structure(shapes)
    if own != expected or any(
        a.shape != b.shape for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(shapes), strict=True)
    ):
        raise ValueError(f"the checkpoint {place} is of another model than {path}: got {own}")
    return TrainedModel(vae, jax.tree.map(jnp.asarray, params), epoch, description)


def _of_state(found: Any, place: Path) -> tuple[PyTree, int]:
    """params["vae"] and the epoch of a training's state."""
    own = found.get("params") if isinstance(found, Mapping) else None
    params = own.get("vae") if isinstance(own, Mapping) else None
    epoch = np.asarray(found.get("epoch", "none") if isinstance(found, Mapping) else "none")
    if params is None or epoch.shape or epoch.dtype.kind not in "iu":
        raise ValueError(
            f"the checkpoint {place} is not of a training: expected params['vae'] and a whole epoch"
        )
    bad = [leaf.dtype for leaf in jax.tree.leaves(params) if not jnp.issubdtype(leaf.dtype, jnp.floating)]
    if bad:
        raise ValueError(f"the checkpoint {place} is not of a model: expected floats, got {bad[0]}")
    return params, int(epoch)
