"""Other libraries that ours are measured against: whether they are there, and whether they do the same as ours."""

import sys
from collections.abc import Iterable, Sequence
from importlib import util
from typing import Any, NamedTuple

import jax.numpy as jnp

from experiments.support.checks import check_choices


class Peer(NamedTuple):
    """modules: those that must be there.  install: the command that puts them there."""

    name: str
    modules: tuple[str, ...]
    install: str

    @property
    def not_measured(self) -> str:
        """What a page says where it was not there."""
        return f"not measured: `{self.install}`"


BLACKJAX = Peer("blackjax", ("blackjax",), "pip install 'blackjax>=1.2'")
MICI = Peer("mici", ("mici",), "pip install mici==0.4.1")
# Without pythae's dependencies: one of them is a backport that shadows the standard library's dataclasses.
PYTHAE = Peer(
    "pythae",
    ("pythae", "torch"),
    "pip install torch pydantic imageio cloudpickle scikit-learn && pip install --no-deps pythae==0.1.2",
)


def check_known(names: Iterable[str], known: Sequence[Peer]) -> None:
    """Check the names that a user gave.

    Raises:
        ValueError: for one that is not known.
    """
    check_choices("peers", names, (peer.name for peer in known))


def installed(peers: Iterable[Peer]) -> tuple[str, ...]:
    """The names of those that are there; of the others it is said how to install them."""
    found = []
    for peer in peers:
        if all(util.find_spec(module) for module in peer.modules):
            found.append(peer.name)
        else:
            print(f"{peer.name} is not installed: not measured; {peer.install}", file=sys.stderr)
    return tuple(found)


def largest_difference(one: Sequence[Any], other: Sequence[Any]) -> float:
    """The largest relative difference between two libraries' arrays, each over the largest entry of `other`'s."""
    pairs = zip(one, other, strict=True)
    return max(float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))) for a, b in pairs)
