"""Training a bound with Optax: whole epochs on the device, and a host loop that loses nothing.

    loss = -mean over the batch of E[log_weight],   one draw (or K) an example a step

`fit` is the loop; `make_epoch` gives the jitted epoch for those who write their own.
"""

import time
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from hmcvae._checks import check_flag
from hmcvae._epoch import (
    SCHEDULES,
    Options,
    StepMetrics,
    TrainState,
    check_array,
    check_images,
    check_spread,
    init_state,
    make_epoch,
    make_monitor,
    make_optimizer,
    prepare,
)
from hmcvae._random import stream
from hmcvae.bounds import Bound, check_params
from hmcvae.checkpoints import Checkpoints
from hmcvae.likelihoods import CHUNK, Likelihood, check_data
from hmcvae.types import PyTree

__all__ = [
    "SCHEDULES",
    "NotFiniteError",
    "Options",
    "StepMetrics",
    "TrainState",
    "TrainingWarning",
    "check_start",
    "check_training",
    "fit",
    "init_state",
    "make_epoch",
    "make_monitor",
    "make_optimizer",
    "prepare",
]

# An epoch whose bound falls by so many times its size is no good one, though all of its steps were finite.
COLLAPSE = 10.0
# Of the first images, two that differ are looked for, to see that the encoder tells them apart.
NUM_STARTING = 16
# Calls whose results must be those of the first: masks of a few entries are often alike.
NUM_REPEATS = 5
RECIPE = (
    "A density must be one function of one example: set such layers to evaluation (BatchNorm with fixed statistics, "
    "Dropout off; in Flax NNX net.eval() before nnx.split), or take LayerNorm; see the README"
)


class TrainingWarning(UserWarning):
    """A training that ended, and is not what it seems; the message says what was seen and what helps."""


class NotFiniteError(RuntimeError):
    """Too many steps could not be taken: their loss, gradient or new parameters were not finite."""


def check_training(images: Any, validation: Any, options: Options, max_value: int) -> None:
    """Raise ValueError for what cannot be trained on: no images, a batch larger than the data, images that are not
    whole numbers 0 … max_value, patience without a validation set."""
    if not isinstance(options, Options):
        raise ValueError(f"options must be training.Options, got {options!r}")
    for name, pixels in (("training images", images), ("validation images", validation)):
        check_array(pixels, name)
    if len(images) == 0:
        raise ValueError("there must be images to train on, got an empty set")
    if options.batch_size > len(images):
        raise ValueError(
            f"batch_size must be at most the number of training images, {len(images)}, got {options.batch_size}"
        )
    if options.patience and len(validation) == 0:
        raise ValueError(f"patience = {options.patience} needs validation images, got none")
    for name, pixels in (("training", images), ("validation", validation)):
        if len(pixels):
            check_images(pixels, max_value, f"{name} pixels")


def check_start(bound: Bound, params: PyTree, images: Any, max_value: int) -> None:
    """Check that training can begin: parameters that are finite floats, an encoder and a decoder that are functions.

    Two calls must give the same (a net that draws random numbers has no density), and with parameters moved at random
    two images must give different codes, and two codes different outputs (a net that normalises over its batch
    sees one example by itself, and nothing of it is left).

    Raises:
        ValueError: what was expected, what came, and what to do.
    """
    if not isinstance(bound, Bound):
        raise ValueError(
            f"bound must be one of hmcvae.bounds, such as bounds.hvi(vae), got {type(bound).__name__}"
        )
    check_params(params)
    expected = jax.tree.structure(jax.eval_shape(bound.init, jax.random.key(0)))
    if jax.tree.structure(params["bound"]) != expected:
        raise ValueError(
            f'params["bound"] must be made by the init of the bound that is trained, {bound.name}: expected '
            f"{expected}, got {jax.tree.structure(params['bound'])}"
        )
    for path, leaf in jax.tree.leaves_with_path(params):
        name, array = f"params{jax.tree_util.keystr(path)}", jnp.asarray(leaf)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"expected parameters that are floats, got {name} of dtype {array.dtype}: random keys, counters and "
                "statistics are no parameters. " + RECIPE
            )
        if not np.all(np.isfinite(np.asarray(array))):
            raise ValueError(
                f"expected finite parameters to start from, got NaN or infinite values in {name}"
            )
    own = jax.tree.map(jnp.asarray, params["vae"])
    leaves, structure = jax.tree.flatten(own)
    keys = jax.random.split(jax.random.key(0), len(leaves) + 2)
    noise = [0.01 * jax.random.normal(key, x.shape, x.dtype) for key, x in zip(keys[2:], leaves, strict=True)]
    moved = jax.tree.map(jnp.add, own, structure.unflatten(noise))
    first = np.asarray(images[:NUM_STARTING]).astype(np.float32) / max_value
    other = int(np.argmax(np.abs(first - first[:1]).reshape(len(first), -1).sum(axis=1)))
    x = jnp.asarray(first[0]), jnp.asarray(first[other])
    mean = jnp.asarray(jax.tree.leaves(bound.vae.encode(own, x[0]))[0])
    z = [jax.random.normal(key, mean.shape, mean.dtype) for key in keys[:2]]
    for name, net, (a, b) in (("encode", bound.vae.encode, x), ("decode", bound.vae.decode, z)):
        # Of the second: the first image may be all black, which hides a mask; and some masks are alike by chance.
        result = net(own, b)
        if not jax.tree.leaves(result):
            raise ValueError(f"{name} must return arrays, got {result!r}")
        if not all(_are_equal(result, net(own, b)) for _ in range(NUM_REPEATS)):
            raise ValueError(
                f"expected {name} to be a function, got two results for the same input. {RECIPE}"
            )
        if not np.array_equal(a, b) and _are_equal(net(moved, a), net(moved, b)):
            raise ValueError(
                f"expected {name} to depend on its input, got the same for two different ones, whatever the "
                "parameters. " + RECIPE
            )


