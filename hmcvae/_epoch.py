"""What `hmcvae.training` is made of below its loop: options, state, and the jitted epoch.

An epoch is one program on the device. It ends early where the run has gone bad, so that hours of steps that are all
skipped are not waited for.
"""

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt32

from hmcvae._checks import check_count, check_positive, check_real, check_seed, is_concrete
from hmcvae._numerics import all_finite
from hmcvae._random import stream
from hmcvae.bounds import Bound
from hmcvae.likelihoods import check_range
from hmcvae.types import PRNGKey, PyTree

SCHEDULES = ("constant", "cosine", "burda")
# Whether a run has gone bad is looked at after so many steps at most: a loop whose end depends on the data waits for
# the device at each of its passes. What such a piece has left is undone if parameters are not finite.
MAX_PIECE = 16


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
        max_bad_steps: stop with an error, in mid-epoch, when so many steps in a row could not be taken: their loss,
            gradient or new parameters were not finite.
        max_bad_share: stop likewise when more than this share of an epoch's steps could not be taken (of the last few
            epochs', where one has few steps: never before max_bad_steps of them); 1 turns it off.
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
    max_bad_steps: int = 20
    max_bad_share: float = 0.2
    seed: int = 0

    def __post_init__(self):
        whole = {"num_epochs": 1, "batch_size": 1, "kl_warmup_epochs": 0, "patience": 0, "max_bad_steps": 1}
        values: dict[str, Any] = {
            name: check_count(name, getattr(self, name), low) for name, low in whole.items()
        }
        values["seed"] = check_seed("seed", self.seed)
        check_positive("max_bad_share", self.max_bad_share)
        values["max_bad_share"] = check_real("max_bad_share", self.max_bad_share, 0, 1)
        # The device works in single precision, where more would be infinite.
        largest = float(np.finfo(np.float32).max)
        values["learning_rate"] = check_real("learning_rate", self.learning_rate, 0, largest, is_open=True)
        values["clip_norm"] = check_real("clip_norm", self.clip_norm, 0)
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        for name, value in values.items():  # NumPy's numbers as Python's: they are written to JSON
            object.__setattr__(self, name, value)

    def max_skipped(self, num_batches: int) -> tuple[int, int]:
        """(n, k): more than n bad steps in k epochs are too many; k > 1 where max_bad_steps are more than one epoch's
        share."""
        num_epochs = max(1, math.ceil(self.max_bad_steps / (self.max_bad_share * num_batches)))
        return max(self.max_bad_steps, math.floor(self.max_bad_share * num_epochs * num_batches)), num_epochs


class TrainState(NamedTuple):
    """All that the next epoch depends on; a checkpoint is this tree, and resuming from it goes on bit for bit.

    rng_key: key data of the run's stream of epochs, never changed: epoch e uses fold_in(rng_key, e).
    num_skipped: steps not taken since their loss, gradient or new parameters were not finite.
    bad_run: how many of them in a row.
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
    clipping, mean |energy error| of the dynamics, share of unconverged solves, and whether the step was taken. Steps
    that an early end left out are NaN, and not taken."""

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
    rng_key: PRNGKey, pixels: Shaped[Array | np.ndarray, "..."], max_value: int, binarize: bool
) -> Float[Array, "..."]:
    """Pixels 0 … max_value to float32 in [0, 1]; `binarize` draws bits with these probabilities.

    Raises:
        ValueError: see `check_images`; of pixels that are being traced only the dtype is seen.
    """
    check_images(pixels, max_value)
    grey = jnp.asarray(pixels).astype(jnp.float32) / max_value
    return jax.random.bernoulli(rng_key, grey).astype(jnp.float32) if binarize else grey


def check_array(images: Any, name: str) -> None:
    """Raise ValueError for what is no array: a list, None."""
    if not (hasattr(images, "dtype") and hasattr(images, "shape")):
        raise ValueError(f"expected {name} as an array [n, …], got {type(images).__name__}")


