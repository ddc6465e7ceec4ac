"""A run of chains from its start, or from where it was left, to its samples."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from hmcvae._checks import is_concrete
from hmcvae._sharding import move_to, place
from hmcvae.samplers import adaptation as adapt
from hmcvae.samplers.bars import Bar
from hmcvae.samplers.draws import Adaptation, Samples, TransitionCounts
from hmcvae.samplers.health import FEWEST_TO_BE_STUCK
from hmcvae.samplers.pieces import SAVED, SHOWN, Piece, capacity, in_pieces
from hmcvae.samplers.programs import Programs, drawing_programs, tuning_programs, zero_counts
from hmcvae.samplers.run_folder import RunFolder
from hmcvae.types import Metric, PRNGKey, PyTree

# Warm-up schedules are padded to whole multiples of so many, so that their length compiles nothing anew.
SCHEDULE_ROWS = 1024
# What is folded into a stage's key in place of the number of a chain.
COMMON = 2**32 - 1


class Plan(NamedTuple):
    """What `sample` was asked for, checked; around: the mesh that positions lie on, if they came on one."""

    num_samples: int
    num_warmup: int
    target: Any
    mass: adapt.Mass
    thin: int
    record: Callable | None
    progress: bool
    mesh: Mesh | None
    around: Mesh | None


class Moving(NamedTuple):
    """How the chains go on: keys of the chains and of what they share, `common` as in `SamplingAlgorithm`."""

    transition: Callable
    common: Callable | None
    chain_keys: Array
    common_key: Array

    @property
    def keys(self) -> tuple[Array, Array]:
        return self.chain_keys, self.common_key

    def programs(self, parameters: tuple, plan: Plan) -> tuple[Programs, PyTree]:
        """Those that draw, and the parameters in the form that they take."""
        return drawing_programs(self.transition, parameters, plan.record, plan.mesh, self.common)


class Tuned(NamedTuple):
    """Where the chains stand after warm-up, what they draw with, and the warm-up's counts."""

    states: Any
    parameters: tuple
    warmup: TransitionCounts
    is_adapted: Any
    has_moved: Any = None


