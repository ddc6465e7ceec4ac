"""Training a bound with Optax: whole epochs on the device, and a host loop that loses nothing.

    loss = -mean over the batch of E[log_weight],   one draw (or K) an example a step

`fit` is the loop; `make_epoch` gives the jitted epoch for those who write their own.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from hmcvae._checks import check_count, check_positive
from hmcvae._random import stream
from hmcvae.bounds import Bound
from hmcvae.checkpoints import Checkpoints
from hmcvae.types import PRNGKey, PyTree

SCHEDULES = ("constant", "cosine", "burda")


@dataclass(frozen=True)
class Options:
    """How to train; checked when it is made.

    Attributes:
        num_epochs: passes over the training images.
        batch_size: images a step; what the last whole batch leaves over sits out that epoch (other images each time).
        learning_rate: Adam's, at its highest.
        schedule: "constant"; "cosine" to zero; or "burda": falling by 10^(-1/7) over eight stages of 3^i epochs
            (Burda et al. 2016, section 5), scaled to num_epochs.
        clip_norm: gradients are scaled down to this global norm; 0 turns it off.
        kl_warmup_epochs: the weight of everything but log p(x | z) rises from 0 to 1 over this many epochs; 0: off.
        patience: stop after so many epochs without a better validation bound; 0 turns it off.
        max_bad_steps: stop with an error when so many steps in a row, up to an epoch's end, had a loss or gradient
            that is not finite.
        seed: of parameters, order, binarization and draws.

    Raises:
        ValueError: for a value outside its range.
    """

    num_epochs: int = 30
    batch_size: int = 200
    learning_rate: float = 1e-3
    schedule: str = "constant"
    clip_norm: float = 0.0
    kl_warmup_epochs: int = 0
    patience: int = 0
    max_bad_steps: int = 50
    seed: int = 0

    def __post_init__(self):
        for name, minimum in (("num_epochs", 1), ("batch_size", 1), ("kl_warmup_epochs", 0), ("patience", 0)):
            check_count(name, getattr(self, name), minimum)
        check_count("max_bad_steps", self.max_bad_steps, 1)
        check_count("seed", self.seed, 0)
        check_positive("learning_rate", self.learning_rate)
        if not 0 <= self.clip_norm < float("inf"):
            raise ValueError(f"clip_norm must be 0 (off) or a positive number, got {self.clip_norm!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")


class TrainState(NamedTuple):
    """All that the next epoch depends on; a checkpoint is this tree, and resuming from it goes on bit for bit.

    rng_key: key data of the run's stream of epochs, never changed: epoch e uses fold_in(rng_key, e).
    num_skipped: steps not taken since their loss or gradient was not finite.  bad_run: how many of them in a row.
    num_clipped: steps whose gradient was scaled down.
    best_bound, best_epoch: of the validation bound, -inf and 0 before the first.
    """

    params: PyTree
    opt_state: PyTree
    rng_key: UInt32[Array, " 2"]
    epoch: Int[Array, ""]
    step: Int[Array, ""]
    num_skipped: Int[Array, ""]
    bad_run: Int[Array, ""]
    num_clipped: Int[Array, ""]
    best_bound: Float[Array, ""]
    best_epoch: Int[Array, ""]


class StepMetrics(NamedTuple):
    """One step's figures, [num_batches] over an epoch: the batch's mean log weight (nats), the gradient's norm before
    clipping, mean |energy error| of the dynamics, share of unconverged solves, and whether the step was taken."""

    bound: Array
    grad_norm: Array
    energy_error: Array
    unconverged: Array
    is_taken: Bool[Array, "..."]


def make_optimizer(options: Options, num_batches: int) -> optax.GradientTransformation:
    """Adam with the schedule of `options`; clipping, where asked for, comes first."""
    total = options.num_epochs * num_batches
    if options.schedule == "cosine":
        rate: Any = optax.cosine_decay_schedule(options.learning_rate, total)
    elif options.schedule == "burda":
        ends = [(3**stage - 1) // 2 for stage in range(1, 9)]
        boundaries: dict[int, float] = {}
        for end in ends[:-1]:  # in a short run several stages end before one step
            step = -(-total * end // ends[-1])
            boundaries[step] = boundaries.get(step, 1.0) * 10 ** (-1 / 7)
        rate = optax.piecewise_constant_schedule(options.learning_rate, boundaries)
    else:
        rate = options.learning_rate
    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    return optax.chain(clip, optax.adam(rate))


def init_state(params: PyTree, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first epoch."""
    # Weakly typed leaves would come back strong from the first epoch, and compile it a second time.
    params = jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.asarray(leaf).dtype), params)
    zero = jnp.zeros((), jnp.int32)
    key = jax.random.key_data(stream(seed, "epochs"))
    lowest = jnp.full((), -jnp.inf, jnp.float32)
    return TrainState(params, optimizer.init(params), key, zero, zero, zero, zero, zero, lowest, zero)