def check_images(images: Any, max_value: int, name: str = "pixels") -> None:
    """Check that images hold whole numbers 0 … max_value; or, where max_value is 1, any numbers in [0, 1].

    Of images that are being traced, the dtype is checked.

    Raises:
        ValueError: for another dtype, or pixels outside that range or NaN: what was expected and what came.
    """
    max_value = check_count("max_value", max_value, 1)
    check_array(images, name)
    dtype = np.dtype(images.dtype)
    if jnp.issubdtype(dtype, jnp.floating) and max_value != 1:
        raise ValueError(
            f"expected {name} as whole numbers 0 … max_value = {max_value} (uint8), got {dtype}; numbers that are in "
            "[0, 1] already are taken with max_value = 1"
        )
    if dtype.kind not in "bui" and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"expected {name} as whole numbers 0 … max_value = {max_value} (uint8), got {dtype}")
    if dtype.kind in "ui" and np.iinfo(dtype).max < max_value:
        raise ValueError(
            f"expected {name} of at most max_value = {max_value}, got {dtype}, which cannot hold it"
        )
    if (
        not is_concrete(images)
        or images.size == 0
        or (dtype.kind == "u" and np.iinfo(dtype).max <= max_value)
    ):
        return
    array = np.asarray(images)
    array = array.astype(np.uint8) if dtype.kind == "b" else array
    lowest, highest = array.min(), array.max()
    # NaN compares with nothing, and passes through NumPy's reductions.
    if not (lowest >= 0 and highest <= max_value):
        if np.isnan(highest):
            count = int(np.isnan(array.astype(np.float64)).sum())
            raise ValueError(
                f"expected {name} from 0 to max_value = {max_value}, got NaN in {count} of {array.size}"
            )
        at_most = highest if highest > max_value else f"values from {lowest} to {highest}"
        raise ValueError(
            f"expected {name} of at most max_value = {max_value}, got {at_most}"
            if lowest >= 0
            else f"expected {name} from 0 to max_value = {max_value}, got values from {lowest} to {highest}"
        )


def check_spread(images: Any, max_value: int, name: str = "pixels") -> None:
    """Raise ValueError for training images that use next to nothing of 0 … max_value: such as were divided by it
    before, or bits that were given the range of grey values. For concrete images."""
    if np.dtype(images.dtype).kind not in "bui":
        check_range(images, name)
        return
    highest = int(np.asarray(images).max())
    if highest == 0 or (highest == 1 and max_value > 1):
        advice = "bits are taken with max_value = 1" if highest else "were they divided by it before?"
        raise ValueError(
            f"expected {name} that use the range 0 … max_value = {max_value}, got {highest} at most: {advice}"
        )


class Checked:
    """A jitted function whose last argument is images; they are checked when they are new, and not again."""

    def __init__(self, function: Any, max_value: int):
        self._function, self._max_value = function, max_value
        self._checked: Callable[[], Any] = lambda: None

    def __call__(self, *args: Any) -> Any:
        images = args[-1]
        if is_concrete(images) and self._checked() is not images:
            check_images(images, self._max_value)
            self._checked = weakref.ref(images)
        return self._function(*args)

    def lower(self, *args: Any) -> Any:
        """As of any jitted function: for its cost and its memory."""
        return self._function.lower(*args)


def make_epoch(
    bound: Bound, optimizer: optax.GradientTransformation, options: Options, max_value: int, binarize: bool
) -> Callable[[TrainState, Shaped[Array, "n ..."]], tuple[TrainState, StepMetrics]]:
    """The jitted epoch `(state, images) -> (state, metrics [num_batches])`: shuffles, binarizes anew and takes a step
    for every whole batch, all on the device.

    It ends early once max_bad_steps in a row, or more than the share of its steps that `options` allows, could not be
    taken. Images are checked when they are new.
    """
    take_step = _make_step(bound, optimizer, options, max_value, binarize)

    @jax.jit
    def epoch(state: TrainState, images: Array) -> tuple[TrainState, StepMetrics]:
        num_batches = len(images) // options.batch_size
        limit, _ = options.max_skipped(num_batches)
        epoch_key = jax.random.fold_in(
            jax.random.wrap_key_data(state.rng_key, impl="threefry2x32"), state.epoch
        )
        order_key, steps_key = jax.random.split(epoch_key)
        order = jax.random.permutation(order_key, len(images))[: num_batches * options.batch_size]
        piece = max(n for n in range(1, MAX_PIECE + 1) if num_batches % n == 0)
        shape = num_batches // piece, piece
        keys = jax.random.split(steps_key, num_batches).reshape(shape)
        batches = order.reshape(*shape, options.batch_size)
        first_skipped = state.num_skipped

        def is_going_on(carry: tuple) -> Bool[Array, ""]:
            index, state, _ = carry
            is_bad = (state.bad_run >= options.max_bad_steps) | (state.num_skipped - first_skipped > limit)
            return (index < shape[0]) & ~is_bad

        def take_steps(carry: tuple) -> tuple:
            index, before, metrics = carry
            state, new = lax.scan(
                lambda state, inputs: take_step(state, images, *inputs), before, (batches[index], keys[index])
            )
            state, new = _undo_overflow(before, state, new)
            return index + 1, state, jax.tree.map(lambda whole, own: whole.at[index].set(own), metrics, new)

        nothing = jnp.full(shape, jnp.nan, jnp.float32)
        metrics = StepMetrics(nothing, nothing, nothing, nothing, jnp.zeros(shape, bool))
        _, state, metrics = lax.while_loop(is_going_on, take_steps, (0, state, metrics))
        metrics = jax.tree.map(lambda values: values.reshape(num_batches), metrics)
        return state._replace(epoch=state.epoch + 1), metrics

    return Checked(epoch, max_value)


