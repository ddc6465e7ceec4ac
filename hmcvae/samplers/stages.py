"""What a run of chains is made of: its plan, how the chains go on, its warm-up and its draws."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from hmcvae._checks import is_concrete
from hmcvae.samplers import adaptation as adapt
from hmcvae.samplers.draws import TransitionCounts
from hmcvae.samplers.health import FEWEST_TO_BE_STUCK
from hmcvae.samplers.pieces import capacity
from hmcvae.samplers.programs import drawing_programs, tuning_programs, zero_counts
from hmcvae.samplers.whole_run import Inputs, WholeRun, whole_run
from hmcvae.types import PRNGKey, PyTree

# What is folded into a stage's key in place of the number of a chain.
COMMON = 2**32 - 1
# Warm-up schedules are padded to whole multiples of so many, so that their length compiles nothing anew.
SCHEDULE_ROWS = 1024


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
    """How the chains go on: keys of the chains and of what they share, `common` as in `SamplingAlgorithm`.

    data: what the transition takes after its parameters, if the density carries any along.
    """

    transition: Callable
    common: Callable | None
    data: tuple
    chain_keys: Array
    common_key: Array | None

    @property
    def keys(self) -> tuple[Array, Array | None]:
        return self.chain_keys, self.common_key

    def drawing(self, tuned: "Tuned", plan: Plan) -> "Drawing":
        """By a program that draws and does nothing else."""
        parameters = (*tuned.parameters, *self.data)
        programs, arrays = drawing_programs(self.transition, parameters, plan.record, plan.mesh, self.common)
        inputs = (*self.keys, arrays)
        return Drawing(
            programs.shapes(inputs, tuned.states),
            not is_concrete((inputs, tuned.states)),
            partial(programs.allocate, inputs, tuned.states),
            partial(_of_run(programs.run), inputs=inputs),
        )


class Drawing(NamedTuple):
    """record: what a draw of all the chains is made of, abstract.  is_traced: whether anything of it is.
    allocate: num_draws -> an empty record of so many.
    run: `(states, draws, counts, start, stop, thin=1) -> (states, draws, counts)`."""

    record: PyTree
    is_traced: bool
    allocate: Callable
    run: Callable


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
def common_key_of(rng_key: PRNGKey, stage: Any) -> Array:
    """Of what all the chains share; the number of no chain."""
    return jax.random.fold_in(jax.random.fold_in(rng_key, stage), COMMON)


class Stages(NamedTuple):
    """The warm-up of chains, and the draws that follow it.

    learned: where the warm-up begins.
    run: of the warm-up, as `in_pieces` calls it; its state is (the chains' states, what has been learned).
    allocate: () -> the record that `run` needs, None if it needs none.
    as_tuned: `(state, counts) -> Tuned`.
    drawing: `Tuned -> Drawing`.
    """

    learned: Any
    run: Callable
    allocate: Callable | None
    as_tuned: Callable
    drawing: Callable


def stages_of(warming: Moving, drawing: Moving, begin: Tuned, plan: Plan) -> Stages:
    """As one program; on a mesh as two, since each device draws by itself and all of them warm up together."""
    step_size, metric = begin.parameters
    whole = None
    if plan.mesh is None:
        whole, arrays = whole_run(warming.transition, plan.mass, metric, plan.record, warming.common)
        tuning = whole.tuning
    else:
        tuning, arrays = tuning_programs(warming.transition, plan.mass, metric, plan.mesh, warming.common)
    factor, units = _one_number(step_size)
    learned = tuning.begin(begin.states, factor, arrays)
    schedule = _padded(adapt.window_schedule if plan.mass else adapt.step_size_schedule, plan.num_warmup)
    task = (schedule, np.int32(plan.num_warmup), jnp.asarray(plan.target), units, warming.data)

    def as_tuned(state: tuple, counts: TransitionCounts) -> Tuned:
        states, learned = state
        found = learned.step_size.log_step_size_average, units, learned.is_working, learned.has_moved
        tuned = _tuned_step_size(*found, plan.num_warmup < FEWEST_TO_BE_STUCK, step_size)
        return Tuned(
            states, (tuned, tuning.metric_of(learned)), counts, learned.is_adapted, learned.has_moved
        )

    if whole is None:
        run = partial(_of_run(tuning.run), inputs=(*warming.keys, *task))
        return Stages(learned, run, None, as_tuned, lambda tuned: drawing.drawing(tuned, plan))
    # A warm-up makes no use of the draws' step size, which must have its shape and dtype all the same.
    unused = as_tuned((begin.states, learned), zero_counts()).parameters[0]
    inputs = Inputs(*warming.keys, *task, unused, np.bool_(False))
    return _as_one(whole, inputs, begin.states, learned, drawing, as_tuned)


def _as_one(
    whole: WholeRun, inputs: Inputs, states: Any, learned: Any, drawing: Moving, as_tuned: Callable
) -> Stages:
    programs, state = whole.drawing, (states, learned)
    run, allocate = _of_run(programs.run), partial(programs.allocate, inputs, state)
    most = capacity(programs.shapes(inputs, state)) if is_concrete((inputs, state)) else 1

    def draw(tuned: Tuned) -> Drawing:
        step_size, metric = tuned.parameters
        own = inputs._replace(
            chain_keys=drawing.chain_keys,
            common_key=drawing.common_key,
            step_size=jnp.asarray(step_size, inputs.step_size.dtype),
            is_drawing=np.bool_(True),
        )
        found = whole.tuning.with_metric(learned, metric)

        def run_draws(states: Any, *others: Any, **options: Any) -> tuple:
            (states, _), draws, counts = run((states, found), *others, inputs=own, **options)
            return states, draws, counts

        is_traced = not is_concrete((own, tuned.states, found))
        return Drawing(programs.shapes(own, (tuned.states, found)), is_traced, allocate, run_draws)

    return Stages(learned, partial(run, inputs=inputs), partial(allocate, most), as_tuned, draw)


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


def _padded(make: Callable[[int], adapt.Schedule], num_warmup: int) -> adapt.Schedule:
    rows = -(-(num_warmup + 1) // SCHEDULE_ROWS) * SCHEDULE_ROWS
    return jax.tree.map(lambda flag: np.pad(flag, (0, rows - num_warmup)), make(num_warmup))


def _of_run(run: Callable) -> Callable:
    def call(
        state: Any, draws: PyTree, counts: Any, start: int, stop: int, inputs: tuple, thin: int = 1
    ) -> tuple:
        return run(state, draws, counts, np.int32(start), np.int32(stop), np.int32(thin), inputs)

    return call
