"""What goes into a training: a pytree of arrays, or batches of them, and the function that makes examples of it."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from hmcvae._checks import check_count, check_plain, is_concrete
from hmcvae.likelihoods.base import CHUNK
from hmcvae.training.pixels import Pixels, check_array
from hmcvae.training.settings import Settings
from hmcvae.training.watch import TrainingWarning
from hmcvae.types import PRNGKey, PyTree
from hmcvae.vae import VAE, num_examples

# (rng_key, one example of the data) -> x, pure: it runs inside the jitted step. Pixels has checks of its own.
Preprocess = Callable[[PRNGKey, Any], Any]


def keep_as_is(rng_key: PRNGKey, example: PyTree) -> PyTree:
    """The preprocess function of data that are ready for the model."""
    del rng_key
    return example


def preprocess_all(preprocess: Preprocess, rng_key: PRNGKey, batch: PyTree) -> PyTree:
    """Each example of a batch [b, …] as the model takes it, with a key of its own."""
    return jax.vmap(preprocess)(jax.random.split(rng_key, num_examples(batch)), batch)


def is_in_memory(data: Any) -> bool:
    """Whether the data are a pytree of arrays, and not an iterable of batches, as a list is."""
    is_tree = hasattr(data, "shape") or isinstance(data, (Mapping, tuple)) or not isinstance(data, Iterable)
    leaves = jax.tree.leaves(data) if is_tree else []
    return bool(leaves) and all(hasattr(leaf, "dtype") and hasattr(leaf, "shape") for leaf in leaves)


def check_examples(data: PyTree, preprocess: Preprocess, name: str) -> None:
    """Check that data are arrays [n, …] of one n, and what else `preprocess` can say of them.

    Raises:
        ValueError: what was expected, and what came.
    """
    leaves = jax.tree.leaves(data)
    if not leaves:
        raise ValueError(f"expected {name} data as arrays [n, …], got {data!r}")
    for leaf in leaves:
        check_array(leaf, f"{name} data")
        if not leaf.shape:
            raise ValueError(f"expected {name} data as arrays [n, …], got one number, {leaf}")
    counts = {leaf.shape[0] for leaf in leaves}
    if len(counts) > 1:
        raise ValueError(f"expected {name} data of one length, got arrays of {sorted(counts)} examples")
    if isinstance(preprocess, Pixels):
        if len(leaves) > 1:
            raise ValueError(f"Pixels takes one array of images, got {len(leaves)} arrays as {name} data")
        preprocess.check(leaves[0], name)
    check_plain(f"{name} data", data)


def check_training(
    data: Any,
    settings: Settings,
    preprocess: Preprocess = keep_as_is,
    *,
    validation: PyTree | None = None,
    steps_per_epoch: int | None = None,
) -> int:
    """The number of steps an epoch.

    Raises:
        ValueError: for what cannot be trained on: no examples, a batch larger than the data, pixels out of range,
            patience without a validation set, an iterable that does not say how long it is.
    """
    if not isinstance(settings, Settings):
        raise ValueError(f"settings must be training.Settings, got {settings!r}")
    if not callable(preprocess):
        raise ValueError(f"preprocess must be a function (rng_key, example) -> x, got {preprocess!r}")
    if validation is not None:
        check_examples(validation, preprocess, "validation")
    if settings.patience and (validation is None or num_examples(validation) == 0):
        raise ValueError(f"patience = {settings.patience} needs validation data, got none")
    if not is_in_memory(data):
        return _check_stream(data, steps_per_epoch)
    if steps_per_epoch is not None:
        raise ValueError(
            f"steps_per_epoch is for an iterable of batches, got {steps_per_epoch!r} with arrays in memory"
        )
    check_examples(data, preprocess, "training")
    count = num_examples(data)
    if count == 0:
        raise ValueError("there must be examples to train on, got an empty set")
    if settings.batch_size > count:
        raise ValueError(
            f"batch_size must be at most the number of training examples, {count}, got {settings.batch_size}"
        )
    return count // settings.batch_size


def _check_stream(data: Any, steps_per_epoch: int | None) -> int:
    if isinstance(data, (str, bytes, Mapping, tuple)) or not isinstance(data, Iterable):
        raise ValueError(
            f"data must be a pytree of arrays [n, …] or an iterable of batches, got {type(data).__name__}"
        )
    if hasattr(data, "shape") or (
        isinstance(data, list) and any(isinstance(leaf, (int, float, str)) for leaf in jax.tree.leaves(data))
    ):
        advice = (
            "; its to_numpy() makes one" if hasattr(data, "to_numpy") else ""
        )  # a table of pandas or polars
        raise ValueError(f"expected training data as arrays [n, …], got {type(data).__name__}{advice}")
    if steps_per_epoch is not None:
        return check_count("steps_per_epoch", steps_per_epoch, 1)
    if not hasattr(data, "__len__"):
        raise ValueError("an iterable of batches without a length needs steps_per_epoch, got None")
    return check_count("the number of batches an epoch", len(data), 1)  # pyright: ignore[reportArgumentType]


def check_likelihood(vae: VAE, data: PyTree, preprocess: Preprocess, name: str) -> None:
    """Check that what the examples become in a step has a likelihood: all of them, or of bits drawn from pixels, which
    are bits whatever the pixels are, a few.

    Raises:
        ValueError: see `likelihoods.check_data`.

    Warns:
        TrainingWarning: if NaN of theirs have become numbers.
    """
    leaves = jax.tree.leaves(data)
    if not all(map(is_concrete, leaves)) or num_examples(data) == 0:
        return
    count, size = num_examples(data), sum(leaf.size for leaf in leaves)
    rows = max(1, CHUNK * count // max(size, 1))
    make, num_mended = jax.jit(jax.vmap(preprocess)), 0
    last = 1 if isinstance(preprocess, Pixels) and preprocess.binarize else count
    for first in range(0, last, rows):
        part = jax.tree.map(
            lambda leaf, first=first: jnp.asarray(np.asarray(leaf[first : first + rows])), data
        )
        keys = jax.random.split(jax.random.key(first), num_examples(part))
        made = make(keys, part)
        vae.check_data(made, name)
        if (holds := _has_nan(part)).any():
            num_mended += int(np.sum(holds & ~_has_nan(made)))
    if num_mended:
        warnings.warn(
            f"{num_mended} of {last} {name} hold NaN, and what preprocess makes of them does not: look at the data, "
            "unless they are meant to be filled in there",
            TrainingWarning,
            stacklevel=4,
        )


def _has_nan(examples: PyTree) -> Bool[np.ndarray, " n"]:
    """Which of the examples [n, …] hold NaN."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(examples)]
    wide = [leaf.astype(np.float64) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    found = [np.isnan(leaf).reshape(len(leaf), -1).any(axis=1) for leaf in wide]
    return np.any(found, axis=0) if found else np.zeros(num_examples(examples), bool)
