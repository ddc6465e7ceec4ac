"""Riemannian HMC against BlackJAX, mici and its own floor: `python -m experiments.bench_riemannian [--quick]`.

The density is a Bayesian logistic regression on made-up data: standard normal covariates, coefficients drawn from
0.5 N(0, 1), prior N(0, 100), 1000 × 25 unless said otherwise. The metric is its Fisher information; ε = 0.5, six
steps. Chains start at the mode; 20 transitions are made before any clock runs, and compilation is timed apart.

- **Against BlackJAX**: transitions per second of `hmcvae.rmhmc` (generalized leapfrog), of BlackJAX's `rmhmc`
  (implicit midpoint, its own defaults), and of our kernel with our implicit midpoint, for the same integrator.
  Contestants take turns within each round, as in `bench_integrators`; every call goes on from where the last one ended.
  In float64 our default tolerance is 2e-12 of the scale of what is solved for; BlackJAX stops at a last correction of
  1e-6, whatever the scale. A row of ours with a relative tolerance of 1e-8 (about 1e-6 for these momenta) shows the
  same accuracy at the same price.
- **Against mici**: the least effective sample size (ArviZ's bulk ESS, of all z_i and z_i²) per CPU second of all
  threads, one chain in float64, the number of steps drawn from 1 … 6. mici's implicit leapfrog advances 2ε of time in
  a step of size ε, so it is given ε/2; that one step is then ours is checked before anything is timed. Its range of
  steps leaves out the upper end (against its documentation), so it is given (1, 7). It has explicit NumPy functions for
  the density, gradient, metric and the metric's vector-Jacobian product, sharing what can be shared, and BLAS on one
  thread, which is its fastest. It checks the reversibility of every step, as ours does by default. The minimum over
  50 estimates is lower for a shorter chain, so ours is cut into stretches as long as mici's chain, of which the median
  counts.
- **The way back**: `hmcvae rmhmc` takes every step back, as it does by default; BlackJAX does not, and a row of ours
  says what it costs: "not taken back". All else here (midpoint rule, looser tolerance, floor, growth) is without.
- **The floor**: the seconds of a step inside a trajectory, against the sum of its parts, each alone in a loop of its
  own: building G and its Cholesky factor, the gradient of log |G| from there, ∇U, and the iterations that were made.
  For G, Cholesky and log-determinant the less of two counts: the three apart, or `metric.geometry`, which shares their
  work. Under `vmap` all chains make the iterations of the slowest.
- **Growth** of steps per second with the dimension, the rows of data and the number of chains. With d the
  coefficients shrink as 1/√d, so that the logits keep their spread.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular
from matplotlib.lines import Line2D
from scipy import optimize, special

import hmcvae
from experiments.benchmarks import integrators as bench
from hmcvae import integrators, metrics, solvers

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PEERS = ("blackjax", "mici")
INSTALL = {"blackjax": "pip install 'blackjax>=1.2'", "mici": "pip install mici==0.4.1"}
EPSILON, NUM_STEPS, PRIOR_VARIANCE = 0.5, 6, 100.0
NUM_DISCARDED = 20  # transitions from the mode into the bulk
# Times faster than BlackJAX, by (dtype, is there more than one chain); than mici; and of the floor's cost.
BLACKJAX_TARGETS = {
    ("float32", False): 10,
    ("float32", True): 100,
    ("float64", False): 8,
    ("float64", True): 8,
}
MICI_TARGET, FLOOR_TARGET = 25, 1.5
MAX_BYTES = 2 * 2**30
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Config:
    """Benchmark Riemannian HMC against BlackJAX and mici, against its floor, and by size.

    peers: other libraries to measure; one that is not installed is reported as "not measured".
    quick: a smoke run, written to runs/ and good for nothing else.
    num_rows, dim: of the regression.
    chains: numbers of chains against BlackJAX and for the floor.
    call_seconds: how long a timed call should last (it holds one transition at least).
    rounds: timed calls of every contestant.
    mici_draws, stretches: draws by mici; ours are so many times as many.
    dims, rows, many_chains: sizes to grow to, one at a time.
    dtypes: of all measurements but that against mici, which is in float64.
    folder: where the results are written; runs/bench_riemannian by default.
    """

    peers: tuple[str, ...] = PEERS
    quick: bool = False
    num_rows: int = 1000
    dim: int = 25
    chains: tuple[int, ...] = (1, 64)
    call_seconds: float = 0.3
    rounds: int = 7
    mici_draws: int = 400
    stretches: int = 10
    dims: tuple[int, ...] = (5, 25, 50, 100, 200)
    rows: tuple[int, ...] = (100, 1000, 10_000, 100_000)
    many_chains: tuple[int, ...] = (1, 8, 64, 512, 4096)
    dtypes: tuple[str, ...] = DTYPES
    folder: Path | None = None


def smaller(config: Config) -> Config:
    """Smaller in every direction, for a smoke run."""
    config = replace(config, num_rows=100, dim=5, chains=(2,), call_seconds=0.02, rounds=2)
    return replace(config, mici_draws=30, stretches=2, dims=(5,), rows=(100, 200), many_chains=(1, 2))


# --- The density.


@dataclass(frozen=True)
class Regression:
    """Bayesian logistic regression on made-up data, with its mode."""

    covariates: np.ndarray
    labels: np.ndarray
    mode: np.ndarray

    def build(self, dtype: str) -> tuple[Callable, Any]:
        """(logdensity_fn, metric)"""
        X, y = jnp.asarray(self.covariates, dtype), jnp.asarray(self.labels, dtype)

        def logdensity_fn(z: jax.Array) -> jax.Array:
            logits = X @ z
            return jnp.sum(y * logits - jax.nn.softplus(logits)) - 0.5 * jnp.dot(z, z) / PRIOR_VARIANCE

        def weight_fn(logits: jax.Array) -> jax.Array:
            return jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)

        return logdensity_fn, metrics.fisher(lambda z: X @ z, weight_fn, 1 / PRIOR_VARIANCE)


def regression(num_rows: int, dim: int) -> Regression:
    """The data and the mode, by a seed of their own."""
    rng = np.random.default_rng(0)
    covariates = rng.normal(size=(num_rows, dim))
    coefficients = 0.5 * np.sqrt(25 / max(dim, 25)) * rng.normal(size=dim)
    labels = (rng.uniform(size=num_rows) < special.expit(covariates @ coefficients)).astype(float)
    numpy_model = NumpyRegression(covariates, labels)
    found = optimize.minimize(
        lambda z: numpy_model.gradient_and_value(z)[1],
        np.zeros(dim),
        jac=lambda z: numpy_model.gradient_and_value(z)[0],
        hess=numpy_model.metric,
        method="trust-exact",
    )
    return Regression(covariates, labels, found.x)


@dataclass(frozen=True)
class NumpyRegression:
    """The same in NumPy, as mici wants it: -log p, its gradient, G and the vector-Jacobian product of G."""

    covariates: np.ndarray
    labels: np.ndarray

    def value(self, z: np.ndarray) -> float:
        return self.gradient_and_value(z)[1]

    def gradient_and_value(self, z: np.ndarray) -> tuple[np.ndarray, float]:
        logits = self.covariates @ z
        gradient = self.covariates.T @ (special.expit(logits) - self.labels) + z / PRIOR_VARIANCE
        value = np.sum(np.logaddexp(0, logits) - self.labels * logits) + 0.5 * z @ z / PRIOR_VARIANCE
        return gradient, float(value)

    def metric(self, z: np.ndarray) -> np.ndarray:
        return self._metric(special.expit(self.covariates @ z))

    def _metric(self, probability: np.ndarray) -> np.ndarray:
        weighted = self.covariates.T * (probability * (1 - probability))
        return weighted @ self.covariates + np.eye(self.covariates.shape[1]) / PRIOR_VARIANCE

    def vjp_and_metric(self, z: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
        X, probability = self.covariates, special.expit(self.covariates @ z)
        slope = probability * (1 - probability) * (1 - 2 * probability)
        return lambda V: (slope * np.einsum("ni,ni->n", X @ V, X)) @ X, self._metric(probability)


# --- Chains that are timed.


class Contestant(NamedTuple):
    """A kernel, and `info -> (acceptance, converged, iterations a step)` of a transition; NaN for what is unknown."""

    algorithm: Any
    summarise: Callable[[Any], tuple[Any, Any, Any]]


def summarise_ours(info: Any) -> tuple[Any, Any, Any]:
    return (
        info.acceptance_rate,
        info.solver.converged,
        info.solver.num_iterations / info.num_integration_steps,
    )


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
        found["blackjax"] = Contestant(peer, lambda info: (info.acceptance_rate, jnp.nan, jnp.nan))
    return found


class Chains:
    """Chains of one contestant, compiled; each call makes `num_transitions` more and adds to the statistics."""

    def __init__(self, contestant: Contestant, mode: np.ndarray, num_chains: int, dtype: str):
        positions = jnp.broadcast_to(jnp.asarray(mode, dtype), (num_chains, len(mode)))
        self.states = jax.jit(jax.vmap(contestant.algorithm.init))(positions)
        self.num_transitions, self.num_calls, self.done, self.totals = 1, 0, 0, np.zeros(3)

        def run(rng_key: Any, states: Any, num_transitions: Any) -> tuple[Any, Any]:
            def body(index: Any, carry: tuple) -> tuple:
                states, totals = carry
                keys = jax.random.split(jax.random.fold_in(rng_key, index), num_chains)
                states, info = jax.vmap(contestant.algorithm.step)(keys, states)
                means = [jnp.mean(jnp.asarray(value, dtype)) for value in contestant.summarise(info)]
                return states, totals + jnp.stack(means)

            return lax.fori_loop(0, num_transitions, body, (states, jnp.zeros(3, dtype)))

        begin = time.perf_counter()
        self.program = jax.jit(run).lower(jax.random.key(0), self.states, 1).compile()
        self.compile_seconds = time.perf_counter() - begin

    @property
    def num_bytes(self) -> int:
        """Memory that the program works in."""
        sizes: Any = self.program.memory_analysis()
        return sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes

    def __call__(self) -> Any:
        self.num_calls += 1
        key = jax.random.key(self.num_calls)
        self.states, totals = self.program(key, self.states, self.num_transitions)
        self.totals += np.asarray(totals)
        self.done += self.num_transitions
        return self.states

    def warm_up(self, seconds: float, num_transitions: int = NUM_DISCARDED) -> None:
        """Move off the mode, then find how many transitions last `seconds`, and forget the statistics.

        A contestant that is very slow makes fewer transitions here: two, that last more than three seconds.
        """
        per_transition = min(bench.seconds_of(self) for _ in range(2))
        self.num_transitions = max(1, min(num_transitions, round(3 / per_transition)))
        per_transition = bench.seconds_of(self) / self.num_transitions
        self.num_transitions = max(1, round(seconds / per_transition))
        self.done, self.totals = 0, np.zeros(3)

    def statistics(self) -> dict[str, float | None]:
        means = [None if np.isnan(value) else float(value) for value in self.totals / self.done]
        return dict(zip(("acceptance", "converged", "iterations"), means, strict=True))


def in_turns(calls: dict[str, Callable], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each call in the calmer half of the rounds."""
    return bench.time_in_turns(calls, bench.Config(case_seconds=np.inf, max_rounds=rounds))


