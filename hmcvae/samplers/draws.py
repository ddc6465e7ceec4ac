"""What a run of chains gives back: draws, counts, and what warm-up found; all of it data."""

import copy
import pickle
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from hmcvae._checks import is_concrete
from hmcvae._paths import dotted
from hmcvae.types import PyTree, Scalar


class SamplingWarning(UserWarning):
    """A run whose draws may not be what they seem; the message says what was seen and what helps."""


class TransitionCounts(NamedTuple):
    """Counts over a number of transitions of all the chains; an algorithm that does not report a thing has 0.

    num_transitions; acceptance_rate: the mean acceptance probability; num_divergent: energy divergences;
    num_unconverged: failed implicit solves; num_irreversible: trajectories that could not be retraced;
    num_max_depth: trees of `nuts` that were still to be doubled when they had reached its max_depth.
    """

    num_transitions: Int[Array, ""]
    acceptance_rate: Scalar
    num_divergent: Int[Array, ""]
    num_unconverged: Int[Array, ""]
    num_irreversible: Int[Array, ""]
    num_max_depth: Int[Array, ""]


@jax.tree_util.register_static
@dataclass(frozen=True)
class MissingMetric:
    """Stands in a copy that was pickled for a metric whose functions cannot be: make that metric anew."""

    description: str


class Adaptation(NamedTuple):
    """What warm-up found: the step size and the metric that the draws were made with (the algorithm's own if
    there was no warm-up, None for an algorithm without a kernel to tune), and the warm-up's counts.

    is_adapted: whether the acceptance probability δ at that step size is near the target δ*: δ*/2 < δ and
        1 - δ > (1 - δ*)/50; None if nothing was tuned.
    has_moved: whether any chain moved in the warm-up; None if nothing was tuned.

    Can always be pickled: a metric that holds functions which cannot be (a lambda, a closure) is left behind, and a
    `MissingMetric` that describes it comes back.
    """

    step_size: Any
    metric: Any
    warmup: TransitionCounts
    is_adapted: Any = None
    has_moved: Any = None

    def __reduce__(self) -> tuple:
        return Adaptation, (
            self.step_size,
            _as_data(self.metric),
            self.warmup,
            self.is_adapted,
            self.has_moved,
        )

    # Copies within one process keep the metric.
    def __copy__(self) -> "Adaptation":
        return self

    def __deepcopy__(self, memo: dict) -> "Adaptation":
        return Adaptation(*(copy.deepcopy(value, memo) for value in self))


def _as_data(metric: Any) -> Any:
    try:
        pickle.dumps(metric)
    except Exception:  # pickle raises a type of its own for each kind of object
        return MissingMetric(f"{type(metric).__name__}, which holds functions that cannot be pickled")
    return metric


class Samples(NamedTuple):
    """Draws, and all that is known about them; every leading pair of axes is (chain, draw).

    position: the pytree of the initial positions; or what `record` made of the states.
    logdensity: log p at each draw; None if the algorithm's state has none.
    info: the algorithm's info of each transition.
    counts: acceptance and failures counted over all the draws.
    adaptation: outcome of the warm-up.
    end: where each chain stands after its last transition; None for runs made by hand.

    For positions that are one array, `np.asarray(samples)` is that array. `print(samples)` is a short table.
    """

    position: PyTree
    logdensity: Any
    info: Any
    counts: TransitionCounts
    adaptation: Adaptation
    end: Any = None

    def __str__(self) -> str:
        from hmcvae.samplers.summary import summary

        return summary(self)

    def __repr__(self) -> str:
        """What it is, without the draws."""
        kinds = jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", self.position)
        return f"Samples(position={kinds})"

    @property
    def shape(self) -> tuple[int, ...]:
        """(chain, draw, …) of the positions if they are one array, (chain, draw) otherwise."""
        leaves = jax.tree.leaves(self.position)
        if not leaves:
            return jax.tree.leaves((self.logdensity, self.info))[0].shape[:2]
        return leaves[0].shape if len(leaves) == 1 else leaves[0].shape[:2]

    @property
    def last(self) -> PyTree:
        """Where each chain stands at its end: the initial positions of a run that goes on from here."""
        if self.end is not None:
            return self.end
        return jax.tree.map(lambda leaf: leaf[:, -1], self.position)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        leaves = jax.tree.leaves(self.position)
        if len(leaves) != 1:
            raise ValueError(f"positions of {len(leaves)} arrays are not one array; take them from .position")
        return np.array(leaves[0], dtype=dtype) if copy else np.asarray(leaves[0], dtype=dtype)


