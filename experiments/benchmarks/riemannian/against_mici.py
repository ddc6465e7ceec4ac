"""Effective sample size per CPU second against mici's implicit leapfrog: one chain in float64."""

import importlib
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hmcvae
from experiments.benchmarks.peers import largest_difference
from experiments.benchmarks.riemannian.config import EPSILON, NUM_DISCARDED, NUM_STEPS, Config
from experiments.benchmarks.riemannian.density import NumpyRegression, Regression
from experiments.benchmarks.riemannian.rows import EssRow
from experiments.support.timing import Stopwatch
from hmcvae import integrators

MAX_DIFFERENCE = 1e-6  # relative, of one step


class Draws(NamedTuple):
    """positions: [n, d].  converged: share of the transitions whose solves did, and that came back."""

    positions: np.ndarray
    cpu_seconds: float
    acceptance: float
    converged: float


def ess_rows(model: Regression, peers: tuple[str, ...], config: Config) -> tuple[list[EssRow], float | None]:
    """Our rows and mici's, and how far a step of mici's is from ours.

    Raises:
        ValueError: if it is not the same step.
    """
    length, num_draws = config.mici_draws, config.stretches * config.mici_draws
    rows = [ess_row("ours", our_draws(model, num_draws, True), length)]
    rows.append(ess_row("unchecked", our_draws(model, num_draws, False), length))
    if "mici" not in peers:
        return rows, None
    difference = difference_from_mici(model)
    if not difference < MAX_DIFFERENCE:
        raise ValueError(f"a step of mici's differs from ours by {difference:.2g}: not the same dynamics")
    with one_thread():
        rows.append(ess_row("mici", mici_draws(model, length), length))
    return rows, difference


def ess_row(name: str, draws: Draws, length: int) -> EssRow:
    """The median over stretches of so many draws."""
    count = len(draws.positions)
    stretches = [draws.positions[i : i + length] for i in range(0, count, length)]
    per_draw = float(np.median([least_ess(stretch) for stretch in stretches])) / length
    seconds = draws.cpu_seconds / count
    return EssRow(
        contestant=name,
        draws=count,
        stretch=length,
        least_ess_per_draw=per_draw,
        cpu_milliseconds_per_draw=1e3 * seconds,
        ess_per_cpu_second=per_draw / seconds,
        acceptance=draws.acceptance,
        converged=draws.converged,
    )


def least_ess(draws: np.ndarray) -> float:
    """The least bulk ESS of z and z², over the coordinates of draws [n, d]."""
    arviz = importlib.import_module("arviz")
    values = np.concatenate([draws, draws**2], axis=1)
    return min(float(arviz.ess(column[None, :])) for column in values.T)


def our_draws(model: Regression, num_draws: int, check_reversibility: bool) -> Draws:
    """One chain of ours, after as many draws that compile it and leave the mode."""
    logdensity_fn, metric = model.build("float64")
    algorithm = hmcvae.rmhmc(
        logdensity_fn,
        EPSILON,
        hmcvae.uniform_steps(1, NUM_STEPS),
        metric,
        check_reversibility=check_reversibility,
    )
    start = jnp.asarray(model.mode)[None]
    warm = hmcvae.sample(jax.random.key(0), algorithm, start, num_samples=num_draws)
    start = jax.block_until_ready(warm.position[:, NUM_DISCARDED])
    with Stopwatch() as watch:
        samples = hmcvae.sample(jax.random.key(1), algorithm, start, num_samples=num_draws)
        positions = np.asarray(samples)[0]
    converged = 1 - int(samples.counts.num_unconverged) / num_draws
    return Draws(positions, watch.elapsed.cpu_seconds, float(samples.counts.acceptance_rate), converged)


def mici_draws(model: Regression, num_draws: int) -> Draws:
    """One chain of mici's."""
    samplers = importlib.import_module("mici.samplers")
    system, rng = mici_system(model), np.random.default_rng(0)
    # The upper end is left out, whatever its documentation says.
    sampler = samplers.RandomMetropolisHMC(system, mici_integrator(system), rng, (1, NUM_STEPS + 1))
    trace_funcs = [lambda state: {"z": state.pos}]
    sample = partial(sampler.sample_chains, 0, trace_funcs=trace_funcs, display_progress=False)
    start, _, _ = sample(n_main_iter=NUM_DISCARDED, init_states=[np.array(model.mode)])
    with Stopwatch() as watch:
        _, traces, statistics = sample(n_main_iter=num_draws, init_states=start)
    failed = np.mean(statistics["convergence_error"][0] | statistics["non_reversible_step"][0])
    acceptance = float(np.mean(statistics["accept_stat"][0]))
    return Draws(traces["z"][0], watch.elapsed.cpu_seconds, acceptance, 1 - float(failed))


def mici_system(model: Regression) -> Any:
    systems = importlib.import_module("mici.systems")
    functions = NumpyRegression(model.covariates, model.labels)
    return systems.DenseRiemannianMetricSystem(
        functions.value,
        functions.metric,
        vjp_metric_func=functions.vjp_and_metric,
        grad_neg_log_dens=functions.gradient_and_value,
    )


def mici_integrator(system: Any) -> Any:
    """With half the step size: it advances 2ε of time in a step of size ε."""
    return importlib.import_module("mici.integrators").ImplicitLeapfrogIntegrator(system, EPSILON / 2)


def difference_from_mici(model: Regression) -> float:
    """The largest relative difference between one step of mici's and one of ours from the mode."""
    ChainState = importlib.import_module("mici.states").ChainState
    logdensity_fn, metric = model.build("float64")
    z = jnp.asarray(model.mode)
    v = metric.factor(z).sqrt_matvec(jax.random.normal(jax.random.key(0), z.shape, z.dtype))
    state = integrators.init(logdensity_fn, metric, z, v)
    end, _ = jax.jit(integrators.generalized_leapfrog(logdensity_fn, metric))(state, EPSILON)
    theirs = mici_integrator(mici_system(model)).step(ChainState(pos=np.array(z), mom=np.array(v), dir=1))
    return largest_difference((theirs.pos, theirs.mom), (end.position, end.momentum))


def one_thread() -> Any:
    """NumPy's BLAS on one thread: threads that spin for work would be counted as mici's CPU time."""
    return importlib.import_module("threadpoolctl").threadpool_limits(1)