# --- Against BlackJAX.


def against_blackjax(
    model: Regression, num_chains: int, dtype: str, peers: tuple[str, ...], config: Config
) -> list[dict]:
    """One row for each contestant."""
    runs = {
        name: Chains(contestant, model.mode, num_chains, dtype)
        for name, contestant in contestants(*model.build(dtype), peers, dtype).items()
    }
    for chains in runs.values():
        chains.warm_up(config.call_seconds)
    taken = in_turns(dict(runs), config.rounds)
    each = {name: seconds / runs[name].num_transitions for name, seconds in taken.items()}
    rows = []
    for name, chains in runs.items():
        faster, error = bench.ratio(each[name], each["ours"])
        row = {"contestant": name, "chains": num_chains, "dtype": dtype, "rounds": len(each[name])}
        row |= {"transitions_per_second": num_chains / float(np.median(each[name]))}
        row |= {"seconds_over_ours": faster, "seconds_over_ours_error": error}
        rows.append(row | {"compile_seconds": chains.compile_seconds} | chains.statistics())
    return rows


# --- Against mici.


def least_ess(draws: np.ndarray) -> float:
    """The least bulk ESS of z and z², over the coordinates of draws [n, d]."""
    arviz = importlib.import_module("arviz")
    values = np.concatenate([draws, draws**2], axis=1)
    return min(float(arviz.ess(column[None, :])) for column in values.T)


