"""Transitions per second against BlackJAX's `rmhmc`."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

import hmcvae
from experiments.benchmarks.riemannian.chains import Chains, Contestant, Statistics, summarise_ours
from experiments.benchmarks.riemannian.config import EPSILON, NUM_STEPS, Config
from experiments.benchmarks.riemannian.density import Regression
from experiments.benchmarks.riemannian.rows import SpeedRow
from experiments.support.timing import in_turns, ratio
from hmcvae import integrators, solvers


def contestants(
    logdensity_fn: Callable, metric: Any, peers: tuple[str, ...], dtype: str
) -> dict[str, Contestant]:
    """By name; ours first."""
    make = partial(hmcvae.rmhmc, logdensity_fn, EPSILON, NUM_STEPS, metric)
    midpoint = hmcvae.hmc(
        logdensity_fn,
        EPSILON,
        NUM_STEPS,
        metric,
        integrator=integrators.implicit_midpoint,
        check_reversibility=False,
    )
    kernels = {"ours": make(), "unchecked": make(check_reversibility=False), "midpoint": midpoint}
    if dtype == "float64":
        kernels["loose"] = make(solver=solvers.switching(1e-8), check_reversibility=False)
    found = {name: Contestant(kernel, summarise_ours) for name, kernel in kernels.items()}
    if "blackjax" in peers:
        peer = importlib.import_module("blackjax").rmhmc(logdensity_fn, EPSILON, metric.tensor, NUM_STEPS)
        # Its integrator throws the report of its solver away.
        found["blackjax"] = Contestant(peer, lambda info: Statistics(info.acceptance_rate, jnp.nan, jnp.nan))
    return found


def speed_rows(
    model: Regression, num_chains: int, dtype: str, peers: tuple[str, ...], config: Config
) -> list[SpeedRow]:
    """One row for each contestant."""
    runs = {
        name: Chains(contestant, model.mode, num_chains, dtype)
        for name, contestant in contestants(*model.build(dtype), peers, dtype).items()
    }
    for chains in runs.values():
        chains.warm_up(config.call_seconds)
    taken = in_turns(runs, config.rounds)
    each = {name: seconds / runs[name].num_transitions for name, seconds in taken.items()}
    rows = []
    for name, chains in runs.items():
        over, error = ratio(each[name], each["ours"])
        row = SpeedRow(
            contestant=name,
            chains=num_chains,
            dtype=dtype,
            rounds=len(each[name]),
            transitions_per_second=num_chains / float(np.median(each[name])),
            seconds_over_ours=over,
            seconds_over_ours_error=error,
            compile_seconds=chains.compile_seconds,
            **chains.statistics(),
        )
        rows.append(row)
    return rows