@partial(jax.jit, static_argnums=2)
def chain_keys(rng_key: PRNGKey, stage: Any, num_chains: int) -> Array:
    """One key for each chain, from which those of its transitions are made; by stage: warm-up, draws, init."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(rng_key, stage), jnp.arange(num_chains))


@jax.jit
def _common_key(rng_key: PRNGKey, stage: Any) -> Array:
    """Of what all the chains share; the number of no chain."""
    return jax.random.fold_in(jax.random.fold_in(rng_key, stage), COMMON)


def run_chains(
    rng_key: PRNGKey,
    algorithm: Any,
    states: Any,
    plan: Plan,
    folder: RunFolder | None,
) -> Samples:
    """The samples of chains that stand at `states`."""
    num_chains = jax.tree.leaves(states)[0].shape[0]
    keys = [(chain_keys(rng_key, stage, num_chains), _common_key(rng_key, stage)) for stage in range(2)]
    transition, parameters, common = algorithm.step, (), None
    if hasattr(algorithm, "kernel"):
        transition, parameters = algorithm.kernel, (algorithm.step_size, algorithm.metric)
        common = getattr(algorithm, "common", None)
    if plan.around is not None:
        parameters = move_to(parameters, plan.around)
    if plan.mesh is not None:
        spread, whole = PartitionSpec(plan.mesh.axis_names), PartitionSpec()
        keys = [(place(own, plan.mesh, spread), place(one, plan.mesh, whole)) for own, one in keys]
    warming, drawing = (Moving(transition, common, own, one) for own, one in keys)
    if plan.record is not None or folder is not None:  # what is wrong with it is told before the warm-up
        programs, arrays = drawing.programs(parameters, plan)
        record = programs.shapes((*drawing.keys, arrays), states)
        _check_record(record)
        if folder is not None:
            folder.describe(record)
    tuned = Tuned(states, parameters, zero_counts(), None)
    if plan.num_warmup and parameters:
        tuned = _tune(warming, tuned, plan, folder)
    elif plan.num_warmup:
        tuned = _throw_away(warming, tuned, plan, folder)
    return _draw(drawing, tuned, plan, folder)


def _tune(moving: Moving, begin: Tuned, plan: Plan, folder: RunFolder | None) -> Tuned:
    """The warm-up, or what is left of it."""
    step_size, metric = begin.parameters
    programs, arrays = tuning_programs(moving.transition, plan.mass, metric, plan.mesh, moving.common)
    schedule = _padded(adapt.window_schedule if plan.mass else adapt.step_size_schedule, plan.num_warmup)
    factor, units = _one_number(step_size)
    inputs = (*moving.keys, schedule, np.int32(plan.num_warmup), jnp.asarray(plan.target), units)
    carry = (begin.states, programs.begin(begin.states, factor, arrays))

    def as_tuned(carry: tuple, counts: TransitionCounts) -> Tuned:
        states, learned = carry
        tuned = _tuned_step_size(
            learned.step_size.log_step_size_average,
            units,
            learned.is_working,
            learned.has_moved,
            plan.num_warmup < FEWEST_TO_BE_STUCK,
            step_size,
        )
        found: Metric = (
            learned.metric if plan.mass else jax.tree.unflatten(programs.structure, learned.metric)
        )
        return Tuned(states, (tuned, found), counts, learned.is_adapted, learned.has_moved)

    if folder is not None and folder.stage == "draws":
        return folder.restored(as_tuned(carry, zero_counts()))
    run = partial(_of_run(programs.run), inputs=inputs)
    carry, counts = _warm_up(run, carry, plan, folder)
    (_, learned), _, _ = run(carry, None, zero_counts(), plan.num_warmup, plan.num_warmup + 1)
    return as_tuned((carry[0], learned), counts)


@jax.jit
def _tuned_step_size(
    log_step_size: Array, units: Any, is_working: Any, has_moved: Any, is_short: Any, step_size: Any
) -> Array:
    """What warm-up has found. Where no step size was accepted, not even a tiny one, there is nothing better than the
    one that was given. Accepted without a move is what steps below the rounding of the positions are."""
    tuned = jnp.exp(log_step_size)
    tuned = tuned if units is None else tuned * units.astype(tuned.dtype)
    return jnp.where(is_working & (has_moved | is_short), tuned, jnp.asarray(step_size, tuned.dtype))


def _one_number(step_size: Any) -> tuple[Any, Any]:
    """(what is tuned, what it is multiplied by): the geometric mean of a vector of step sizes, and the vector in units
    of that; None for a number."""
    if not jnp.ndim(step_size):
        return step_size, None
    logarithms = jnp.log(jnp.asarray(step_size))
    mean = jnp.mean(logarithms)
    return jnp.exp(mean), jnp.exp(logarithms - mean)


def _warm_up(
    run: Callable, state: Any, plan: Plan, folder: RunFolder | None, **options: Any
) -> tuple[Any, TransitionCounts]:
    """The warm-up's transitions, or those that are left, shown and saved; options: of `in_pieces`."""
    start, counts = 0, zero_counts()
    if folder is not None:
        start, (state, counts) = folder.begun("warm-up", (state, counts))
    with Bar(plan.progress, "warm-up", plan.num_warmup, start) as bar:

        def after(piece: Piece) -> None:
            bar.show(piece.stop, piece.counts)
            if folder is not None:
                folder.save("warm-up", piece.stop, (piece.state, piece.counts))

        return in_pieces(
            run,
            state,
            plan.num_warmup,
            start=start,
            counts=counts,
            seconds=_seconds(plan, folder),
            after=after,
            **options,
        )