def our_draws(
    model: Regression, num_draws: int, check_reversibility: bool
) -> tuple[np.ndarray, float, float, float]:
    """(draws, CPU seconds, acceptance, share of converged transitions) of one chain in float64."""
    logdensity_fn, metric = model.build("float64")
    algorithm = hmcvae.rmhmc(
        logdensity_fn,
        EPSILON,
        hmcvae.uniform_steps(1, NUM_STEPS),
        metric,
        check_reversibility=check_reversibility,
    )
    start = jnp.asarray(model.mode)[None]
    warm = hmcvae.sample(jax.random.key(0), algorithm, start, num_samples=num_draws)  # also compiles
    start = jax.block_until_ready(warm.position[:, NUM_DISCARDED])
    begin = time.process_time()
    samples = hmcvae.sample(jax.random.key(1), algorithm, start, num_samples=num_draws)
    draws = np.asarray(samples)[0]
    seconds = time.process_time() - begin
    converged = 1 - int(samples.counts.num_unconverged) / num_draws
    return draws, seconds, float(samples.counts.acceptance_rate), converged


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
    # Half the step size: see the module's docstring.
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
    return bench.largest_difference([(theirs.pos, theirs.mom), (end.position, end.momentum)])


def mici_draws(model: Regression, num_draws: int) -> tuple[np.ndarray, float, float, float]:
    """The same as `our_draws`."""
    samplers = importlib.import_module("mici.samplers")
    system, rng = mici_system(model), np.random.default_rng(0)
    # The upper end is left out, whatever its documentation says.
    sampler = samplers.RandomMetropolisHMC(system, mici_integrator(system), rng, (1, NUM_STEPS + 1))
    trace_funcs = [lambda state: {"z": state.pos}]
    sample = partial(sampler.sample_chains, 0, trace_funcs=trace_funcs, display_progress=False)
    start, _, _ = sample(n_main_iter=NUM_DISCARDED, init_states=[np.array(model.mode)])
    begin = time.process_time()
    _, traces, statistics = sample(n_main_iter=num_draws, init_states=start)
    seconds = time.process_time() - begin
    failed = np.mean(statistics["convergence_error"][0] | statistics["non_reversible_step"][0])
    return traces["z"][0], seconds, float(np.mean(statistics["accept_stat"][0])), 1 - float(failed)


def ess_row(name: str, found: tuple, length: int) -> dict:
    draws, seconds, acceptance, converged = found
    ess = float(np.median([least_ess(draws[i : i + length]) for i in range(0, len(draws), length)]))
    per_draw = seconds / len(draws)
    row = {"contestant": name, "draws": len(draws), "stretch": length, "least_ess_per_draw": ess / length}
    row |= {"cpu_milliseconds_per_draw": 1e3 * per_draw, "ess_per_cpu_second": ess / length / per_draw}
    return row | {"acceptance": acceptance, "converged": converged}


def against_mici(model: Regression, peers: tuple[str, ...], config: Config) -> dict:
    """Our rows and mici's, and how far a step of mici's is from ours."""
    length, num_draws = config.mici_draws, config.stretches * config.mici_draws
    rows = [ess_row("ours", our_draws(model, num_draws, True), length)]
    rows.append(ess_row("unchecked", our_draws(model, num_draws, False), length))
    difference = None
    if "mici" in peers:
        difference = difference_from_mici(model)
        if not difference < 1e-6:
            raise ValueError(f"a step of mici's differs from ours by {difference:.2g}: not the same dynamics")
        with one_thread():
            rows.append(ess_row("mici", mici_draws(model, length), length))
    return {"rows": rows, "difference_from_mici": difference}


def one_thread() -> Any:
    """NumPy's BLAS on one thread: threads that spin for work would be counted as mici's CPU time."""
    return importlib.import_module("threadpoolctl").threadpool_limits(1)


# --- The floor.

Loop = tuple[Callable[[Any], Any], Any]  # (a map of an array onto itself, where it starts), for one chain


