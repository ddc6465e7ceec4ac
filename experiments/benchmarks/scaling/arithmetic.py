"""A training of 10⁹ images on 10⁴ devices, on paper: what each part of it would take, from stated rates."""

import math
from typing import NamedTuple

NUM_IMAGES, NUM_DEVICES, NUM_HOSTS = 10**9, 10**4, 1250
# Of one image of 28 × 28 pixels; examples of a device in a step.
IMAGE_BYTES, BATCH = 784, 256
# Assumed, not measured here: what a device computes (FLOP/s, a small share of its peak), what its link moves, what a
# host reads, each way and in bytes a second, and the time that one message takes.
DEVICE_FLOPS, LINK, DISK, LATENCY = 2e13, 2.5e10, 5e8, 1e-5


class Paper(NamedTuple):
    """Seconds of one step by its parts, and of an epoch; bytes of a host's data and of a checkpoint."""

    method: str
    steps_per_epoch: int
    compute: float
    reduce: float
    read: float
    epoch: float
    host_bytes: float
    checkpoint_bytes: float


def on_paper(method: str, flops_per_image: float, param_bytes: float) -> Paper:
    """An all-reduce over a tree of n devices: 2 log₂ n messages one after another, and the gradient twice over each
    link. Reading overlaps with the rest.
    """
    steps = NUM_IMAGES // (BATCH * NUM_DEVICES)
    compute = flops_per_image * BATCH / DEVICE_FLOPS
    reduce = 2 * param_bytes / LINK + 2 * math.ceil(math.log2(NUM_DEVICES)) * LATENCY
    read = BATCH * NUM_DEVICES / NUM_HOSTS * IMAGE_BYTES / DISK
    epoch = steps * max(compute + reduce, read)
    # Parameters, and Adam's two moments.
    return Paper(
        method, steps, compute, reduce, read, epoch, NUM_IMAGES * IMAGE_BYTES / NUM_HOSTS, 3 * param_bytes
    )
