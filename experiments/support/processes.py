"""Several processes that train one model, and the devices that share its batches."""

from contextlib import AbstractContextManager, ExitStack

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from hmcvae.training import LostProcessError, on_first

# A process that is gone is noticed within so many seconds.
HEARTBEAT_SECONDS = 30


def join(coordinator: str | None, num_processes: int, process_id: int) -> None:
    """Join the other processes of a training, before JAX is used.

    Args:
        coordinator: HOST:PORT of the first process; "auto": this and the rest from the cluster's environment (Slurm,
            Open MPI, a TPU slice); None: this process trains alone.
        num_processes, process_id: how many there are, and which this is.

    Raises:
        ValueError: for numbers that do not fit together.
        LostProcessError: if the others cannot be reached.
    """
    if coordinator is None:
        if (num_processes, process_id) != (1, 0):
            raise ValueError(
                f"process {process_id} of {num_processes} needs the coordinator's address, HOST:PORT, got None"
            )
        return
    is_cluster = coordinator == "auto"
    if not is_cluster and not 0 <= process_id < num_processes:
        raise ValueError(f"process_id must be below num_processes = {num_processes}, got {process_id}")
    try:
        jax.distributed.initialize(
            None if is_cluster else coordinator,
            None if is_cluster else num_processes,
            None if is_cluster else process_id,
            initialization_timeout=120,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise LostProcessError(f"the other processes cannot be joined at {coordinator}: {reason}") from error


def mesh_of(num_devices: int) -> Mesh | None:
    """The first `num_devices` devices (0, or of several processes: all) as a mesh; None where one is enough.

    Raises:
        ValueError: if there are not so many.
    """
    devices = jax.devices()
    count = num_devices if num_devices and jax.process_count() == 1 else len(devices)
    if count > len(devices):
        raise ValueError(f"devices must be at most the {len(devices)} that there are, got {num_devices}")
    if count == 1:
        return None
    return Mesh(np.array(devices[:count]), ("batch",), axis_types=(AxisType.Auto,))


def enter_on_first(stack: ExitStack, context: AbstractContextManager) -> None:
    """Enter a context in the first process alone, until the stack is closed."""

    def enter() -> None:
        stack.enter_context(context)

    on_first(enter)