def bulk_states(model: Regression, num_chains: int, dtype: str) -> tuple[Any, Any, Any, Any]:
    """(logdensity_fn, metric, step, states with fresh momenta) after a few transitions from the mode."""
    logdensity_fn, metric = model.build(dtype)
    step = integrators.generalized_leapfrog(logdensity_fn, metric)
    kernel = hmcvae.rmhmc(logdensity_fn, EPSILON, NUM_STEPS, metric, check_reversibility=False)
    contestant = Contestant(kernel, summarise_ours)
    chains = Chains(contestant, model.mode, num_chains, dtype)
    chains.warm_up(0.0)
    positions = chains().position

    def begin(rng_key: Any, position: Any) -> Any:
        start = integrators.init(logdensity_fn, metric, position, jnp.zeros_like(position))
        # From the factor at hand. With a second batch of Cholesky factors beside the first, the program was seen to
        # hang on two cores.
        noise = jax.random.normal(rng_key, position.shape, position.dtype)
        return start._replace(momentum=start.geometry.factor.sqrt_matvec(noise))

    keys = jax.random.split(jax.random.key(1), num_chains)
    return logdensity_fn, metric, step, jax.jit(jax.vmap(begin))(keys, positions)


def count_iterations(step: Any, states: Any) -> tuple[float, float]:
    """Iterations that a step makes for (momentum, position): all chains make those of the slowest."""
    epsilon = jnp.asarray(EPSILON, states.position.dtype)

    def one(state: Any) -> tuple[Any, Any]:
        def body(half: Any, _: Any) -> tuple[Any, tuple[Any, Any]]:
            new, info = step.advance(half, epsilon)
            before = half.info.num_iterations
            return new, (before, info.num_iterations - before)

        return lax.scan(body, step.begin(state, epsilon), None, NUM_STEPS)[1]

    counts = jax.jit(jax.vmap(one))(states)
    momentum, position = (float(np.mean(np.max(np.asarray(count), axis=0))) for count in counts)
    return momentum, position


def chained(function: Callable) -> Callable[[Any], Any]:
    """z ↦ z + a vanishing part of all that `function(z)` returns, so that nothing is hoisted, pruned or overlapped."""

    def body(z: Any) -> Any:
        # The barrier keeps the sum below from being moved into the computation of what is summed.
        parts = lax.optimization_barrier(jax.tree.leaves(function(z)))
        return z + 1e-12 * sum(jnp.sum(part.reshape(-1, z.shape[0]), axis=0) for part in parts)

    return body


def parts_of_step(logdensity_fn: Callable, metric: Any) -> dict[str, Callable[[Any], Loop]]:
    """state -> Loop, by the name of the part."""

    def shifted(fixed: Any, z: Any) -> Any:
        return fixed + 1e-12 * z[0]  # depends on the loop's variable, but not in value

    def cholesky(state: Any) -> Loop:
        G = metric.tensor(state.position)
        return chained(lambda z: jnp.linalg.cholesky(shifted(G, z), symmetrize_input=False)), state.position

    def log_det_grad(state: Any) -> Loop:
        lower, eye = state.geometry.factor.lower, jnp.eye(state.position.shape[0], dtype=state.position.dtype)

        def gradient(z: Any) -> Any:
            columns = solve_triangular(shifted(lower, z), eye, lower=True).T
            return jax.grad(metric.quadratic_form)(z, columns)

        return chained(gradient), state.position

    def geometry(state: Any) -> Loop:
        def build(z: Any) -> Any:
            found = metric.geometry(z)[0]
            return found.factor.lower, found.factor.inverse, found.log_det_grad

        return chained(build), state.position

    def momentum_iteration(state: Any) -> Loop:
        force, factor, base = metric.geometry(state.position)[1], state.geometry.factor, state.momentum
        return lambda v: base + 0.25 * EPSILON * force(factor.solve(v)), state.momentum

    def position_iteration(state: Any) -> Loop:
        factor, z, v = state.geometry.factor, state.position, state.momentum
        u = factor.solve(v)
        return lambda w: w + factor.solve(v - metric.matvec(z + 0.5 * EPSILON * (u + w), w)), u

    return {
        "metric": lambda state: (chained(metric.tensor), state.position),
        "cholesky": cholesky,
        "log_det_grad": log_det_grad,
        "geometry": geometry,
        "gradient": lambda state: (chained(jax.grad(logdensity_fn)), state.position),
        "momentum_iteration": momentum_iteration,
        "position_iteration": position_iteration,
    }


def repeated(make_loop: Callable[[Any], Loop], states: Any) -> Callable[[int], Any]:
    """n -> the end of n rounds of a loop, for all chains."""

    def one(state: Any, count: Any) -> Any:
        body, start = make_loop(state)
        return lax.fori_loop(0, count, lambda _, x: body(x), start)

    run = jax.jit(jax.vmap(one, (0, None)))
    return lambda count: run(states, count)


def calibrated(run: Callable[[int], Any], seconds: float) -> int:
    """How many rounds last about `seconds`."""
    count = 1
    run(count)
    while (elapsed := min(bench.seconds_of(partial(run, count)) for _ in range(3))) < seconds / 4:
        count *= 4
    return max(1, round(count * seconds / elapsed))