def prepare(
    rng_key: PRNGKey, pixels: UInt8[Array, "..."], max_value: int, binarize: bool
) -> Float[Array, "..."]:
    """Pixels 0 … max_value to float32 in [0, 1]; `binarize` draws bits with these probabilities."""
    grey = pixels.astype(jnp.float32) / max_value
    return jax.random.bernoulli(rng_key, grey).astype(jnp.float32) if binarize else grey


def make_epoch(
    bound: Bound, optimizer: optax.GradientTransformation, options: Options, max_value: int, binarize: bool
) -> Callable[[TrainState, UInt8[Array, "n h w c"]], tuple[TrainState, StepMetrics]]:
    """The jitted epoch `(state, images) -> (state, metrics [num_batches])`: shuffles, binarizes anew and takes a step
    for every whole batch, all on the device."""

    def loss_fn(params: PyTree, rng_key: PRNGKey, x: Array, kl_weight: Array):
        keys = jax.random.split(rng_key, x.shape[0])
        log_weights, info = jax.vmap(bound, (None, 0, 0, None))(params, keys, x, kl_weight)
        return -jnp.mean(log_weights), info

    @jax.jit
    def epoch(state: TrainState, images: Array) -> tuple[TrainState, StepMetrics]:
        num_batches = len(images) // options.batch_size
        warmup = max(1, options.kl_warmup_epochs * num_batches)
        epoch_key = jax.random.fold_in(
            jax.random.wrap_key_data(state.rng_key, impl="threefry2x32"), state.epoch
        )
        order_key, steps_key = jax.random.split(epoch_key)
        order = jax.random.permutation(order_key, len(images))[: num_batches * options.batch_size]

        def take_step(state: TrainState, inputs: tuple[Array, PRNGKey]):
            indices, key = inputs
            pixel_key, draw_key = jax.random.split(key)
            x = prepare(pixel_key, images[indices], max_value, binarize)
            kl_weight = jnp.minimum(1.0, (state.step + 1) / warmup).astype(x.dtype)
            (loss, info), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                state.params, draw_key, x, kl_weight
            )
            norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)))
            is_taken = jnp.isfinite(loss) & jnp.isfinite(norm)
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            new = (optax.apply_updates(state.params, updates), opt_state)
            # A select, not a branch: XLA fuses it into the optimizer's own elementwise pass.
            kept = jax.tree.map(lambda a, b: jnp.where(is_taken, a, b), new, (state.params, state.opt_state))
            skipped = 1 - is_taken.astype(jnp.int32)
            clipped = (norm > options.clip_norm) & (options.clip_norm > 0) & is_taken
            state = state._replace(
                params=kept[0],
                opt_state=kept[1],
                step=state.step + 1,
                num_skipped=state.num_skipped + skipped,
                bad_run=(state.bad_run + 1) * skipped,
                num_clipped=state.num_clipped + clipped.astype(jnp.int32),
            )
            unconverged = 1 - jnp.mean(info.solver.converged.astype(x.dtype))
            # The bound itself, whatever weight the loss gave to its parts during warm-up.
            parts = info.log_likelihood + (info.log_weight - info.log_likelihood) / kl_weight
            full = jnp.mean(jax.nn.logsumexp(parts.reshape(len(x), -1), axis=1))
            full = full - math.log(parts.size // len(x))
            return state, StepMetrics(full, norm, jnp.mean(info.energy_error), unconverged, is_taken)

        keys = jax.random.split(steps_key, num_batches)
        batches = order.reshape(num_batches, options.batch_size)
        state, metrics = lax.scan(take_step, state, (batches, keys))
        return state._replace(epoch=state.epoch + 1), metrics

    return epoch


def make_monitor(
    bound: Bound, max_value: int, binarize: bool, batch_size: int = 200
) -> Callable[[PyTree, PRNGKey, UInt8[Array, "n h w c"]], Float[Array, ""]]:
    """Jitted mean bound over images, one draw each. The same key gives the same bits and draws every time, so that
    two epochs are compared on equal terms."""

    @jax.jit
    def monitor(params: PyTree, rng_key: PRNGKey, images: Array) -> Float[Array, ""]:
        pixel_key, draw_key = jax.random.split(rng_key)
        x = prepare(pixel_key, images, max_value, binarize)
        keys = jax.random.split(draw_key, len(images))
        log_weights = lax.map(lambda inputs: bound(params, *inputs)[0], (keys, x), batch_size=batch_size)
        return jnp.mean(log_weights)

    return monitor


def check_training(images: Any, validation: Any, options: Options, max_value: int) -> None:
    """Raise ValueError for what cannot be trained on: no images, a batch larger than the data, pixels above max_value,
    patience without a validation set."""
    if len(images) == 0:
        raise ValueError("there must be images to train on, got an empty set")
    if options.batch_size > len(images):
        raise ValueError(
            f"batch_size must be at most the number of training images, {len(images)}, got {options.batch_size}"
        )
    if options.patience and len(validation) == 0:
        raise ValueError(f"patience = {options.patience} needs validation images, got none")
    for name, pixels in (("training", images), ("validation", validation)):
        if len(pixels) and pixels.max() > max_value:
            raise ValueError(f"expected {name} pixels of at most max_value = {max_value}, got {pixels.max()}")


class NotFiniteError(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite."""


def fit(
    bound: Bound,
    params: PyTree,
    images: UInt8[np.ndarray, "n h w c"],
    options: Options,
    *,
    max_value: int,
    binarize: bool,
    validation: UInt8[np.ndarray, "m h w c"],
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
        images: training images, uint8 in 0 … max_value.
        options: see `Options`.
        max_value, binarize: see `prepare`.
        validation: images whose bound is monitored each epoch and, with patience, stops the run; may be empty.
        validation_bound: what is monitored, by default what is trained; for a bound that is trained with few iterations
            of its implicit solves, the one that solves to tolerance.
        checkpoints: written after every epoch, before the yield.
        best: where the state with the best validation bound is kept.
        resume: start from a checkpoint, and go on as if never stopped.
        resume_epoch: the checkpoint's epoch; None: the newest.

    Yields:
        The state, and a record of the epoch: epoch, bound (training, mean over the steps taken), validation_bound,
        grad_norm, energy_error, unconverged, skipped_steps and clipped_steps (since the start), and seconds (of the
        epoch's own call: the first holds the compilation; monitoring and checkpoints are not in it).

    Raises:
        ValueError: see `check_training` and `Checkpoints.restore`; or for `resume` without `checkpoints`.
        NotFiniteError: after `max_bad_steps` bad steps in a row; the last good checkpoint stays.
    """
    check_training(images, validation, options, max_value)
    if resume and checkpoints is None:
        raise ValueError("resume needs checkpoints to start from, got None")
    optimizer = make_optimizer(options, len(images) // options.batch_size)
    state = init_state(params, optimizer, options.seed)
    if resume and checkpoints is not None:
        state = checkpoints.restore(state, resume_epoch)
    epoch_fn = make_epoch(bound, optimizer, options, max_value, binarize)
    monitor = make_monitor(validation_bound or bound, max_value, binarize)
    device_images, device_validation = jnp.asarray(images), jnp.asarray(validation)
    monitor_key = stream(options.seed, "validation")
    while int(state.epoch) < options.num_epochs and not _is_out_of_patience(state, options):
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(epoch_fn(state, device_images))
        record = _record(state, metrics) | {"seconds": time.perf_counter() - start}
        if int(state.bad_run) >= options.max_bad_steps:
            raise NotFiniteError(
                f"{int(state.bad_run)} steps in a row up to epoch {int(state.epoch)} had a loss or gradient that is "
                "not finite. Try a lower learning_rate, clip_norm (5 is a usual value) or a smaller step size of the "
                "dynamics; the last good checkpoint is kept"
            )
        if len(validation):
            current = monitor(state.params, monitor_key, device_validation)
            record["validation_bound"] = float(current)
            if float(current) > float(state.best_bound):
                state = state._replace(best_bound=current.astype(jnp.float32), best_epoch=state.epoch)
                if best is not None:
                    best.save(int(state.epoch), state)
        if checkpoints is not None:
            checkpoints.save(int(state.epoch), state)
        yield state, record


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
