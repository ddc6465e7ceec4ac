"""One training step, and an epoch of them: one program on the device.

    loss = -mean over the batch of E[log_weight],   one draw (or K) an example a step

An epoch ends early where the run has gone bad, so that hours of steps that are all skipped are not waited for.
"""

import math
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Key

from hmcvae._checks import check_count, is_concrete
from hmcvae._sharding import map_examples
from hmcvae.bounds import Bound
from hmcvae.training.devices import Devices
from hmcvae.training.inputs import Preprocess, check_examples, keep_as_is, preprocess_all
from hmcvae.training.settings import Settings
from hmcvae.training.state import StepMetrics, TrainState, undo_overflow
from hmcvae.types import PRNGKey, PyTree
from hmcvae.vae import num_examples

ONE_DEVICE = Devices()
# Whether a run has gone bad is looked at after so many steps at most: a loop whose end depends on the data waits for
# the device at each of its passes. What such a piece has left is undone if parameters are not finite.
MAX_PIECE = 16


class Checked:
    """A jitted function whose last argument is a pytree of examples; they are checked when they are new, and not
    again."""

    def __init__(self, function: Any, preprocess: Preprocess):
        self._function, self._preprocess = function, preprocess
        self._checked: list[Callable[[], Any]] = []

    def __call__(self, *args: Any) -> Any:
        leaves = jax.tree.leaves(args[-1])
        is_known = len(leaves) == len(self._checked) and all(
            known() is leaf for known, leaf in zip(self._checked, leaves, strict=True)
        )
        if all(map(is_concrete, leaves)) and not is_known:
            check_examples(args[-1], self._preprocess, "training")
            self._checked = [weakref.ref(leaf) for leaf in leaves]
        return self._function(*args)

    def lower(self, *args: Any) -> Any:
        """As of any jitted function: for its cost and its memory."""
        return self._function.lower(*args)


def epoch_keys(state: TrainState, num_batches: int) -> tuple[PRNGKey, Key[Array, " n"]]:
    """(key of the order, keys of the steps [num_batches]) of a state's next epoch."""
    epoch_key = jax.random.fold_in(jax.random.wrap_key_data(state.rng_key, impl="threefry2x32"), state.epoch)
    order_key, steps_key = jax.random.split(epoch_key)
    return order_key, jax.random.split(steps_key, num_batches)


def make_epoch(
    bound: Bound,
    optimizer: optax.GradientTransformation,
    settings: Settings,
    preprocess: Preprocess = keep_as_is,
    devices: Devices = ONE_DEVICE,
) -> Callable[[TrainState, PyTree], tuple[TrainState, StepMetrics]]:
    """The jitted epoch `(state, examples [n, …]) -> (state, metrics [num_batches])`: shuffles, preprocesses anew and
    takes a step for every whole batch, all on the device.

    It ends early once max_bad_steps in a row, or more than the share of its steps that `settings` allow, could not be
    taken. Examples are checked when they are new.
    """
    run = _make_run(bound, optimizer, settings, preprocess, devices)

    @jax.jit
    def epoch(state: TrainState, examples: PyTree) -> tuple[TrainState, StepMetrics]:
        num_batches = num_examples(examples) // settings.batch_size
        state, metrics, _, _ = run(state, no_metrics((num_batches,)), 0, num_batches, examples)
        return state, metrics

    return Checked(epoch, preprocess)


def make_part(
    bound: Bound,
    optimizer: optax.GradientTransformation,
    settings: Settings,
    preprocess: Preprocess = keep_as_is,
    devices: Devices = ONE_DEVICE,
) -> Callable[..., tuple[TrainState, StepMetrics, Array, Array]]:
    """A part of `make_epoch`, jitted: `(state, metrics [num_batches], begin, end, examples)`, the steps `begin` to
    about `end` of the state's epoch, `-> (state, metrics, end, is_over)`. The epochs that they make up are the same."""
    return Checked(jax.jit(_make_run(bound, optimizer, settings, preprocess, devices)), preprocess)