def floor_row(model: Regression, num_chains: int, dtype: str, config: Config) -> dict:
    """Microseconds of a step of all chains, of its parts, and their sum."""
    logdensity_fn, metric, step, states = bulk_states(model, num_chains, dtype)
    epsilon = jnp.asarray(EPSILON, dtype)

    def trajectory(state: Any) -> Loop:
        return lambda state: integrators.integrate(step, state, epsilon, NUM_STEPS)[0], state

    makers = {"step": trajectory} | parts_of_step(logdensity_fn, metric)
    runs = {name: repeated(maker, states) for name, maker in makers.items()}
    counts = {name: calibrated(run, config.call_seconds / 3) for name, run in runs.items()}
    calls = {name: partial(run, counts[name]) for name, run in runs.items()}
    taken = in_turns(calls, config.rounds)
    micro = {name: 1e6 * float(np.median(value)) / counts[name] for name, value in taken.items()}
    micro["step"] /= NUM_STEPS
    momentum, position = count_iterations(step, states)
    apart = micro["metric"] + micro["cholesky"] + micro["log_det_grad"]
    iterations = momentum * micro["momentum_iteration"] + position * micro["position_iteration"]
    floor = min(apart, micro["geometry"]) + micro["gradient"] + iterations
    row = {"chains": num_chains, "dtype": dtype, "microseconds": micro}
    row |= {"momentum_iterations": momentum, "position_iterations": position}
    return row | {"iterations_microseconds": iterations, "floor": floor, "over_floor": micro["step"] / floor}


# --- Growth.


def growth_row(num_rows: int, dim: int, num_chains: int, dtype: str, config: Config) -> dict:
    """Steps per second of all chains; None where the program would need too much memory."""
    model = regression(num_rows, dim)
    logdensity_fn, metric = model.build(dtype)
    kernel = hmcvae.rmhmc(logdensity_fn, EPSILON, NUM_STEPS, metric, check_reversibility=False)
    chains = Chains(Contestant(kernel, summarise_ours), model.mode, num_chains, dtype)
    row = {"rows": num_rows, "dim": dim, "chains": num_chains, "dtype": dtype}
    row |= {"compile_seconds": chains.compile_seconds, "megabytes": chains.num_bytes / 2**20}
    if chains.num_bytes > MAX_BYTES:
        return row | {"steps_per_second": None}
    chains.warm_up(config.call_seconds, 5)
    seconds = in_turns({"ours": chains}, min(config.rounds, 3))["ours"]
    steps = num_chains * NUM_STEPS * chains.num_transitions
    return row | {"steps_per_second": steps / float(np.median(seconds))} | chains.statistics()


def growth_cases(config: Config) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """(what is varied, (rows, dim, chains))"""
    yield from (("dim", (config.num_rows, dim, 1)) for dim in config.dims)
    yield from (("rows", (num_rows, config.dim, 1)) for num_rows in config.rows)
    yield from (("chains", (config.num_rows, config.dim, num_chains)) for num_chains in config.many_chains)


def grow(config: Config) -> Iterator[dict]:
    """Rows of all cases; a size that stands on several axes is measured once."""
    known: dict[tuple, dict] = {}
    for dtype in config.dtypes:
        for varied, size in growth_cases(config):
            if (size, dtype) not in known:
                known[size, dtype] = growth_row(*size, dtype, config)
            yield {"varied": varied} | known[size, dtype]


# --- The report.

NAMES = {
    "ours": "hmcvae rmhmc",
    "unchecked": "hmcvae rmhmc, not taken back",
    "midpoint": "hmcvae, implicit midpoint",
    "loose": "hmcvae rmhmc, BlackJAX's tolerance",
    "blackjax": "BlackJAX rmhmc",
    "mici": "mici implicit leapfrog",
}
PARTS = {
    "metric": "build G",
    "cholesky": "Cholesky",
    "log_det_grad": "∇ log |G|",
    "geometry": "these three, sharing work",
    "gradient": "∇U",
    "momentum_iteration": "a momentum iteration",
    "position_iteration": "a position iteration",
}


def cell(value: float | None, form: str = ".3g") -> str:
    return "not reported" if value is None else format(value, form)


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def heading(columns: Sequence[str], num_words: int) -> list[str]:
    """The head of a table: `num_words` columns to the left, the others, numbers, to the right."""
    return [line(columns), "|" + "---|" * num_words + "---:|" * (len(columns) - num_words)]


def not_measured(peer: str) -> str:
    return f"not measured: `{INSTALL[peer]}`"


def case_name(row: dict) -> str:
    return f"{row['chains']} chain{'s' * (row['chains'] > 1)}, {row['dtype']}"


def blackjax_table(rows: list[dict]) -> list[str]:
    columns = (
        "contestant, case, transitions/s, seconds / ours, acceptance, converged, iterations a step, compile s"
    )
    lines = heading(columns.split(", "), 2)
    for row in rows:
        cells = [NAMES[row["contestant"]], case_name(row), bench.number(row["transitions_per_second"])]
        cells.append(f"{row['seconds_over_ours']:.3g} ± {row['seconds_over_ours_error']:.1g}")
        cells += [cell(row["acceptance"], ".3f"), cell(row["converged"], ".4f"), cell(row["iterations"])]
        lines.append(line([*cells, f"{row['compile_seconds']:.1f}"]))
    if not any(row["contestant"] == "blackjax" for row in rows):
        lines.append(line([NAMES["blackjax"], "all", not_measured("blackjax"), *[""] * 5]))
    return lines


def mici_table(rows: list[dict]) -> list[str]:
    columns = "contestant, draws, least ESS / draw, CPU ms / draw, least ESS / CPU s, acceptance, converged"
    lines = heading(columns.split(", "), 1)
    for row in rows:
        cells = [NAMES[row["contestant"]], str(row["draws"]), f"{row['least_ess_per_draw']:.3f}"]
        cells += [f"{row['cpu_milliseconds_per_draw']:.3g}", f"{row['ess_per_cpu_second']:.3g}"]
        lines.append(line([*cells, f"{row['acceptance']:.3f}", f"{row['converged']:.4f}"]))
    if not any(row["contestant"] == "mici" for row in rows):
        lines.append(line([NAMES["mici"], not_measured("mici"), *[""] * 5]))
    return lines


