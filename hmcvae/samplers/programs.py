"""The compiled programs of a run, kept with the functions that they are made of."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from hmcvae._checks import is_concrete
from hmcvae._sharding import vary_as
from hmcvae.samplers import adaptation as adapt
from hmcvae.samplers.data import opened
from hmcvae.samplers.draws import TransitionCounts, add_counts
from hmcvae.samplers.keeping import kept
from hmcvae.types import Metric, PyTree


def initialiser(init: Callable) -> Callable:
    """`(positions, rng_keys) -> states` of all the chains."""
    function, data = opened(init)
    in_axes = (0, 0) + (None,) * len(data)
    program = kept(function, "init", lambda function: jax.jit(jax.vmap(function, in_axes)))
    return lambda positions, rng_keys: program(positions, rng_keys, *data)


class Programs(NamedTuple):
    """shapes: `(inputs, states) -> one draw's record`, abstract.  allocate: `(inputs, states, num_draws)` -> an empty
    record of so many.  run: see `_looped`."""

    shapes: Callable
    allocate: Callable
    run: Callable


def drawing_programs(
    transition: Callable,
    parameters: tuple,
    record: Callable | None,
    mesh: Mesh | None,
    common: Callable | None = None,
) -> tuple[Programs, PyTree]:
    """The functions that draw with one transition `(rng_key, state, *parameters) -> (state, info)`, and the parameters
    in the form that they take.

    That form is their arrays alone. A metric may have functions among its static parts, and JAX keeps the structure of
    the arguments of every jitted function for good.

    Args:
        record: what is kept of a chain's state; None: its position.
        mesh: of devices of which each runs its own chains.
        common: `rng_key -> x`, drawn once for all the chains of a transition, which takes x as its last argument.
    """
    arrays, structure = jax.tree.flatten(parameters)
    make = partial(_drawing_programs, structure, record, mesh, common)
    return kept(transition, ("draw", structure, record, mesh, common), make), arrays


def _drawing_programs(
    structure: Any,
    record: Callable | None,
    mesh: Mesh | None,
    common: Callable | None,
    transition: Callable,
) -> Programs:
    def advance(inputs: tuple, states: Any, index: Any) -> tuple[Any, Any]:
        chain_keys, common_key, arrays = inputs
        parameters = (*jax.tree.unflatten(structure, arrays), *drawn_once(common, common_key, index))
        keys = adapt.transition_keys(chain_keys, index)
        return jax.vmap(transition, (0, 0) + (None,) * len(parameters))(keys, states, *parameters)

    return Programs(*recorder(advance, record), _looped(advance, record, mesh))


def recorder(advance: Callable, record: Callable | None) -> tuple[Callable, Callable]:
    """shapes and allocate, as in `Programs`, of a transition `(inputs, state, index) -> (states, info)`."""
    known: dict = {}  # a function under jit would be traced once as well, and keep what the density closes over

    def shapes(inputs: tuple, state: Any) -> PyTree:
        leaves, structure = jax.tree.flatten((inputs, state))
        kinds = structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        if kinds not in known:
            known[kinds] = jax.eval_shape(lambda: record_of(record, *advance(inputs, state, 0)))
        return known[kinds]

    @partial(jax.jit, static_argnums=2)
    def allocate(inputs: tuple, state: Any, num_draws: int) -> PyTree:
        return jax.tree.map(
            lambda a: jnp.zeros((a.shape[0], num_draws, *a.shape[1:]), a.dtype), shapes(inputs, state)
        )

    return shapes, allocate


class Tuning(NamedTuple):
    """begin: `(states, step_size, metric's arrays) -> what has been learned`.  run: see `_looped`; its state is
    (states, what has been learned).  with_metric: `(what has been learned, metric)` -> the same with that metric.
    metric_of: what has been learned -> its metric."""

    begin: Callable
    run: Callable
    with_metric: Callable
    metric_of: Callable


class Packing(NamedTuple):
    """A metric that is kept goes in and out of a program as its arrays alone, as in `drawing_programs`; an adapted one
    has no functions in it."""

    mass: adapt.Mass
    structure: Any

    def pack(self, learned: adapt.AdaptationState) -> adapt.AdaptationState:
        return self.with_metric(learned, learned.metric)

    def with_metric(self, learned: adapt.AdaptationState, metric: Metric) -> adapt.AdaptationState:
        return learned._replace(metric=metric if self.mass else jax.tree.leaves(metric))

    def metric_of(self, learned: adapt.AdaptationState) -> Metric:
        return (
            learned.metric
            if self.mass
            else jax.tree.unflatten(self.structure, jax.tree.leaves(learned.metric))
        )

    def unpack(self, learned: adapt.AdaptationState) -> adapt.AdaptationState:
        return learned._replace(metric=self.metric_of(learned))

    def tuning(self, run: Callable) -> Tuning:
        @jax.jit
        def begin(states: Any, step_size: Any, arrays: PyTree) -> adapt.AdaptationState:
            metric = jax.tree.unflatten(self.structure, arrays)
            position = adapt.ravel_chains(states.position)[0]
            return self.pack(adapt.adaptation_init(step_size, metric, position, self.mass))

        return Tuning(begin, run, self.with_metric, self.metric_of)


def tuning_programs(
    kernel: Callable, mass: adapt.Mass, metric: Metric, mesh: Mesh, common: Callable | None
) -> tuple[Tuning, PyTree]:
    """The warm-up of one kernel by all the devices of a mesh together, and the metric's arrays."""
    arrays, structure = jax.tree.flatten(metric)
    make = partial(_tuning_programs, Packing(mass, structure), mesh, common)
    return kept(kernel, ("tune", mass, structure, mesh, common), make), arrays


