"""What trees of draws are made of, as JSON: so that they can be read back where the algorithm is not at hand."""

from collections import OrderedDict, namedtuple
from typing import Any

import jax

from hmcvae.samplers.hamiltonian import HMCInfo
from hmcvae.samplers.langevin import MMALAInfo
from hmcvae.samplers.nuts import NUTSInfo
from hmcvae.solvers import SolverInfo
from hmcvae.types import PyTree

KNOWN = {kind.__name__: kind for kind in (HMCInfo, MMALAInfo, NUTSInfo, SolverInfo)}


def describe(tree: PyTree, names: list[str]) -> Any:
    """Nested JSON of a tree of arrays, whose leaves are called `names`. Nodes of kinds that are not Python's own become
    lists of what they hold."""
    remaining = iter(names)

    def one(node: Any) -> Any:
        if node is None:
            return None
        if isinstance(node, dict):
            keys = (
                list(node) if isinstance(node, OrderedDict) else sorted(node)
            )  # in the order of JAX's leaves
            odd = [key for key in keys if not isinstance(key, (str, int))]
            if odd:
                raise ValueError(f"draws that are stored need text or whole numbers as keys, got {odd[0]!r}")
            return {"dict": [[key, one(node[key])] for key in keys]}
        names_of_fields = getattr(node, "_fields", None)
        if isinstance(node, tuple) and names_of_fields is not None:
            fields = [[name, one(value)] for name, value in zip(names_of_fields, node, strict=True)]
            return {"named": type(node).__name__, "fields": fields}
        if isinstance(node, (list, tuple)):
            return {"list" if isinstance(node, list) else "tuple": [one(value) for value in node]}
        children = jax.tree.leaves(node, is_leaf=lambda child: child is not node)
        if len(children) == 1 and children[0] is node:
            return {"array": next(remaining), "dtype": str(node.dtype), "shape": list(node.shape)}
        return {"list": [one(child) for child in children]}

    return one(tree)


def rebuild(described: Any, read: Any) -> PyTree:
    """The tree again, each leaf from `read(name, dtype)`."""
    if described is None:
        return None
    if "array" in described:
        return read(described["array"], described["dtype"])
    if "dict" in described:
        return {key: rebuild(value, read) for key, value in described["dict"]}
    if "named" in described:
        fields = {name: rebuild(value, read) for name, value in described["fields"]}
        kind = KNOWN.get(described["named"])
        if kind is None or set(getattr(kind, "_fields", ())) != set(fields):
            kind = namedtuple(described["named"], fields)
        return kind(**fields)
    make = list if "list" in described else tuple
    return make(rebuild(value, read) for value in described[make.__name__])