def _make_run(
    bound: Bound,
    optimizer: optax.GradientTransformation,
    settings: Settings,
    preprocess: Preprocess,
    devices: Devices,
) -> Callable[..., tuple[TrainState, StepMetrics, Any, Any]]:
    take_step = make_step(bound, optimizer, settings, preprocess, devices)

    def run(state: TrainState, metrics: StepMetrics, begin: Any, end: Any, examples: PyTree) -> tuple:
        count = num_examples(examples)
        num_batches = count // settings.batch_size
        limit, _ = settings.max_skipped(num_batches)
        order_key, step_keys = epoch_keys(state, num_batches)
        order = jax.random.permutation(order_key, count)[: num_batches * settings.batch_size]
        piece = max(n for n in range(1, MAX_PIECE + 1) if num_batches % n == 0)
        shape = num_batches // piece, piece
        keys, batches = step_keys.reshape(shape), order.reshape(*shape, settings.batch_size)
        # Of this epoch: those of the steps before `begin` are in the metrics.
        first_skipped = state.num_skipped - (begin - jnp.sum(metrics.is_taken))
        last = jnp.minimum((end + piece - 1) // piece, shape[0])

        def is_bad(state: TrainState) -> Bool[Array, ""]:
            return (state.bad_run >= settings.max_bad_steps) | (state.num_skipped - first_skipped > limit)

        def is_going_on(carry: tuple) -> Bool[Array, ""]:
            index, state, _ = carry
            return (index < last) & ~is_bad(state)

        def take_one(state: TrainState, inputs: tuple) -> tuple[TrainState, StepMetrics]:
            indices, key = inputs
            batch = jax.tree.map(lambda leaf: leaf[indices], examples)
            return take_step(state, batch, key, num_batches)

        def take_steps(carry: tuple) -> tuple:
            index, before, metrics = carry
            state, new = lax.scan(take_one, before, (batches[index], keys[index]))
            state, new = undo_overflow(before, state, new)
            return index + 1, state, jax.tree.map(lambda whole, own: whole.at[index].set(own), metrics, new)

        metrics = jax.tree.map(lambda values: values.reshape(shape), metrics)
        start = jnp.asarray(begin // piece, jnp.int32)
        index, state, metrics = lax.while_loop(is_going_on, take_steps, (start, state, metrics))
        metrics = jax.tree.map(lambda values: values.reshape(num_batches), metrics)
        is_over = (index == shape[0]) | is_bad(state)
        state = state._replace(epoch=state.epoch + is_over.astype(state.epoch.dtype))
        return state, metrics, index * piece, is_over

    return run


def no_metrics(shape: tuple[int, ...]) -> StepMetrics:
    """Of steps that were not taken."""
    nothing = jnp.full(shape, jnp.nan, jnp.float32)
    return StepMetrics(nothing, nothing, nothing, nothing, jnp.zeros(shape, bool))


def make_step(
    bound: Bound,
    optimizer: optax.GradientTransformation,
    settings: Settings,
    preprocess: Preprocess = keep_as_is,
    devices: Devices = ONE_DEVICE,
) -> Callable[[TrainState, PyTree, PRNGKey, int], tuple[TrainState, StepMetrics]]:
    """One step `(state, batch [b, …], rng_key, num_batches) -> (state, metrics)`, to be jitted; not taken where its
    loss or gradient is not finite. num_batches: of an epoch, for the warm-up."""
    clip = optax.clip_by_global_norm(settings.clip_norm) if settings.clip_norm else optax.identity()
    clip_state = clip.init({})

    average = devices.averaged(_make_of_batch(bound, preprocess))

    def take_step(
        state: TrainState, batch: PyTree, rng_key: PRNGKey, num_batches: int
    ) -> tuple[TrainState, StepMetrics]:
        warmup = max(1, settings.kl_warmup_epochs * num_batches)
        data_key, draw_key = jax.random.split(rng_key)
        data_keys, draw_keys = (jax.random.split(key, num_examples(batch)) for key in (data_key, draw_key))
        dtype = jnp.result_type(*(leaf for leaf in jax.tree.leaves(state.params)))
        kl_weight = jnp.minimum(1.0, (state.step + 1) / warmup).astype(dtype)
        loss, grads, figures = average(state.params, kl_weight, batch, data_keys, draw_keys)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)))
        clipped, _ = clip.update(grads, clip_state)
        updates, opt_state = optimizer.update(clipped, state.opt_state, state.params)
        new = (optax.apply_updates(state.params, updates), opt_state)
        is_taken = jnp.isfinite(loss) & jnp.isfinite(norm)
        # A select, not a branch: XLA fuses it into the optimizer's own elementwise pass.
        kept = jax.tree.map(lambda a, b: jnp.where(is_taken, a, b), new, (state.params, state.opt_state))
        kept = devices.keep_state(kept)
        skipped = 1 - is_taken.astype(jnp.int32)
        was_clipped = (norm > settings.clip_norm) & (settings.clip_norm > 0) & is_taken
        state = state._replace(
            params=kept[0],
            opt_state=kept[1],
            step=state.step + 1,
            num_skipped=state.num_skipped + skipped,
            bad_run=(state.bad_run + 1) * skipped,
            num_clipped=state.num_clipped + was_clipped.astype(jnp.int32),
        )
        full, energy_error, unconverged = figures
        metrics = StepMetrics(full, norm, energy_error, unconverged, is_taken)
        return state, jax.tree.map(lambda v: v if v.dtype == bool else v.astype(jnp.float32), metrics)

    return take_step