def _tuning_programs(packing: Packing, mesh: Mesh, common: Callable | None, kernel: Callable) -> Tuning:
    def pool(values: PyTree) -> PyTree:
        # Every device adds up all the chains, in the order in which one device would.
        return lax.with_sharding_constraint(values, NamedSharding(mesh, PartitionSpec()))

    def advance(inputs: tuple, carry: tuple, index: Any) -> tuple[Any, Any]:
        chain_keys, common_key, schedule, num_warmup, target, units, data = inputs
        states, learned = carry
        keys = adapt.transition_keys(chain_keys, index)
        once = drawn_once(common, common_key, index)

        def move(rng_key: Any, state: Any, step_size: Any, metric: Metric) -> tuple[Any, Any]:
            step_size = step_size if units is None else step_size * units
            return kernel(rng_key, state, step_size, metric, *data, *once)

        # One row more than there are transitions, at least: the look at what they have found.
        settles = index == num_warmup
        flags = jax.tree.map(lambda flag: flag[index], schedule)
        (states, learned), info = adapt.warmup_transition(
            move, keys, states, packing.unpack(learned), flags, target, settles, pool
        )
        return (states, packing.pack(learned)), info

    return packing.tuning(_looped(advance))


def _looped(advance: Callable, record: Callable | None = None, mesh: Mesh | None = None) -> Callable:
    """Draws start … stop - 1, each after `thin` transitions, as one program; they are written in place, if any is.

    In place means no second, transposed copy of them: they stand as [chain, draw, ...] from the outset, the first of
    them that of `start`.
    """

    def loop(state: Any, draws: PyTree, counts: TransitionCounts, bounds: tuple, inputs: tuple) -> tuple:
        start, stop, thin = bounds

        def body(index: Any, carry: tuple) -> tuple:
            state, draws, counts = carry
            state, info = advance(inputs, state, index)
            if draws is not None:
                row = index // thin - start  # of those that are thinned out the last one stays
                draws = jax.tree.map(partial(write_draw, index=row), draws, record_of(record, state, info))
            return state, draws, count(counts, info, inputs[0].shape[0])

        carry = vary_as((state, draws, counts), state, inputs)
        return lax.fori_loop(start * thin, stop * thin, body, carry)

    @in_place
    def run(
        state: Any,
        draws: PyTree,
        counts: TransitionCounts,
        start: Any,
        stop: Any,
        thin: Any,
        inputs: tuple,
    ) -> tuple:
        bounds = start, stop, thin
        if mesh is None:
            return loop(state, draws, counts, bounds, inputs)
        chain_keys, *others = inputs
        chains, whole = PartitionSpec(mesh.axis_names), PartitionSpec()

        def own(state: Any, draws: PyTree, bounds: tuple, chain_keys: Array, others: list) -> tuple:
            inputs = (chain_keys, *others)
            state, draws, counts = loop(state, draws, zero_counts(), bounds, inputs)
            return state, draws, jax.tree.map(lambda count: count[None], counts)

        # Each device by itself: a loop of the chains together would wait for all of them at every turn.
        state, draws, own_counts = jax.shard_map(
            own,
            mesh=mesh,
            in_specs=(chains, chains, whole, chains, whole),
            out_specs=chains,
            check_vma=False,
        )(state, draws, bounds, chain_keys, others)
        parts = [jax.tree.map(lambda count, i=i: count[i], own_counts) for i in range(mesh.size)]
        return state, draws, add_counts([counts, *parts])

    return run