def floor_table(rows: list[dict]) -> list[str]:
    lines = heading(["µs of all chains", *map(case_name, rows)], 1)
    for key, label in PARTS.items():
        lines.append(line([label, *(f"{row['microseconds'][key]:.3g}" for row in rows)]))
    labels = {
        "momentum_iterations": "momentum iterations made (number)",
        "position_iterations": "position iterations made (number)",
        "iterations_microseconds": "all iterations",
        "floor": "**floor**",
    }
    for key, label in labels.items():
        lines.append(line([label, *(f"{row[key]:.3g}" for row in rows)]))
    lines.append(line(["**a step**", *(f"{row['microseconds']['step']:.3g}" for row in rows)]))
    return [*lines, line(["**a step / floor**", *(f"{row['over_floor']:.2f}" for row in rows)])]


def growth_table(rows: list[dict]) -> list[str]:
    columns = (
        "grows, rows, d, chains, dtype, steps/s, iterations a step, acceptance, converged, MiB, compile s"
    )
    lines = heading(columns.split(", "), 1)
    for row in rows:
        cells = [row["varied"], *(str(row[key]) for key in ("rows", "dim", "chains", "dtype"))]
        rate = row["steps_per_second"]
        if rate is None:
            cells += ["skipped: memory", "", "", ""]
        else:
            cells += [bench.number(rate), cell(row["iterations"]), cell(row["acceptance"], ".3f")]
            cells.append(cell(row["converged"], ".4f"))
        lines.append(line([*cells, f"{row['megabytes']:.3g}", f"{row['compile_seconds']:.1f}"]))
    return lines


def verdict(came: float, target: float, at_most: bool = False) -> str:
    met = came <= target if at_most else came >= target
    return "met" if met else "**not met**"


def outcome(report: dict) -> list[str]:
    """What was expected, against what came."""
    lines = []
    for row in report["against_blackjax"]:
        target = BLACKJAX_TARGETS[row["dtype"], row["chains"] > 1]
        if row["contestant"] == "blackjax":
            came = row["seconds_over_ours"]
            others = {
                other["contestant"]: came / other["seconds_over_ours"]
                for other in report["against_blackjax"]
                if case_name(other) == case_name(row)
            }
            words = [
                f"{others[name]:.3g} × {condition}"
                for name, condition in (
                    ("unchecked", "without the way back"),
                    ("loose", "at its tolerance too"),
                )
                if name in others
            ]
            at_same = f" ({', '.join(words)})" if words else ""
            lines.append(
                f"- BlackJAX, {case_name(row)}: expected ≥ {target} ×, came {came:.3g} ×{at_same}: "
                f"{verdict(came, target)}."
            )
    if not lines:
        lines.append(f"- BlackJAX: expected ≥ 10, 100, 8, 8 ×; {not_measured('blackjax')}.")
    rows = {row["contestant"]: row["ess_per_cpu_second"] for row in report["against_mici"]["rows"]}
    if "mici" in rows:
        came = rows["ours"] / rows["mici"]
        without = (
            f" ({rows['unchecked'] / rows['mici']:.3g} × without the way back)" if "unchecked" in rows else ""
        )
        lines.append(
            f"- mici, least ESS per CPU second: expected ≥ {MICI_TARGET} ×, came {came:.3g} ×{without}: "
            f"{verdict(came, MICI_TARGET)}."
        )
    else:
        lines.append(f"- mici, least ESS per CPU second: expected ≥ {MICI_TARGET} ×; {not_measured('mici')}.")
    lines += [
        f"- The way back, {case_name(row)}: a transition costs {1 / row['seconds_over_ours']:.2f} × one without."
        for row in report["against_blackjax"]
        if row["contestant"] == "unchecked"
    ]
    for row in report["floor"]:
        came = row["over_floor"]
        lines.append(
            f"- Floor, {case_name(row)}: expected ≤ {FLOOR_TARGET} ×, came {came:.2f} ×: "
            f"{verdict(came, FLOOR_TARGET, at_most=True)}."
        )
    return lines


def markdown(report: dict, notes: str) -> str:
    system, config, mici = report["environment"], report["config"], report["against_mici"]
    about = (
        f"Bayesian logistic regression {config['num_rows']} × {config['dim']}, Fisher metric, ε = {EPSILON}, "
        f"{NUM_STEPS} steps. {system['device']}, {system['cpu']}; jax {system['jax']}, "
        f"blackjax {system['blackjax']}, mici {system['mici']}; {report['seconds']} s in all. "
        "`python -m experiments.bench_riemannian` writes this file; its docstring says what is measured and how."
    )
    lines = ["# Riemannian HMC against BlackJAX, mici and its floor", "", about]
    lines += ["", "## Expectation and outcome", "", *outcome(report)]
    lines += ["", "## Transitions per second", "", "BlackJAX does not report its solver.", ""]
    lines += blackjax_table(report["against_blackjax"])
    lines += ["", "## Least effective sample size per CPU second", ""]
    lines += [f"One chain, float64, 1 … {NUM_STEPS} steps; mici with ε/2, which advances ε."]
    if mici["difference_from_mici"] is not None:
        lines.append(
            f"One step of mici's differs from ours by {mici['difference_from_mici']:.1g} (relative)."
        )
    lines += [f"ESS of stretches of {config['mici_draws']} draws.", "", *mici_table(mici["rows"])]
    lines += ["", "## A step and its parts", "", *floor_table(report["floor"])]
    lines += ["", "## Growth", "", *growth_table(report["growth"])]
    return "\n".join(lines) + f"\n\n{bench.NOTES}\n{notes}"


