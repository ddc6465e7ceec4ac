"""What a leapfrog step costs, ours and BlackJAX's, over the bare gradient: all contestants in turns."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.integrators.config import DTYPES, Config
from experiments.benchmarks.integrators.densities import Density, gaussian, logistic
from experiments.benchmarks.integrators.rows import Row
from experiments.benchmarks.integrators.trajectories import (
    bare_gradient,
    batched,
    blackjax_verlet,
    choose_num_steps,
    ours,
)
from experiments.benchmarks.peers import largest_difference
from experiments.support.timing import in_turns, ratio
from hmcvae import integrators

NUM_COMPARED = 10  # steps after which trajectories have to agree
MAX_ULPS = 1e4


class Start(NamedTuple):
    """states: of all chains, with unit masses [d]."""

    logdensity_fn: Callable
    states: integrators.IntegratorState
    step_size: jax.Array
    mass: jax.Array


def measure_all(config: Config, peers: tuple[str, ...]) -> Iterator[Row]:
    densities = [gaussian(2), gaussian(50)] + ([] if config.quick else [gaussian(1000)]) + [logistic()]
    for density in densities:
        for num_chains in config.chains:
            for dtype in DTYPES:
                yield measure(density, num_chains, dtype, peers, config)


def measure(density: Density, num_chains: int, dtype: str, peers: tuple[str, ...], config: Config) -> Row:
    """One row of the table.

    Raises:
        ValueError: if BlackJAX's trajectory is not ours.
    """
    begun = start(density, num_chains, dtype)
    arguments = begun.states, begun.step_size
    difference = difference_from_blackjax(begun, density.name) if "blackjax" in peers else None
    num_steps = choose_num_steps(begun.logdensity_fn, arguments, config.call_seconds)
    runs = {
        "gradient": bare_gradient(begun.logdensity_fn, num_steps, config.unroll),
        "ours": ours(begun.logdensity_fn, num_steps, begun.mass, config.unroll),
    }
    if "blackjax" in peers:
        runs["blackjax"] = blackjax_verlet(begun.logdensity_fn, num_steps, begun.mass)
    calls = {name: partial(batched(run), *arguments) for name, run in runs.items()}
    seconds = in_turns(calls, config.max_rounds, config.case_seconds)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    cost, cost_error = ratio(seconds["ours"], seconds["gradient"])
    return Row(
        density=density.name,
        chains=num_chains,
        dtype=dtype,
        num_steps=num_steps,
        rounds=len(seconds["ours"]),
        gradient_microseconds=1e6 * median["gradient"] / num_steps,
        steps_per_second={name: num_chains * num_steps / value for name, value in median.items()},
        ours_over_gradient=cost,
        ours_over_gradient_error=cost_error,
        difference_from_blackjax=difference,
        **over_blackjax(seconds),
    )


def start(density: Density, num_chains: int, dtype: str) -> Start:
    """Draws from the density, with standard normal momenta."""
    logdensity_fn = density.build(dtype)
    rng = np.random.default_rng(1)
    position = jnp.asarray(density.draw(rng, num_chains), dtype)
    momentum = jnp.asarray(rng.normal(size=position.shape), dtype)
    logdensity, gradient = jax.jit(jax.vmap(jax.value_and_grad(logdensity_fn)))(position)
    states = integrators.IntegratorState(position, momentum, logdensity, gradient)
    mass = jnp.ones(position.shape[1], dtype)
    return Start(logdensity_fn, states, jnp.asarray(density.step_size, dtype), mass)


def difference_from_blackjax(begun: Start, name: str) -> float:
    """The largest relative difference in position and momentum after a few steps.

    Raises:
        ValueError: if it is more than rounding.
    """
    own, peer = (
        batched(build(begun.logdensity_fn, NUM_COMPARED, begun.mass))(begun.states, begun.step_size)
        for build in (ours, blackjax_verlet)
    )
    difference = largest_difference(own[:2], peer[:2])
    if not difference < MAX_ULPS * float(jnp.finfo(begun.mass.dtype).eps):
        raise ValueError(f"{name}: trajectories differ from BlackJAX's by {difference:.2g}")
    return difference


def over_blackjax(seconds: dict[str, np.ndarray]) -> dict[str, float]:
    """A row's ratios with BlackJAX, by name; none where it was not measured."""
    if "blackjax" not in seconds:
        return {}
    over_ours, error = ratio(seconds["blackjax"], seconds["ours"])
    over_gradient, _ = ratio(seconds["blackjax"], seconds["gradient"])
    return {
        "blackjax_over_gradient": over_gradient,
        "blackjax_over_ours": over_ours,
        "blackjax_over_ours_error": error,
    }
