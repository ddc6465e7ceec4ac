"""Training on several devices: each takes its part of every batch, and the gradients are averaged.

The examples of a batch, the keys and the mean over them are those of one device, so the losses are too, up to the order
in which numbers are added. One step moves the gradients once between the devices, and nothing else of any size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hmcvae._checks import check_flag
from hmcvae._sharding import check_mesh, place
from hmcvae.training.state import TrainState
from hmcvae.types import PyTree
from hmcvae.vae import num_examples


@dataclass(frozen=True)
class Devices:
    """Where a training runs.

    mesh: of the devices; the batch is split over all of its axes. None: JAX's default device, without any of this.
    shard_params: whether parameters and the optimizer's state are split as well (along each array's first axis that can
        be), so that a device holds its part and fetches the rest for a step; else every device holds all of them.

    Raises:
        ValueError: for what is no mesh; or for shard_params without one.
    """

    mesh: Mesh | None = None
    shard_params: bool = False

    def __post_init__(self):
        object.__setattr__(self, "mesh", check_mesh(self.mesh))
        object.__setattr__(self, "shard_params", check_flag("shard_params", self.shard_params))
        if self.shard_params and self.mesh is None:
            raise ValueError("shard_params needs a mesh of devices, got None")

    @property
    def count(self) -> int:
        """How many devices share a batch."""
        return 1 if self.mesh is None else self.mesh.size

    def check_batch(self, batch_size: int, name: str = "batch_size") -> None:
        """Raise ValueError unless every device has as many examples."""
        if batch_size % self.count:
            raise ValueError(f"{name} must be a multiple of the {self.count} devices, got {batch_size}")

    def averaged(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function(params, kl_weight, *[b, …]) -> tree`, of each device's part of the batch, averaged over them."""
        if self.mesh is None:
            return function
        mesh, axes = self.mesh, self.mesh.axis_names

        def average(params: PyTree, kl_weight: Any, *batch: PyTree) -> Any:
            split = (PartitionSpec(axes),) * len(batch)
            # Without the checks of what varies where: the derivative is taken inside, and is each device's own.
            return jax.shard_map(
                lambda *args: lax.pmean(function(*args), axes),
                mesh=mesh,
                in_specs=(PartitionSpec(), PartitionSpec(), *split),
                out_specs=PartitionSpec(),
                check_vma=False,
            )(params, kl_weight, *batch)

        return average

    def put_state(self, state: TrainState) -> TrainState:
        """The state where its next epoch wants it."""
        if self.mesh is None:
            return state
        mesh = self.mesh
        return jax.tree.map(lambda leaf: place(leaf, mesh, self._spec(leaf)), state)

    def keep_state(self, tree: PyTree) -> PyTree:
        """Inside jit: parts of a state that stay where `put_state` has put them."""
        if self.mesh is None:
            return tree
        mesh = self.mesh
        return jax.tree.map(
            lambda leaf: lax.with_sharding_constraint(leaf, NamedSharding(mesh, self._spec(leaf))), tree
        )

    def put_examples(self, examples: PyTree) -> PyTree:
        """A data set in memory: whole on every device."""
        if self.mesh is None:
            return jax.tree.map(jax.numpy.asarray, examples)
        return place(examples, self.mesh, PartitionSpec())

    def put_batch(self, batch: PyTree) -> PyTree:
        """One batch of a stream, of which each process has read its own part.

        Raises:
            ValueError: if it cannot be split evenly.
        """
        if self.mesh is None:
            return batch
        count = num_examples(batch)
        own = len(
            [device for device in self.mesh.devices.flat if device.process_index == jax.process_index()]
        )
        if count % max(own, 1):
            raise ValueError(f"a batch must be a multiple of the {own} devices of its process, got {count}")
        sharding = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), batch)

    def _spec(self, leaf: Any) -> PartitionSpec:
        if self.mesh is None or not self.shard_params:
            return PartitionSpec()
        for axis, size in enumerate(leaf.shape):
            if size and size % self.mesh.size == 0:
                return PartitionSpec(*(None,) * axis, self.mesh.axis_names)
        return PartitionSpec()