# --- The picture.

COLOURS = {
    "ours": "tab:blue",
    "unchecked": "tab:gray",
    "loose": "tab:purple",
    "midpoint": "tab:cyan",
    "blackjax": "tab:orange",
    "mici": "tab:green",
}


def missing(axis: Any, peer: str) -> None:
    """Say in the panel that a peer was not measured."""
    axis.text(
        0.98, 0.02, f"{peer}: not measured", transform=axis.transAxes, ha="right", fontsize=9, color="grey"
    )


def draw_blackjax(axis: Any, rows: list[dict]) -> None:
    cases = list(dict.fromkeys(case_name(row) for row in rows))
    names = [name for name in COLOURS if any(row["contestant"] == name for row in rows)]
    for offset, name in enumerate(names):
        chosen = [row for row in rows if row["contestant"] == name]
        width = 0.8 / len(names)  # a contestant need not be in every case
        heights = np.array([cases.index(case_name(row)) for row in chosen])
        heights = heights + width * (offset - 0.5 * (len(names) - 1))
        rates = [row["transitions_per_second"] for row in chosen]
        axis.barh(heights, rates, 0.92 * width, color=COLOURS[name], label=NAMES[name])
        for row, rate, height in zip(chosen, rates, heights, strict=True):
            text = bench.number(rate)
            if name == "blackjax":
                target = BLACKJAX_TARGETS[row["dtype"], row["chains"] > 1]
                text += f"  ({row['seconds_over_ours']:.3g} × slower than ours; expected {target} ×)"
            axis.annotate(text, (rate, height), (4, 0), textcoords="offset points", va="center", fontsize=8)
    if "blackjax" not in names:
        missing(axis, "BlackJAX")
    axis.set_xscale("log")
    rates = [row["transitions_per_second"] for row in rows]
    axis.set_xlim(0.5 * min(rates), 100 * max(rates))  # room for the words, and for the legend beside them
    axis.set_yticks(range(len(cases)), cases)
    axis.invert_yaxis()
    axis.set_xlabel("transitions per second of all chains (more is better)")
    axis.set_title("Transitions of six steps", fontsize=11)
    axis.legend(fontsize=8, loc="upper right")


def draw_mici(axis: Any, rows: list[dict]) -> None:
    values = [row["ess_per_cpu_second"] for row in rows]
    names = [row["contestant"] for row in rows]
    axis.bar(range(len(names)), values, 0.5, color=[COLOURS[name] for name in names])
    words = [NAMES[name].removeprefix("hmcvae ").replace("taken back", "taken\nback") for name in names]
    axis.set_xticks(range(len(names)), [text.replace(" ", "\n", 2) for text in words], fontsize=8)
    for index, value in enumerate(values):
        axis.annotate(bench.number(value), (index, value), (0, 3), textcoords="offset points", ha="center")
    axis.set_yscale("log")
    axis.set_ylim(0.4 * min(values), 4 * max(values))
    axis.margins(x=0.1)
    axis.set_ylabel("least ESS per CPU second (more is better)")
    title = "One chain, float64, 1 … 6 steps"
    if "mici" in names:
        title += f"\n{values[0] / values[-1]:.3g} × mici (expected {MICI_TARGET} ×)"
    else:
        missing(axis, "mici")
    axis.set_title(title, fontsize=11)


def floor_pieces(row: dict) -> dict[str, float]:
    """What the floor is the sum of, as fractions of it."""
    micro = row["microseconds"]
    shared = micro["metric"] + micro["cholesky"] + micro["log_det_grad"]
    if micro["geometry"] <= shared:
        pieces = {"G, Cholesky and ∇ log |G|": micro["geometry"]}
    else:
        pieces = {"G, Cholesky and ∇ log |G|": shared}
    pieces["∇U"] = micro["gradient"]
    for kind in ("momentum", "position"):
        pieces[f"{kind} iterations"] = row[f"{kind}_iterations"] * micro[f"{kind}_iteration"]
    return {name: value / row["floor"] for name, value in pieces.items()}


def draw_floor(axis: Any, rows: list[dict]) -> None:
    positions = np.arange(len(rows))
    base = np.zeros(len(rows))
    for colour, name in zip(("#4c78a8", "#9ecae9", "#f58518", "#ffbf79"), floor_pieces(rows[0]), strict=True):
        values = np.array([floor_pieces(row)[name] for row in rows])
        axis.bar(positions - 0.2, values, 0.36, bottom=base, color=colour, label=name)
        base += values
    over = [row["over_floor"] for row in rows]
    axis.bar(positions + 0.2, over, 0.36, color="tab:blue", label="a step, as it is")
    for index, row in enumerate(rows):
        text = f"{row['over_floor']:.2f} ×\n{row['microseconds']['step']:.3g} µs"
        axis.annotate(
            text, (index + 0.2, over[index]), (0, 3), textcoords="offset points", ha="center", fontsize=8
        )
    axis.axhline(
        FLOOR_TARGET, color="tab:red", linestyle="--", linewidth=1, label=f"expected ≤ {FLOOR_TARGET} ×"
    )
    axis.set_xticks(positions, [case_name(row).replace(", ", "\n") for row in rows])
    axis.set_ylim(0, 1.75 * max([*over, FLOOR_TARGET]))
    axis.set_ylabel("time / sum of the parts (less is better)")
    axis.set_title("A step against the sum of its parts", fontsize=11)
    axis.legend(fontsize=7.5, loc="upper center", ncols=2)


