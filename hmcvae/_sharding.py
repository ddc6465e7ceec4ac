"""Arrays that are spread over devices, by `jax.shard_map` or by a mesh with Explicit axes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hmcvae._checks import is_concrete
from hmcvae.types import PyTree


def vary_as(tree: PyTree, *like: PyTree) -> PyTree:
    """`tree`, every leaf marked as varying over the manual axes over which any leaf of `like` varies.

    Inside `shard_map` the carry of a loop must come out as it went in: what begins as a constant (a zero, a count) is
    the same on every device, and after one turn it is not. A mark and no operation: the program does not change.
    """
    axes = frozenset().union(*(_varying_axes(leaf) for leaf in jax.tree.leaves(like)))
    if not axes:
        return tree
    return jax.tree.map(lambda leaf: _mark(leaf, axes - _varying_axes(leaf)), tree)


def _varying_axes(leaf: Any) -> frozenset:
    """The manual axes that an array or an abstract one varies over; none where JAX knows no such thing."""
    if not hasattr(jax, "typeof"):
        return frozenset()
    aval = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    kind = getattr(aval, "manual_axis_type", None)  # JAX 0.10; `vma` before
    return frozenset((getattr(aval, "vma", None) if kind is None else kind.varying) or ())


def _mark(leaf: Any, axes: frozenset) -> Any:
    if not axes:
        return leaf
    names = tuple(sorted(axes, key=str))
    if hasattr(lax, "pcast"):
        return lax.pcast(leaf, names, to="varying")
    return lax.pvary(leaf, names)  # pyright: ignore[reportAttributeAccessIssue] - JAX before 0.8


def explicit_mesh(tree: PyTree) -> Any:
    """The mesh with Explicit axes that the arrays lie on, if there is one.

    Raises:
        ValueError: if they are being traced: their devices cannot be named there.
    """
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(jax.typeof(leaf) if hasattr(jax, "typeof") else leaf, "sharding", None)
        if not (isinstance(sharding, NamedSharding) and AxisType.Explicit in _axis_types(sharding.mesh)):
            continue
        if not is_concrete(leaf):
            raise ValueError(
                "inside jit, chains on a mesh with Explicit axes cannot be sampled: wrap the function in "
                "jax.sharding.auto_axes, or make the mesh with axis_types=(jax.sharding.AxisType.Auto, …)"
            )
        if isinstance(leaf.sharding, NamedSharding):
            return leaf.sharding.mesh
    return None


def with_axes(kind: AxisType, mesh: Mesh) -> Mesh:
    """The same devices, with axes of one kind."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(kind,) * len(mesh.axis_names))


def using_mesh(mesh: Mesh) -> Any:
    """A context in which arrays are made on this mesh, in place of an Explicit one that may be set around it."""
    return (jax.set_mesh if hasattr(jax, "set_mesh") else jax.sharding.use_mesh)(mesh)  # pyright: ignore


def move_to(tree: PyTree, mesh: Mesh) -> PyTree:
    """The arrays that lie on a mesh of these devices, split as they are, on this one."""

    def move(leaf: Any) -> Any:
        sharding = getattr(leaf, "sharding", None)
        if not isinstance(sharding, NamedSharding) or sharding.mesh.axis_names != mesh.axis_names:
            return leaf
        return jax.device_put(leaf, NamedSharding(mesh, sharding.spec))

    return jax.tree.map(move, tree)


def _axis_types(mesh: Any) -> tuple:
    """Of a mesh; in JAX before 0.7 they were a dictionary."""
    types = getattr(mesh, "axis_types", None) or ()
    return tuple(types)


def check_mesh(mesh: Any) -> Mesh | None:
    """A mesh whose axes are Auto, as the loops here want them; None stays None.

    Raises:
        ValueError: for anything but a mesh of devices.
    """
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh):
        raise ValueError(
            "mesh must be a jax.sharding.Mesh, such as jax.make_mesh((jax.device_count(),), ('batch',)), "
            f"got {mesh!r}"
        )
    return with_axes(AxisType.Auto, mesh)


def place(tree: PyTree, mesh: Mesh, spec: PartitionSpec) -> PyTree:
    """Arrays that every process has whole, on the devices of a mesh."""

    def one(leaf: Any) -> Any:
        sharding = NamedSharding(mesh, spec)
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(one, tree)


def map_examples(
    function: Callable[[PyTree, PyTree], PyTree],
    shared: PyTree,
    examples: PyTree,
    *,
    batch_size: int,
    mesh: Mesh | None,
) -> PyTree:
    """`function(shared, example)` of every example [n, …], batch_size at a time on each device of the mesh, if any."""

    def run(shared: PyTree, examples: PyTree) -> PyTree:
        return lax.map(lambda example: function(shared, example), examples, batch_size=batch_size)

    if mesh is None:
        return run(shared, examples)
    count = jax.tree.leaves(examples)[0].shape[0]
    # Every device takes as many; what is too many begins again from the first, and is dropped.
    order = np.arange(-(-count // mesh.size) * mesh.size) % count
    whole = PartitionSpec(mesh.axis_names)
    mapped = jax.shard_map(
        run, mesh=mesh, in_specs=(PartitionSpec(), whole), out_specs=whole, check_vma=False
    )
    results = mapped(shared, jax.tree.map(lambda leaf: leaf[order], examples))
    return jax.tree.map(lambda leaf: leaf[:count], results)
