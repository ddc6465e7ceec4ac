"""What a warm-up found, and where the chains stand, as JSON beside a run's saved arrays: so that it can be read back
where the algorithm is not at hand."""

from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hmcvae.metrics.euclidean import Dense, Diagonal, Identity
from hmcvae.metrics.low_rank import LowRank
from hmcvae.samplers.draws import Adaptation, MissingMetric, TransitionCounts
from hmcvae.samplers.programs import zero_counts
from hmcvae.samplers.structures import describe, rebuild
from hmcvae.types import PyTree

METRICS = {kind.__name__: kind for kind in (Identity, Diagonal, Dense, LowRank)}


def describe_outcome(tree: tuple) -> dict:
    """Of `(Tuned, counts)`, whose leaves are saved under their numbers."""
    tuned = tree[0]
    found = {
        "warmup": as_numbers(tuned.warmup),
        "is_adapted": _as_flag(tuned.is_adapted),
        "has_moved": _as_flag(tuned.has_moved),
    }
    if hasattr(tuned.states, "position"):
        with suppress(ValueError):  # of keys that JSON has not, where `record` keeps something else
            found["end"] = _described(tree, tuned.states.position, "states", "position")
    if tuned.parameters:
        step_size, metric = tuned.parameters
        found["step_size"] = _described(tree, step_size, "parameters", "0")
        found["metric"] = {"kind": type(metric).__name__, "leaves": _leaves(tree, "parameters", "1")}
    return found


def rebuild_outcome(found: dict, leaves: list[np.ndarray]) -> tuple[Adaptation, PyTree]:
    """(adaptation, the positions where the chains stand). Of metrics that hold functions a `MissingMetric`."""

    def read(name: str, dtype: str) -> jax.Array:
        return jnp.asarray(leaves[int(name)].view(jnp.dtype(dtype)))

    step_size, metric = rebuild(found.get("step_size"), read), found.get("metric")
    if metric is not None:
        kind, arrays = METRICS.get(metric["kind"]), [read(*leaf) for leaf in metric["leaves"]]
        metric = (
            MissingMetric(f"{metric['kind']}, which is made by functions") if kind is None else kind(*arrays)
        )
    warmup = TransitionCounts(**{name: jnp.asarray(value) for name, value in found["warmup"].items()})
    adaptation = Adaptation(step_size, metric, warmup, found["is_adapted"], found["has_moved"])
    return adaptation, rebuild(found.get("end"), read)


def nothing_known() -> tuple[Adaptation, None]:
    """Of runs that were saved before this was."""
    return Adaptation(None, None, zero_counts()), None


def as_numbers(counts: TransitionCounts) -> dict[str, float]:
    """The counts as JSON values."""
    return {name: np.asarray(value).item() for name, value in counts._asdict().items()}


def _as_flag(value: Any) -> bool | None:
    return None if value is None else bool(value)


def _leaves(tree: PyTree, *place: str) -> list[tuple[str, str]]:
    """(number, dtype) of the leaves below a place of `tree[0]`."""
    found = []
    for number, (path, leaf) in enumerate(jax.tree.leaves_with_path(tree)):
        names = [str(getattr(key, "name", getattr(key, "idx", getattr(key, "key", "")))) for key in path]
        if names[: 1 + len(place)] == ["0", *place]:
            found.append((str(number), str(jnp.result_type(leaf))))
    return found


def _described(tree: PyTree, part: PyTree, *place: str) -> Any:
    return describe(jax.tree.map(jnp.asarray, part), [number for number, _ in _leaves(tree, *place)])
