"""What a training run carries from epoch to epoch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from hmcvae._numerics import all_finite
from hmcvae._random import stream
from hmcvae.types import PyTree


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


def init_state(params: PyTree, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first epoch."""
    # Weakly typed leaves would come back strong from the first epoch, and compile it a second time.
    params = jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.asarray(leaf).dtype), params)
    zero = jnp.zeros((), jnp.int32)
    key = jax.random.key_data(stream(seed, "epochs"))
    lowest = jnp.full((), -jnp.inf, jnp.float32)
    return TrainState(params, optimizer.init(params), key, zero, zero, zero, zero, zero, lowest, zero)


def undo_overflow(
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