def _make_of_batch(bound: Bound, preprocess: Preprocess) -> Callable[..., tuple]:
    """The loss of a batch, or of a device's part of it, its gradients and its figures."""

    def loss_fn(params: PyTree, keys: Key[Array, " b"], xs: PyTree, kl_weight: Array):
        log_weights, info = jax.vmap(bound, (None, 0, 0, None))(params, keys, xs, kl_weight)
        return -jnp.mean(log_weights), info

    def of_batch(params: PyTree, kl_weight: Array, batch: PyTree, data_keys: Any, draw_keys: Any) -> tuple:
        """(loss, gradients, (bound, energy error, share of solves that did not converge))."""
        xs = jax.vmap(preprocess)(data_keys, batch)
        (loss, info), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, draw_keys, xs, kl_weight)
        # The bound itself, whatever weight the loss gave to its parts during warm-up.
        parts = info.log_likelihood + (info.log_weight - info.log_likelihood) / kl_weight
        count = num_examples(xs)
        full = jnp.mean(jax.nn.logsumexp(parts.reshape(count, -1), axis=1)) - math.log(parts.size // count)
        unconverged = jnp.mean((~info.solver.converged).astype(jnp.float32))
        return loss, grads, (full, jnp.mean(info.energy_error), unconverged)

    return of_batch


def make_monitor(
    bound: Bound, preprocess: Preprocess = keep_as_is, batch_size: int = 200, devices: Devices = ONE_DEVICE
) -> Callable[[PyTree, PRNGKey, PyTree], Float[Array, ""]]:
    """Jitted mean bound over examples, one draw each, batch_size at a time on every device. The same key gives the same
    data and draws every time, so that two epochs are compared on equal terms.

    Raises:
        ValueError: unless batch_size ≥ 1.
    """
    batch_size = check_count("batch_size", batch_size, 1)

    @jax.jit
    def monitor(params: PyTree, rng_key: PRNGKey, examples: PyTree) -> Float[Array, ""]:
        data_key, draw_key = jax.random.split(rng_key)
        xs = preprocess_all(preprocess, data_key, examples)
        keys = jax.random.split(draw_key, num_examples(examples))
        log_weights = map_examples(
            lambda params, inputs: bound(params, *inputs)[0],
            params,
            (keys, xs),
            batch_size=batch_size,
            mesh=devices.mesh,
        )
        return jnp.mean(log_weights)

    return Checked(monitor, preprocess)