def path_name(path: tuple) -> str:
    """Of a leaf of the position; "position" where it is the only one."""
    return dotted(path) or "position"


def coordinate_names(position: PyTree) -> tuple[str, ...]:
    """Of each number of a draw, in the order of the ravelled position: theta[3], theta[0, 2]; the leaf's alone where
    it is one number."""
    found = []
    for path, leaf in jax.tree.leaves_with_path(position):
        name, shape = path_name(path), np.shape(leaf)[2:]
        found += [name + (f"[{', '.join(map(str, index))}]" if index else "") for index in np.ndindex(*shape)]
    return tuple(found)


def concatenate(first: Any, *others: Any) -> Samples:
    """The draws of runs that continue each other, chain by chain: axes (chain, draws of all the runs).

    Tallies are added; the adaptation is that of the first run.

    Raises:
        ValueError: unless all are `Samples` of the same chains, arrays and dtypes, and as many transitions lie between
            their draws; or if one of them comes twice.
    """
    runs = (first, *others)
    for run in runs:
        if not isinstance(run, Samples):
            raise ValueError(f"concatenate takes Samples, got {type(run).__name__}")
        here, there = first.shape[0], run.shape[0]
        if here != there:
            raise ValueError(f"runs must be of the same chains, got {here} chains and {there} chains")
        if _form(run) != _form(first):
            differing = [
                f"{a} and {b}" for a, b in zip(_form(first)[1], _form(run)[1], strict=False) if a != b
            ]
            came = differing[0] if differing else "trees of different structures"
            raise ValueError(f"runs must be of the same arrays (of the same algorithm), got {came}")
        here, there = _transitions_per_draw(first), _transitions_per_draw(run)
        if None not in (here, there) and here != there:
            raise ValueError(f"runs must be thinned alike, got {here} and {there} transitions for each draw")
    if len({id(run) for run in runs}) < len(runs):
        raise ValueError("runs must continue each other, got one of them twice")
    position, logdensity, info = jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves, axis=1), *((run[0], run[1], run[2]) for run in runs)
    )
    counts = add_counts([run.counts for run in runs])
    return Samples(position, logdensity, info, counts, first.adaptation, runs[-1].end)


def _transitions_per_draw(run: Samples) -> int | None:
    """None where it is not known: of a traced run, one without draws, or one of whose draws some were cut away."""
    num_draws = int(np.prod(run.shape[:2]))
    if not is_concrete(run.counts) or not num_draws:
        return None
    whole, rest = divmod(int(run.counts.num_transitions), num_draws)
    return None if rest else whole


def _form(run: Samples) -> Any:
    """Structure, dtypes and shapes without the axis of draws."""
    leaves, structure = jax.tree.flatten((run.position, run.logdensity, run.info))
    return structure, [(str(leaf.dtype), leaf.shape[:1] + leaf.shape[2:]) for leaf in leaves]


def add_counts(all_counts: list[TransitionCounts]) -> TransitionCounts:
    """Over all their transitions. Counts stop at the largest number of their dtype, as those of one run do."""
    most = np.iinfo(np.int32).max

    def add(first: Any, *others: Any) -> Any:
        total = first
        for other in others:
            total = total + jnp.minimum(other, most - total)
        return total

    counts = jax.tree.map(add, *all_counts)
    sizes = [counts.num_transitions.astype(jnp.float32) for counts in all_counts]
    total = jnp.maximum(sum(sizes[1:], start=sizes[0]), 1)
    shares = [own.acceptance_rate * (size / total) for own, size in zip(all_counts, sizes, strict=True)]
    return counts._replace(acceptance_rate=sum(shares[1:], start=shares[0]))