def _throw_away(moving: Moving, begin: Tuned, plan: Plan, folder: RunFolder | None) -> Tuned:
    """Warm-up draws of an algorithm that has nothing to tune."""
    # The same program as of the draws, so that it is compiled once.
    programs, arrays = moving.programs(begin.parameters, plan)
    inputs = (*moving.keys, arrays)
    is_whole = not is_concrete((inputs, begin.states))
    most = plan.num_warmup if is_whole else capacity(programs.shapes(inputs, begin.states))
    if folder is not None and folder.stage == "draws":
        return folder.restored(begin)
    state, counts = _warm_up(
        partial(_of_run(programs.run), inputs=inputs),
        begin.states,
        plan,
        folder,
        allocate=lambda: programs.allocate(inputs, begin.states, most),
        most=most,
    )
    return begin._replace(states=state, warmup=counts)


def _draw(moving: Moving, tuned: Tuned, plan: Plan, folder: RunFolder | None) -> Samples:
    programs, arrays = moving.programs(tuned.parameters, plan)
    inputs = (*moving.keys, arrays)
    record = programs.shapes(inputs, tuned.states)
    is_whole = not is_concrete((inputs, tuned.states))
    most = plan.num_samples if is_whole else capacity(record)
    start, states, counts = 0, tuned.states, zero_counts()
    taken: list[Piece] = []
    kept: list[PyTree] = []
    if folder is not None:
        if folder.stage == "draws":
            start, (tuned, counts) = folder.begun("draws", (tuned, counts))
            states = tuned.states
        else:
            folder.save("draws", 0, (tuned, counts))
    with Bar(plan.progress, "sampling", plan.num_samples, start) as bar:

        def after(piece: Piece) -> None:
            if is_whole:
                taken.append(piece)
                return
            bar.show(piece.stop, piece.counts)
            if folder is None:
                taken[:] = [piece]  # for where its draws lie
                kept.append(piece.taken())
            else:
                folder.append(piece.taken(), piece.start)
                folder.save("draws", piece.stop, (tuned._replace(states=piece.state), piece.counts))

        states, counts = in_pieces(
            partial(_of_run(programs.run), inputs=inputs, thin=plan.thin),
            states,
            plan.num_samples,
            start=start,
            counts=counts,
            allocate=lambda: programs.allocate(inputs, tuned.states, most),
            most=most,
            seconds=_seconds(plan, folder),
            after=after,
        )
    if is_whole:
        draws = taken[0].draws
    elif folder is None:
        draws = jax.tree.map(_joined, taken[0].draws, *kept)
    else:
        draws = folder.draws(record, plan.num_samples)
    position, logdensity, info = draws
    step_size, metric = tuned.parameters or (None, None)
    adaptation = Adaptation(step_size, metric, tuned.warmup, tuned.is_adapted, tuned.has_moved)
    return Samples(position, logdensity, info, counts, adaptation, states.position)


def _check_record(record: PyTree) -> None:
    for leaf in jax.tree.leaves(record):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(
                "record must return arrays of numbers, got random keys: jax.random.key_data makes numbers"
            )


def _of_run(run: Callable) -> Callable:
    def call(
        state: Any, draws: PyTree, counts: Any, start: int, stop: int, inputs: tuple, thin: int = 1
    ) -> tuple:
        return run(state, draws, counts, np.int32(start), np.int32(stop), np.int32(thin), inputs)

    return call


def _seconds(plan: Plan, folder: Any) -> float | None:
    # A save waits for the disk: a bar does not make it more frequent.
    return SAVED if folder is not None else SHOWN if plan.progress else None


def _padded(make: Callable[[int], adapt.Schedule], num_warmup: int) -> adapt.Schedule:
    rows = -(-(num_warmup + 1) // SCHEDULE_ROWS) * SCHEDULE_ROWS
    return jax.tree.map(lambda flag: np.pad(flag, (0, rows - num_warmup)), make(num_warmup))


def _joined(like: Array, *parts: np.ndarray) -> Array:
    """All the draws as one array of JAX, on the devices that the pieces were on."""
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return jax.device_put(whole, like.sharding if isinstance(like.sharding, NamedSharding) else None)
