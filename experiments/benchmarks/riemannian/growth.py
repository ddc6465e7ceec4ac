"""Growth of steps per second with the dimension, the rows of data and the number of chains."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.benchmarks.riemannian.chains import Chains, unchecked_rmhmc
from experiments.benchmarks.riemannian.config import NUM_STEPS, Config
from experiments.benchmarks.riemannian.density import regression
from experiments.benchmarks.riemannian.rows import GrowthRow
from experiments.support.timing import in_turns

MAX_BYTES = 2 * 2**30  # of a program: a larger one is not run
MAX_ROUNDS, NUM_DISCARDED = 3, 5  # fewer than elsewhere: there are many sizes

Size = tuple[int, int, int]  # (rows, dim, chains)


def grow(config: Config) -> Iterator[GrowthRow]:
    """Rows of all cases; a size that stands on several axes is measured once."""
    known: dict[tuple[Size, str], dict] = {}
    for dtype in config.dtypes:
        for varied, size in cases(config):
            if (size, dtype) not in known:
                known[size, dtype] = measure(size, dtype, config)
            num_rows, dim, num_chains = size
            yield GrowthRow(
                varied=varied,
                rows=num_rows,
                dim=dim,
                chains=num_chains,
                dtype=dtype,
                **known[size, dtype],
            )


def cases(config: Config) -> Iterator[tuple[str, Size]]:
    """(what is varied, a size)"""
    yield from (("dim", (config.num_rows, dim, 1)) for dim in config.dims)
    yield from (("rows", (num_rows, config.dim, 1)) for num_rows in config.rows)
    yield from (("chains", (config.num_rows, config.dim, num_chains)) for num_chains in config.many_chains)


def measure(size: Size, dtype: str, config: Config) -> dict[str, Any]:
    """What a `GrowthRow` has beside the case, by name."""
    num_rows, dim, num_chains = size
    model = regression(num_rows, dim)
    chains = Chains(unchecked_rmhmc(*model.build(dtype)), model.mode, num_chains, dtype)
    needed = {"compile_seconds": chains.compile_seconds, "megabytes": chains.num_bytes / 2**20}
    if chains.num_bytes > MAX_BYTES:
        return needed
    chains.warm_up(config.call_seconds, NUM_DISCARDED)
    seconds = in_turns({"ours": chains}, min(config.rounds, MAX_ROUNDS))["ours"]
    steps = num_chains * NUM_STEPS * chains.num_transitions
    return needed | {"steps_per_second": steps / float(np.median(seconds))} | chains.statistics()