def in_place(run: Callable) -> Callable:
    """The compiled function, which writes its argument `draws` in place; where anything is traced it is none of a
    program's own, and under `vmap` it may be of another size than what comes out."""
    alone, within = jax.jit(run, donate_argnames="draws"), jax.jit(run)

    def call(*arguments: Any, **named: Any) -> Any:
        return (alone if is_concrete((arguments, named)) else within)(*arguments, **named)

    return call


def record_of(record: Callable | None, state: Any, info: Any) -> tuple[PyTree, Any, Any]:
    """What is kept of a draw of all the chains."""
    kept = state.position if record is None else jax.vmap(record)(state)
    return kept, getattr(state, "logdensity", None), info


def write_draw(draws: Array, draw: Array, index: Any) -> Array:
    """In place."""
    return lax.dynamic_update_index_in_dim(draws, draw, index, axis=1) if draws.size else draws


def drawn_once(common: Callable | None, rng_key: Any, index: Any) -> tuple:
    """What all the chains of this transition share, if anything."""
    return () if common is None else (common(jax.random.fold_in(rng_key, index)),)


def zero_counts() -> TransitionCounts:
    zero = jnp.zeros((), jnp.int32)
    return TransitionCounts(zero, jnp.zeros((), jnp.float32), zero, zero, zero, zero)


def count(counts: TransitionCounts, info: Any, num_chains: int) -> TransitionCounts:
    """Add one transition of every chain."""
    rates = getattr(info, "acceptance_rate", jnp.zeros(1))
    most = np.iinfo(np.int32).max
    total = counts.num_transitions + jnp.minimum(num_chains, most - counts.num_transitions)
    share = (num_chains / total).astype(jnp.float32)
    shift = (jnp.mean(rates.astype(jnp.float32)) - counts.acceptance_rate) * share

    def failed(holder: Any, name: str, bad: bool) -> Int[Array, ""]:
        flags = getattr(holder, name, None)
        return jnp.zeros((), jnp.int32) if flags is None else jnp.sum(flags == bad, dtype=jnp.int32)

    return TransitionCounts(
        total,
        counts.acceptance_rate + shift,
        counts.num_divergent + failed(info, "is_divergent", True),
        counts.num_unconverged + failed(getattr(info, "solver", None), "converged", False),
        counts.num_irreversible + failed(info, "is_reversible", False),
        counts.num_max_depth + failed(info, "reached_max_depth", True),
    )
