"""Which solver and which integrator for which density: `python -m experiments.compare_solvers --data-dir DIR`.

From starts in the bulk, one transition each of Riemannian HMC with every solver and both implicit integrators, all
trajectories taken back: how many fail by a solve, how many cannot be taken back, how many are accepted, and what they
cost. An iteration is one evaluation of the equations' right-hand sides, or a Newton iteration, which takes d
derivatives more; one of the midpoint rule builds and factorises the metric, one of the generalized leapfrog does not:
so it is the seconds that compare them. Densities:

- banana: y ~ N(θ₁ + θ₂², 4), 100 observations, prior N(0, 4 I); Fisher metric;
- Neal's funnel, d = 2 and 10; SoftAbs metric;
- the logistic regressions of Girolami & Calderhead (2011), among them ripley, at their step size 0.5 and at half of it;
- a decoder's posterior: a net of tanh units with random weights, Bernoulli pixels, d = 8; Fisher metric.

Writes compare_solvers.{json,md} under --results.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hmcvae
from experiments.reporting.reports import command_line, device_line, make_report, write_report
from experiments.samplers import targets
from experiments.support.checks import check_fields, check_whole
from experiments.support.files import check_writable
from experiments.support.timing import timed
from hmcvae import integrators, metrics, solvers

SOLVERS = {
    "fixed point": solvers.fixed_point(),
    "Newton": solvers.newton(),
    "switching": solvers.switching(),
}
INTEGRATORS = {
    "generalized leapfrog": integrators.generalized_leapfrog,
    "implicit midpoint": integrators.implicit_midpoint,
}


@dataclass(frozen=True)
class SolversConfig:
    """Compare the solvers of implicit equations and the integrators that pose them.

    Attributes:
        data_dir: the folder that holds logreg/*.npz; without it there are no logistic regressions.
        datasets: of them.
        num_starts: trajectories for each row.
        num_burn_in: transitions at half the least step before them.
        results: where the table goes.
    """

    data_dir: Path | None = None
    datasets: tuple[str, ...] = ("ripley", "heart")
    num_starts: int = 500
    num_burn_in: int = 60
    results: Path = Path("runs/compare_solvers")

    def __post_init__(self):
        check_fields(self, {"num_starts": check_whole(1), "num_burn_in": check_whole(0)})


@dataclass(frozen=True)
class Case:
    """A density with its metric, step sizes to be tried, and the number of steps, drawn from {low, …, high}."""

    target: targets.Target
    step_sizes: tuple[float, ...]
    steps: tuple[int, int]


def banana() -> targets.Target:
    """The banana of the table, with its 100 observations drawn at θ₁ + θ₂² = 1."""
    mean, weight = 1.0 + 0.2 * np.random.default_rng(0).normal(), 25.0

    def logdensity_fn(z: jax.Array) -> jax.Array:
        return -0.5 * weight * (mean - z[0] - z[1] ** 2) ** 2 - 0.125 * jnp.sum(z**2)

    metric = metrics.fisher(lambda z: (z[0] + z[1] ** 2)[None], lambda f: jnp.full_like(f, weight), 0.25)
    unknown = np.full(2, np.nan)
    return targets.Target("banana", logdensity_fn, metric, np.array([0.9, 0.3]), unknown, unknown)


def decoder(latent_dim: int = 8, hidden: int = 64, num_pixels: int = 196) -> targets.Target:
    """The posterior of one image under a decoder with random weights, sharp enough to be curved."""
    rng = np.random.default_rng(0)
    first = jnp.asarray(rng.normal(size=(hidden, latent_dim)) / np.sqrt(latent_dim))
    second = jnp.asarray(3 * rng.normal(size=(num_pixels, hidden)) / np.sqrt(hidden))
    truth = rng.normal(size=latent_dim)

    def logits(z: jax.Array) -> jax.Array:
        return second @ jnp.tanh(1.5 * first @ z)

    bright = np.asarray(jax.nn.sigmoid(logits(jnp.asarray(truth))))
    image = jnp.asarray(rng.uniform(size=num_pixels) < bright, float)

    def logdensity_fn(z: jax.Array) -> jax.Array:
        f = logits(z)
        return jnp.dot(image, f) - jnp.sum(jax.nn.softplus(f)) - 0.5 * jnp.sum(z**2)

    metric = metrics.fisher(logits, lambda f: jax.nn.sigmoid(f) * jax.nn.sigmoid(-f), 1.0)
    unknown = np.full(latent_dim, np.nan)
    return targets.Target("decoder", logdensity_fn, metric, truth, unknown, unknown)


def cases(config: SolversConfig) -> Iterator[Case]:
    yield Case(banana(), (0.04, 0.12), (2, 12))
    for dimension in (2, 10):
        yield Case(targets.funnel(dimension, 1.0), (0.1, 0.3), (2, 12))
    yield Case(decoder(), (0.15, 0.4), (2, 6))
    if config.data_dir is not None:
        for name in config.datasets:
            yield Case(
                targets.logistic(name, *targets.load_logistic(name, config.data_dir)), (0.25, 0.5), (1, 6)
            )


def bulk(case: Case, config: SolversConfig) -> jax.Array:
    """Where the trajectories start, [n, d]: the ends of as many chains of RMHMC with small steps."""
    target = case.target
    steps = hmcvae.uniform_steps(*case.steps)
    kernel = hmcvae.rmhmc(target.logdensity_fn, 0.5 * min(case.step_sizes), steps, target.metric)

    def chain(key: jax.Array, position: jax.Array) -> jax.Array:
        def body(state: Any, key: jax.Array) -> tuple[Any, None]:
            return kernel.step(key, state)[0], None

        return jax.lax.scan(body, kernel.init(position), jax.random.split(key, config.num_burn_in))[
            0
        ].position

    keys = jax.random.split(jax.random.key(0), config.num_starts)
    starts = jnp.tile(jnp.asarray(target.start, float), (config.num_starts, 1))
    return jax.jit(jax.vmap(chain))(keys, starts)


def measure(case: Case, positions: jax.Array, solver: str, integrator: str) -> Iterator[dict]:
    """A row for each step size: shares of the trajectories, and what they cost."""
    target = case.target
    make = partial(INTEGRATORS[integrator], solver=SOLVERS[solver])
    steps = hmcvae.uniform_steps(*case.steps)
    algorithm = hmcvae.hmc(target.logdensity_fn, 1.0, steps, target.metric, integrator=make)

    def transition(key: jax.Array, position: jax.Array, step_size: Any) -> tuple[jax.Array, Any]:
        start = algorithm.init(position)
        state, info = algorithm.kernel(key, start, step_size, target.metric)
        return jnp.sum((state.position - position) ** 2), info

    program = jax.jit(jax.vmap(transition, (0, 0, None)))
    keys = jax.random.split(jax.random.key(1), len(positions))
    for step_size in case.step_sizes:
        call = partial(program, keys, positions, step_size)
        timed(call)  # compile
        (moved, info), elapsed = timed(call)
        num_steps = int(info.num_integration_steps.sum())
        yield {
            "target": target.name,
            "d": positions.shape[1],
            "step_size": step_size,
            "integrator": integrator,
            "solver": solver,
            "unconverged": float((~info.solver.converged).mean()),
            "irreversible": 1 - float(info.is_reversible.mean()),
            "divergent": float(info.is_divergent.mean()),
            "accepted": float(info.acceptance_rate.mean()),
            "squared_jump": float(moved.mean()),
            "iterations_per_step": float(info.solver.num_iterations.sum()) / num_steps,
            "microseconds_per_step": 1e6 * elapsed.seconds / num_steps,
        }


def table_row(row: dict) -> str:
    names = ("unconverged", "irreversible", "divergent", "accepted")
    shares = " | ".join(f"{row[name]:.3f}" for name in names)
    return (
        f"| {row['target']} | {row['step_size']:g} | {row['integrator']} | {row['solver']} | {shares} | "
        f"{row['squared_jump']:.3g} | {row['iterations_per_step']:.1f} | {row['microseconds_per_step']:.3g} |"
    )


def markdown(report: dict) -> str:
    lines = [
        "# Solvers and integrators of Riemannian HMC",
        "",
        f"{report['config']['num_starts']} trajectories a row from the bulk, float64, every step taken back. Failed: a "
        "solve did not converge. Irreversible: not so, but the way back misses. Accepted: the mean probability. "
        "Microseconds are of all trajectories together, divided by their steps: all wait for the slowest solve.",
        "",
        "| target | ε | integrator | solver | failed | irreversible | divergent | accepted | squared jump | "
        "iterations a step | µs a step |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += map(table_row, report["rows"])
    lines += ["", f"Device: {device_line(report['environment'])}, float64."]
    return "\n".join(lines) + "\n"


def run_all(config: SolversConfig, command: str) -> dict:
    """Measure everything, and write the results."""
    check_writable(config.results)
    rows = []
    for case in cases(config):
        positions = bulk(case, config)
        for integrator in INTEGRATORS:
            for solver in SOLVERS:
                for row in measure(case, positions, solver, integrator):
                    rows.append(row)
                    print(table_row(row), flush=True)
    rows.sort(key=lambda row: (row["target"], row["step_size"]))
    report = make_report(command, config, {"rows": rows})
    write_report(config.results / "compare_solvers", report, markdown)
    return report


def main() -> None:
    import tyro

    config = tyro.cli(SolversConfig, prog="python -m experiments.compare_solvers")
    jax.config.update("jax_enable_x64", True)
    run_all(config, command_line("compare_solvers", config.data_dir))
