"""The folder of a run: what run it is, where it stands, and its draws."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hmcvae.samplers.draws import Samples, TransitionCounts
from hmcvae.samplers.outcomes import as_numbers, describe_outcome, nothing_known, rebuild_outcome
from hmcvae.samplers.programs import zero_counts
from hmcvae.samplers.stored import Store, as_leaves, names_of
from hmcvae.samplers.structures import describe, rebuild
from hmcvae.types import PyTree


class RunFolder:
    """The store of a run: what run it is, where it stands, and its draws.

    Args:
        identity: what makes it this run, as JSON values: of another one's folder nothing is taken.
        start: `positions -> states` of chains that begin there.

    Raises:
        ValueError: if the folder holds a run, and resume is False, or it is of another identity; see `Store`.
    """

    def __init__(self, store: Store, identity: dict, resume: bool, start: Callable[[PyTree], Any]):
        self._store, self._identity, self._start = store, identity, start
        self._names: list[str] = []
        self.stage, self._index, self._leaves = "start", 0, []
        found = store.description()
        if found is None:
            return
        if not resume:
            raise ValueError(
                f"{store.folder} holds a run: give resume=True to go on with it, or another folder"
            )
        other = [
            f"{name} was {found['run'].get(name)!r}, is {value!r}"
            for name, value in identity.items()
            if found["run"].get(name, value) != value  # older runs do not say all
        ]
        if other:
            raise ValueError(f"{store.folder} holds another run: {'; '.join(other)}")
        state = store.state()
        if state is not None:
            header, self._leaves = state
            self.stage, self._index = header["stage"], int(header["index"])

    def check(self, num_samples: int) -> None:
        """Raise ValueError if there are more draws than are asked for."""
        if self.stage == "draws" and self._index > num_samples:
            raise ValueError(
                f"{self._store.folder} holds {self._index} draws: num_samples must be at least as many, got "
                f"{num_samples}"
            )

    def begun(self, stage: str, tree: PyTree) -> tuple[int, PyTree]:
        """(how many there are of this stage, `tree` as it was saved with them)."""
        if self.stage != stage:
            return 0, tree
        saved = self._as_saved(tree)
        self._check_density(saved)
        return self._index, saved

    def restored(self, tuned: Any) -> Any:
        """What the draws were begun with."""
        return self._as_saved((tuned, zero_counts()))[0]

    def _as_saved(self, tree: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(tree)
        try:
            return jax.tree.unflatten(structure, as_leaves(self._leaves, leaves))
        except ValueError as error:
            raise ValueError(f"{self._store.folder} holds a run of another algorithm: {error}") from error

    def _check_density(self, saved: PyTree) -> None:
        """Raise ValueError unless the density has, where the chains stand, the values that it had there."""
        states = saved
        while not hasattr(states, "position"):
            states = states[0]  # in all that is saved they stand first
        name = "logdensity"
        if not hasattr(states, name):
            return
        was, now = (np.asarray(getattr(own, name)) for own in (states, self._start(states.position)))
        # Programs that are compiled apart add up in other orders.
        tolerance = float(jnp.finfo(was.dtype).eps) ** 0.4
        was, now = was.astype(np.float64), now.astype(np.float64)
        is_other = ~(np.abs(now - was) <= tolerance * (1 + np.abs(was)))
        if is_other.any():
            chain = int(np.argmax(is_other))
            raise ValueError(
                f"{self._store.folder} holds another run: where chain {chain} stands, the log density was "
                f"{was[chain]:.6g}, is {now[chain]:.6g}. Go on with the density, and the data, that the run began with"
            )

    def describe(self, record: PyTree) -> None:
        """Say what a draw is made of, before the first one."""
        self._names = names_of(record)
        draw = json.loads(json.dumps(describe(record, self._names)))
        found = self._store.description()
        if found is None:
            self._store.begin({"run": self._identity, "draw": draw})
        elif found["draw"] != draw:
            raise ValueError(f"{self._store.folder} holds other draws: {found['draw']}, got {draw}")

    def append(self, draws: PyTree, count: int) -> None:
        self._store.append(self._names, jax.tree.leaves(draws), count)

    def save(self, stage: str, index: int, tree: PyTree) -> None:
        header = {"stage": stage, "index": index, "counts": as_numbers(tree[-1])}
        if stage == "draws":
            header["outcome"] = describe_outcome(tree)
        self._store.save(jax.tree.leaves(tree), header)

    def draws(self, record: PyTree, count: int) -> PyTree:
        """The draws that are there, in the tree of what was recorded."""
        leaves = [
            self._store.read(name, str(leaf.dtype), count)
            for name, leaf in zip(self._names, jax.tree.leaves(record), strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(record), leaves)


def load_samples(folder: Path | str) -> Samples:
    """The draws that `sample(…, folder=…)` has written so far, from that folder alone; arrays are left on disk until
    they are looked at.

    Infos of algorithms that are not this library's come back as named tuples of the same names. `adaptation` has the
    warm-up's outcome; for a metric that is made by functions there is a description. Runs that an earlier version saved
    say nothing of it.

    Raises:
        FileNotFoundError: if there is no run in the folder.
        ValueError: if it cannot be read, or has no draws yet.
    """
    if not isinstance(folder, (str, Path)):
        raise ValueError(f"folder must be a path, got {folder!r}")
    store = Store(folder)
    found, state = store.description(), store.state()
    if found is None or state is None:
        raise FileNotFoundError(f"there is no run in {store.folder}")
    header, leaves = state
    if header["stage"] != "draws" or not header["index"]:
        raise ValueError(f"the run in {store.folder} has no draws yet, it is in its {header['stage']}")
    count = int(header["index"])
    position, logdensity, info = rebuild(found["draw"], lambda name, dtype: store.read(name, dtype, count))
    counts = TransitionCounts(**{name: jnp.asarray(value) for name, value in header["counts"].items()})
    outcome = header.get("outcome")
    adaptation, end = nothing_known() if outcome is None else rebuild_outcome(outcome, leaves)
    return Samples(position, logdensity, info, counts, adaptation, end)