def draw_growth(axis: Any, rows: list[dict], varied: str, label: str) -> None:
    for dtype, style in zip(DTYPES, ("o-", "s--"), strict=True):
        chosen = [r for r in rows if (r["varied"], r["dtype"]) == (varied, dtype) and r["steps_per_second"]]
        if chosen:
            points = [row[varied] for row in chosen], [row["steps_per_second"] for row in chosen]
            axis.plot(*points, style, label=dtype)
            stuck = [(x, y) for x, y, row in zip(*points, chosen, strict=True) if not row["converged"] >= 0.5]
            axis.plot(*zip(*stuck, strict=True), "kx", ms=11) if stuck else None
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel(label)
    axis.set_ylabel("steps per second of all chains")
    axis.grid(alpha=0.3)
    handles, labels = axis.get_legend_handles_labels()
    if any(line.get_marker() == "x" for line in axis.lines):
        handles.append(Line2D([], [], ls="", marker="x", color="k", ms=8))
        labels.append("ε too large: most solves fail")
    axis.legend(handles, labels, fontsize=8)
    axis.set_title(f"Growth with the {label.split(' (')[0]}", fontsize=11)


def draw(report: dict, path: Path) -> None:
    """All four measurements on one sheet."""
    config, system = report["config"], report["environment"]
    figure = plt.figure(figsize=(16, 9.5), layout="constrained")
    grid = figure.add_gridspec(2, 12, height_ratios=(1.15, 1))
    draw_blackjax(figure.add_subplot(grid[0, :6]), report["against_blackjax"])
    draw_mici(figure.add_subplot(grid[0, 6:8]), report["against_mici"]["rows"])
    draw_floor(figure.add_subplot(grid[0, 8:]), report["floor"])
    rows, dim = config["num_rows"], config["dim"]
    labels = {
        "dim": f"dimension d ({rows} rows, 1 chain)",
        "rows": f"rows of data (d = {dim}, 1 chain)",
        "chains": f"number of chains ({rows} × {dim})",
    }
    for index, (varied, label) in enumerate(labels.items()):
        draw_growth(figure.add_subplot(grid[1, 4 * index : 4 * index + 4]), report["growth"], varied, label)
    figure.suptitle(
        f"Riemannian HMC on a logistic regression {rows} × {dim}, Fisher metric, ε = {EPSILON} "
        f"({system['cpu']}, jax {system['jax']})",
        fontsize=13,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


# --- The run.


def describe_system() -> dict[str, str]:
    """The device and the versions that a result belongs to."""
    versions = {}
    for name in ("mici", "arviz"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return bench.describe_system() | versions


def measure(config: Config, peers: tuple[str, ...]) -> dict:
    """Everything, printed as it comes."""
    model = regression(config.num_rows, config.dim)
    report: dict = {"against_blackjax": [], "floor": [], "growth": []}
    for dtype in config.dtypes:
        for num_chains in config.chains:
            rows = against_blackjax(model, num_chains, dtype, peers, config)
            report["against_blackjax"] += rows
            print(*blackjax_table(rows)[2:], sep="\n", flush=True)
    report["against_mici"] = against_mici(model, peers, config)
    print(*mici_table(report["against_mici"]["rows"]), sep="\n", flush=True)
    report["floor"] = [
        floor_row(model, num, dtype, config) for dtype in config.dtypes for num in config.chains
    ]
    print(*floor_table(report["floor"]), sep="\n", flush=True)
    for row in grow(config):
        report["growth"].append(row)
        print(growth_table([row])[-1], flush=True)
    return report


def write(report: dict, folder: Path) -> None:
    """The JSON, Markdown and picture."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / "bench_riemannian"
    stem.with_suffix(".json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    notes = bench.kept_notes(stem.with_suffix(".md"))
    stem.with_suffix(".md").write_text(markdown(report, notes))
    draw(report, stem.with_suffix(".png"))
    print(f"written in {report['seconds']} s: {stem}.json, .md, .png")


def run(config: Config) -> dict:
    """Measure, print, and write the JSON, Markdown and picture.

    Raises:
        ValueError: for a peer that is not known, or if mici's step is not ours.
    """
    unknown = set(config.peers) - set(PEERS)
    if unknown:
        raise ValueError(f"peers must be among {PEERS}, got {sorted(unknown)}")
    peers = tuple(peer for peer in config.peers if util.find_spec(peer))
    for peer in sorted(set(config.peers) - set(peers)):
        print(f"{peer} is not installed: not measured; {INSTALL[peer]}", file=sys.stderr)
    begin, measured = time.perf_counter(), measure(config, peers)
    settings = asdict(config) | {"folder": None, "peers": list(peers)}
    seconds = round(time.perf_counter() - begin, 1)
    report = {"system": describe_system(), "config": settings, "seconds": seconds} | measured
    print("", *outcome(report), sep="\n")
    write(report, config.folder or Path("runs/bench_riemannian"))
    return report


def enlarge_thread_pool() -> None:
    """Twice as many threads as cores, for this process, if it has not computed anything yet.

    jaxlib's batched factorisations wait on threads of the pool that they themselves run in. Two of them at once, as
    BlackJAX's rmhmc has them in float64, never end on two cores.
    """
    os.environ.setdefault("NPROC", str(2 * (os.cpu_count() or 1)))


def main() -> None:
    import tyro

    jax.config.update("jax_enable_x64", True)
    config = tyro.cli(Config)
    enlarge_thread_pool()
    try:
        run(smaller(config) if config.quick else config)
    except ValueError as error:
        sys.exit(f"error: {error}")