def _are_equal(a: PyTree, b: PyTree) -> bool:
    """Whether all entries are the same, NaN being the same as NaN."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True) for x, y in pairs)


def _check_likelihood(likelihood: Likelihood, images: Any, max_value: int, binarize: bool, name: str) -> None:
    """Check that what the images become in a step has a likelihood: bits, or all of their grey values."""
    if binarize:
        check_data(likelihood, np.stack([np.zeros(images.shape[1:]), np.ones(images.shape[1:])]), name)
        return
    rows = max(1, CHUNK * len(images) // images.size)
    for first in range(0, len(images), rows):
        grey = np.asarray(images[first : first + rows]).astype(np.float32) / max_value
        check_data(likelihood, grey, name)


def fit(
    bound: Bound,
    params: PyTree,
    images: Shaped[np.ndarray | Array, "n ..."],
    options: Options,
    *,
    max_value: int,
    binarize: bool,
    validation: Shaped[np.ndarray | Array, "m ..."],
    validation_bound: Bound | None = None,
    checkpoints: Checkpoints | None = None,
    best: Checkpoints | None = None,
    resume: bool = False,
    resume_epoch: int | None = None,
) -> Iterator[tuple[TrainState, dict[str, float]]]:
    """Train, yielding (state, record) after every epoch: the caller logs, draws and stops as it likes.

    Args:
        bound: what to maximise.
        params: {"vae": …, "bound": …} to start from.
        images: training images, whole numbers 0 … max_value (uint8); or with max_value = 1 any numbers in [0, 1].
        options: see `Options`.
        max_value, binarize: see `prepare`.
        validation: images whose bound is monitored each epoch and, with patience, stops the run; may be empty.
        validation_bound: what is monitored, by default what is trained; for a bound that is trained with few iterations
            of its implicit solves, the one that solves to tolerance.
        checkpoints: written before the first epoch (as epoch 0) and after every one, before the yield. The last one of
            a good epoch stays, whatever comes after it: no step was skipped, and the bound had not collapsed.
        best: where the state with the best validation bound is kept.
        resume: start from a checkpoint, and go on as if never stopped.
        resume_epoch: the checkpoint's epoch; None: the newest.

    Yields:
        The state, and a record of the epoch: epoch, bound (training, mean over the steps taken), validation_bound,
        grad_norm, energy_error, unconverged, skipped_steps and clipped_steps (since the start), and seconds (of the
        epoch's own call: the first holds the compilation; monitoring and checkpoints are not in it).

    Raises:
        ValueError: see `check_training`, `check_start`, `Likelihood.check` and `Checkpoints.restore`; or for `resume`
            without `checkpoints`.
        NotFiniteError: after too many bad steps, see `Options`; in mid-epoch, and it names the last good checkpoint. At
            the end, if no step of the last epoch could be taken.

    Warns:
        TrainingWarning: at the end, if the bound is far below what it was before.
    """
    binarize, resume = check_flag("binarize", binarize), check_flag("resume", resume)
    check_training(images, validation, options, max_value)
    if resume and checkpoints is None:
        raise ValueError("resume needs checkpoints to start from, got None")
    check_start(bound, params, images, max_value)
    check_spread(images, max_value, "training pixels")
    for name, pixels in (("training", images), ("validation", validation)):
        if len(pixels):
            _check_likelihood(bound.vae.likelihood, pixels, max_value, binarize, f"{name} images")
    num_batches = len(images) // options.batch_size
    optimizer = make_optimizer(options, num_batches)
    state = init_state(params, optimizer, options.seed)
    if checkpoints is not None:
        if resume:
            state = checkpoints.restore(state, resume_epoch)
        else:
            checkpoints.save(0, state)
    epoch_fn = make_epoch(bound, optimizer, options, max_value, binarize)
    monitor = make_monitor(validation_bound or bound, max_value, binarize)
    device_images, device_validation = jnp.asarray(images), jnp.asarray(validation)
    monitor_key = stream(options.seed, "validation")
    watch = _Watch(options, num_batches)
    while int(state.epoch) < options.num_epochs and not _is_out_of_patience(state, options):
        num_skipped, start = int(state.num_skipped), time.perf_counter()
        state, metrics = jax.block_until_ready(epoch_fn(state, device_images))
        record = _record(state, metrics) | {"seconds": time.perf_counter() - start}
        first = float(np.asarray(metrics.bound).ravel()[0])
        is_good = watch.see(state, record, first, int(state.num_skipped) - num_skipped, checkpoints)
        if len(validation):
            current = monitor(state.params, monitor_key, device_validation)
            record["validation_bound"] = float(current)
            if float(state.best_bound) < float(current) < np.inf:
                state = state._replace(best_bound=current.astype(jnp.float32), best_epoch=state.epoch)
                if best is not None:
                    best.save(int(state.epoch), state)
        if checkpoints is not None:
            checkpoints.save(int(state.epoch), state, is_good=is_good)
        yield state, record
    watch.close(checkpoints)


class _Watch:
    """Tells good epochs from bad ones, and stops a run that has too many bad steps."""

    def __init__(self, options: Options, num_batches: int):
        self._options, self._num_batches = options, num_batches
        self._limit, num_epochs = options.max_skipped(num_batches)
        self._skipped: deque[int] = deque(maxlen=num_epochs)
        self._highest = -np.inf
        self._last: tuple[int, float, bool] | None = None

    def see(
        self,
        state: TrainState,
        record: dict[str, float],
        first: float,
        num_skipped: int,
        checkpoints: Checkpoints | None,
    ) -> bool:
        """Whether the epoch was a good one; first: the bound of its first step, with the parameters from before it.

        Raises:
            NotFiniteError: if the run is to be stopped.
        """
        self._skipped.append(num_skipped)
        too_many = ""
        if int(state.bad_run) >= self._options.max_bad_steps:
            too_many = f"{int(state.bad_run)} steps in a row"
        elif sum(self._skipped) > self._limit:
            total = len(self._skipped) * self._num_batches
            too_many = (
                f"{sum(self._skipped)} of {total} steps (max_bad_share = {self._options.max_bad_share:g})"
            )
        if too_many:
            raise NotFiniteError(
                f"{too_many} up to epoch {int(state.epoch)} had a loss, gradient or new parameters that are not "
                f"finite, {int(state.num_skipped)} of {int(state.step)} since the start. Try a lower learning_rate, "
                "clip_norm (5 is a usual value) or a smaller step size of the dynamics"
                + _way_back(checkpoints)
            )
        bound = record["bound"]
        if np.isfinite(first):
            self._highest = max(self._highest, first)
        floor = (
            self._highest - COLLAPSE * max(1.0, abs(self._highest)) if np.isfinite(self._highest) else -np.inf
        )
        self._highest = max(self._highest, bound) if np.isfinite(bound) else self._highest
        self._last = int(state.epoch), bound, not bound > floor
        return num_skipped == 0 and bool(np.isfinite(bound)) and bound > floor

    def close(self, checkpoints: Checkpoints | None) -> None:
        """At the end of a run.

        Warns:
            TrainingWarning: if its bound has collapsed.

        Raises:
            NotFiniteError: if no step of the last epoch was taken.
        """
        if self._last is None:
            return
        epoch, bound, has_collapsed = self._last
        if np.isnan(bound):
            raise NotFiniteError(
                f"no step of the last epoch, {epoch}, had a finite loss, gradient and new parameters. Try a lower "
                "learning_rate" + _way_back(checkpoints)
            )
        if has_collapsed:
            warnings.warn(
                f"the training ended at a bound of {bound:.4g}, far below the {self._highest:.4g} that it had before: "
                "try a lower learning_rate, or clip_norm" + _way_back(checkpoints),
                TrainingWarning,
                stacklevel=3,
            )


def _way_back(checkpoints: Checkpoints | None) -> str:
    """What is kept from before, in words."""
    good = None if checkpoints is None else checkpoints.last_good()
    if good is None:
        return ""
    return f"; the last good checkpoint is kept, of epoch {good}: go on from it with resume_epoch={good}"


def _is_out_of_patience(state: TrainState, options: Options) -> bool:
    # Warm-up maximises something else than the bound that is waited for.
    waited = int(state.epoch) - max(int(state.best_epoch), options.kl_warmup_epochs)
    return options.patience > 0 and waited >= options.patience


def _record(state: TrainState, metrics: StepMetrics) -> dict[str, float]:
    """The epoch's means over the steps that were taken; NaN when none was."""
    taken = np.asarray(metrics.is_taken)

    def mean(values: Array) -> float:
        chosen = np.asarray(values, np.float64)[taken]
        return float(chosen.mean()) if len(chosen) else float("nan")

    return {
        "epoch": int(state.epoch),
        "bound": mean(metrics.bound),
        "grad_norm": mean(metrics.grad_norm),
        "energy_error": mean(metrics.energy_error),
        "unconverged": mean(metrics.unconverged),
        "skipped_steps": int(state.num_skipped),
        "clipped_steps": int(state.num_clipped),
    }