def _make_step(
    bound: Bound, optimizer: optax.GradientTransformation, options: Options, max_value: int, binarize: bool
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """One step on the images of `indices`; not taken where its loss or gradient is not finite."""

    def loss_fn(params: PyTree, rng_key: PRNGKey, x: Array, kl_weight: Array):
        keys = jax.random.split(rng_key, x.shape[0])
        log_weights, info = jax.vmap(bound, (None, 0, 0, None))(params, keys, x, kl_weight)
        return -jnp.mean(log_weights), info

    def take_step(
        state: TrainState, images: Array, indices: Array, key: PRNGKey
    ) -> tuple[TrainState, StepMetrics]:
        warmup = max(1, options.kl_warmup_epochs * (len(images) // options.batch_size))
        pixel_key, draw_key = jax.random.split(key)
        x = prepare(pixel_key, images[indices], max_value, binarize)
        kl_weight = jnp.minimum(1.0, (state.step + 1) / warmup).astype(x.dtype)
        (loss, info), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, draw_key, x, kl_weight)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        new = (optax.apply_updates(state.params, updates), opt_state)
        is_taken = jnp.isfinite(loss) & jnp.isfinite(norm)
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
        metrics = StepMetrics(full, norm, jnp.mean(info.energy_error), unconverged, is_taken)
        return state, jax.tree.map(lambda v: v if v.dtype == bool else v.astype(jnp.float32), metrics)

    return take_step


def _undo_overflow(
    before: TrainState, after: TrainState, metrics: StepMetrics
) -> tuple[TrainState, StepMetrics]:
    """The steps between two states undone, and counted as skipped, if they have left parameters that are not finite.

    Asked once for several steps: in each of them it would be one more pass over the parameters, and would change how
    XLA fuses the optimizer's own.
    """
    num_steps = len(metrics.is_taken)
    undone = before._replace(
        step=after.step, num_skipped=before.num_skipped + num_steps, bad_run=before.bad_run + num_steps
    )
    is_fine = all_finite(*jax.tree.leaves(after.params))
    kept = jax.tree.map(lambda a, b: jnp.where(is_fine, a, b), after, undone)
    return kept, metrics._replace(is_taken=metrics.is_taken & is_fine)


def make_monitor(
    bound: Bound, max_value: int, binarize: bool, batch_size: int = 200
) -> Callable[[PyTree, PRNGKey, Shaped[Array, "n ..."]], Float[Array, ""]]:
    """Jitted mean bound over images, one draw each. The same key gives the same bits and draws every time, so that
    two epochs are compared on equal terms.

    Raises:
        ValueError: unless batch_size ≥ 1.
    """
    batch_size = check_count("batch_size", batch_size, 1)

    @jax.jit
    def monitor(params: PyTree, rng_key: PRNGKey, images: Array) -> Float[Array, ""]:
        pixel_key, draw_key = jax.random.split(rng_key)
        x = prepare(pixel_key, images, max_value, binarize)
        keys = jax.random.split(draw_key, len(images))
        log_weights = lax.map(lambda inputs: bound(params, *inputs)[0], (keys, x), batch_size=batch_size)
        return jnp.mean(log_weights)

    return Checked(monitor, max_value)
