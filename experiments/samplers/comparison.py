"""HMC and RMHMC side by side: `python -m experiments.compare_samplers`.

On a banana, Neal's funnel (d = 2 and 10) and, with --data-dir, a logistic regression posterior of Girolami & Calderhead
(2011). Writes into --results, by default runs/compare_samplers: compare_samplers.{json,md},
compare_samplers_trajectories.png (a few trajectories of each over the density, with the metric's ellipses),
compare_samplers_convergence.png (errors of running moments against the number of derivatives taken and against
seconds) and, where ArviZ is installed, its trace and pair plots of one target, compare_samplers_{trace,pair}.png.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hmcvae
from experiments.reporting import plots
from experiments.reporting.plots import plt, save_figure
from experiments.samplers import targets
from experiments.samplers.targets import Target
from experiments.support.checks import check_fields, check_whole
from experiments.support.files import check_writable, save_report
from hmcvae import data, integrators, solvers
from hmcvae._checks import check_seed
from hmcvae.samplers.draws import Samples

METHODS = ("HMC", "RMHMC")
# Each with the number that its draws are divided by: in ten dimensions they cost most.
TARGETS = {"banana": 1, "funnel_2": 1, "funnel_10": 4, "logistic": 1}
# Curved enough that plain iterations leave solvable equations unsolved.
SOLVER = solvers.newton()


@dataclass(frozen=True)
class SamplersConfig:
    """Compare HMC with RMHMC on curved and on badly scaled densities.

    Attributes:
        data_dir: the folder that holds logreg/*.npz, by default HMCVAE_DATA_DIR; without it that target is left out.
        dataset: of the logistic regression.
        targets: of banana, funnel_2, funnel_10, logistic.
        num_chains: chains side by side.
        num_samples: draws of each chain of RMHMC; a quarter of it for funnel_10, where they cost most.
        hmc_factor: how many times as many draws HMC makes, whose transitions are so much cheaper.
        num_warmup: transitions before them, to tune the step size (and HMC's diagonal masses).
        max_steps: integration steps are drawn from 1 to this.
        check_reversibility: retrace RMHMC's trajectories, at twice the cost: without it what can be solved forwards
            but not backwards biases the draws.
        traced: the target of the trace and pair plots.
        seed: of everything.
        results: where the tables and pictures go.
    """

    data_dir: Path | None = None
    dataset: str = "ripley"
    targets: tuple[str, ...] = tuple(TARGETS)
    num_chains: int = 16
    num_samples: int = 2000
    hmc_factor: int = 10
    num_warmup: int = 500
    max_steps: int = 25
    check_reversibility: bool = True
    traced: str = "funnel_2"
    seed: int = 0
    results: Path = Path("runs/compare_samplers")

    def __post_init__(self):
        counts = ("num_chains", "num_samples", "hmc_factor", "max_steps")
        check_fields(
            self,
            {name: check_whole(1) for name in counts} | {"num_warmup": check_whole(0), "seed": check_seed},
        )
        for name in (*self.targets, self.traced):
            num_draws(name, "RMHMC", self)


def num_draws(name: str, method: str, config: SamplersConfig) -> int:
    """Draws of each chain.

    Raises:
        ValueError: for a target that is not there.
    """
    if name not in TARGETS:
        raise ValueError(f"targets must be among {', '.join(TARGETS)}, got {name!r}")
    return config.num_samples // TARGETS[name] * (config.hmc_factor if method == "HMC" else 1)


def algorithm_of(method: str, target: Target, config: SamplersConfig) -> Any:
    """The kernel, before its step size is tuned."""
    steps = hmcvae.uniform_steps(1, config.max_steps)
    if method == "HMC":
        return hmcvae.hmc(target.logdensity_fn, 0.1, steps)
    return hmcvae.rmhmc(
        target.logdensity_fn,
        0.1,
        steps,
        target.metric,
        solver=SOLVER,
        check_reversibility=config.check_reversibility,
    )


def run(name: str, method: str, target: Target, config: SamplersConfig) -> tuple[Samples, float]:
    """(draws, their seconds), compilation not among them; `name` is one of TARGETS."""
    count = num_draws(name, method, config)
    algorithm = algorithm_of(method, target, config)
    starts = jnp.tile(jnp.asarray(target.start, float), (config.num_chains, 1))
    # Where RMHMC's equations have no solution the transition is rejected: its step size is better chosen with a margin.
    acceptance = 0.8 if method == "HMC" else 0.95
    warm = hmcvae.sample(
        jax.random.key(config.seed),
        algorithm,
        starts,
        num_samples=1,
        num_warmup=config.num_warmup,
        target_acceptance=acceptance,
    )
    tuned = algorithm._replace(step_size=warm.adaptation.step_size, metric=warm.adaptation.metric)

    @jax.jit
    def draw(key: jax.Array, positions: jax.Array) -> Samples:
        return hmcvae.sample(key, tuned, positions, num_samples=count)

    arguments = jax.random.key(config.seed + 1), warm.position[:, -1]
    compiled = draw.lower(*arguments).compile()
    start = time.perf_counter()
    samples = jax.block_until_ready(compiled(*arguments))
    return samples._replace(adaptation=warm.adaptation), time.perf_counter() - start


def derivatives(samples: Samples) -> np.ndarray:
    """Derivatives taken in each transition, [chain, draw]: ∇log p a step; for RMHMC also that of log |G| a step, and
    one of uᵀ G u or product with G for every iteration of a solve."""
    steps = np.asarray(samples.info.num_integration_steps)
    iterations = np.asarray(samples.info.solver.num_iterations)
    return steps * np.where(iterations > 0, 2, 1) + iterations


def reference(target: Target, samples: dict[str, Samples]) -> tuple[np.ndarray, np.ndarray]:
    """E[z] and E[z²]: the target's own where known, else the mean over all that was drawn."""
    pooled = np.concatenate([np.asarray(s.position).reshape(-1, len(target.start)) for s in samples.values()])
    if np.isnan(target.mean).all():
        return pooled.mean(0), (pooled**2).mean(0)
    return target.mean, target.square


def running_error(draws: np.ndarray, mean: np.ndarray, square: np.ndarray) -> np.ndarray:
    """[draw]: root mean square over chains and moments of the running mean's error, in posterior standard deviations
    (of z and of z²)."""
    counts = np.arange(1, draws.shape[1] + 1)[None, :, None]
    errors = []
    for values, exact in ((draws, mean), (draws**2, square)):
        known = np.isfinite(exact)
        scale = values.reshape(-1, values.shape[-1]).std(0)[known]
        running = np.cumsum(values[..., known], axis=1) / counts
        errors.append((running - exact[known]) / scale)
    return np.sqrt(np.mean(np.concatenate(errors, axis=-1) ** 2, axis=(0, 2)))


def measure(
    target: Target, found: dict[str, tuple[Samples, float]]
) -> tuple[list[dict], dict[str, dict], dict[str, tuple]]:
    """A row of figures, a curve, and (step size, metric) for each method."""
    mean, square = reference(target, {method: samples for method, (samples, _) in found.items()})
    rows, curves = [], {}
    for method, (samples, seconds) in found.items():
        d = hmcvae.diagnose(samples, seconds)
        taken = derivatives(samples)
        known = np.isfinite(square)
        sizes = d.ess_mean[known].min(), d.ess_square[known].min()
        draws = np.asarray(samples.position, np.float64)
        errors = running_error(draws, mean, square)
        deviation = np.abs(draws.mean((0, 1)) - mean) / (draws.std((0, 1)) / np.sqrt(d.ess_mean))
        rows.append(
            {
                "method": method,
                "step_size": float(samples.adaptation.step_size),
                "acceptance_rate": d.acceptance_rate,
                "num_transitions": d.num_transitions,
                "num_unconverged": d.num_unconverged,
                "num_irreversible": d.num_irreversible,
                "num_divergent": d.num_divergent,
                "rhat": float(d.rhat[known].max()),
                "e_bfmi": float(d.e_bfmi.min()),
                "ess_mean": float(sizes[0]),
                "ess_square": float(sizes[1]),
                "ess_per_1000_derivatives": 1e3 * float(min(sizes)) / float(taken.sum()),
                "ess_per_second": float(min(sizes)) / seconds,
                "seconds": seconds,
                "largest_deviation": float(np.nanmax(deviation)),
            }
        )
        curves[method] = {
            "derivatives": np.cumsum(taken.mean(0)),
            "seconds": seconds * np.arange(1, draws.shape[1] + 1) / draws.shape[1],
            "errors": errors,
        }
    tuned = {name: (float(s.adaptation.step_size), s.adaptation.metric) for name, (s, _) in found.items()}
    return rows, curves, tuned


def markdown(report: dict) -> str:
    """The table."""
    machine, config = report["environment"], report["config"]
    lines = [
        "# HMC and RMHMC side by side",
        "",
        f"`{report['command']}`",
        "",
        "| target | method | draws | step size | accepted | failed solves | irreversible | divergent | R̂ | E-BFMI | "
        "min ESS of z | min ESS of z² | ESS per 1000 derivatives | ESS per second | mean off by (s.e.) |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, rows in report["targets"].items():
        for r in rows:
            counts = " | ".join(
                str(r[f"num_{kind}"]) for kind in ("unconverged", "irreversible", "divergent")
            )
            lines.append(
                f"| {name} | {r['method']} | {r['num_transitions']:,} | {r['step_size']:.3g} | "
                f"{r['acceptance_rate']:.3f} | {counts} | "
                f"{r['rhat']:.3f} | {r['e_bfmi']:.2f} | {r['ess_mean']:.0f} | {r['ess_square']:.0f} | "
                f"{r['ess_per_1000_derivatives']:.3g} | {r['ess_per_second']:.3g} | {r['largest_deviation']:.1f} |"
            )
    lines += [
        "",
        f"{config['num_chains']} chains, the draws of all of them in the table, "
        f"after {config['num_warmup']} transitions of warm-up, 1 to {config['max_steps']} steps. Step "
        "sizes tuned to an acceptance of 0.8 (HMC, which also adapts diagonal masses) and 0.95 (RMHMC, whose steps are "
        "rejected where the equations have no solution; solved by Newton's method). A derivative is one of log p, of "
        "log |G|, or one iteration of a solve. R̂ and effective sizes are for the coordinates whose true moments are "
        "known (of the funnels v alone). The last column: the largest error of a posterior mean in its own standard "
        "errors; for the logistic regression, against the mean of both methods. "
        + (
            "RMHMC's trajectories are retraced, and rejected where they do not come back, at twice the cost."
            if config["check_reversibility"]
            else "Reversibility is not checked."
        ),
        "",
        f"Device: {machine['device']} ({machine['num_cpus']} cores), JAX {machine['jax']}, float64.",
    ]
    return "\n".join(lines) + "\n"


def make_trajectory(target: Target, method: str, metric: Any, num_steps: int) -> Callable:
    """(start [d], key, step_size) -> positions along one trajectory, [num_steps + 1 at most, d]: it ends where a solve
    fails or the numbers are no longer finite."""
    make = (
        integrators.leapfrog if method == "HMC" else partial(integrators.generalized_leapfrog, solver=SOLVER)
    )
    step = make(target.logdensity_fn, metric)

    @jax.jit
    def walk(start: jax.Array, key: jax.Array, step_size: Any) -> tuple[jax.Array, jax.Array]:
        momentum = metric.sample_momentum(key, start)

        def body(state: Any, _: None):
            state, info = step(state, step_size)
            return state, (state.position, info.converged)

        first = integrators.init(target.logdensity_fn, metric, start, momentum)
        return jax.lax.scan(body, first, None, length=num_steps)[1]

    def trajectory(start: np.ndarray, key: jax.Array, step_size: float) -> np.ndarray:
        path, converged = map(np.asarray, walk(jnp.asarray(start, float), key, step_size))
        good = np.cumprod(converged & np.isfinite(path).all(axis=1)).astype(bool)
        return np.concatenate([start[None], path[good]])

    return trajectory


def draw_trajectories(
    pictured: list[tuple[Target, dict[str, tuple]]], path: Path, num_steps: int = 25
) -> None:
    """A row for each two-dimensional target, a column for each method."""
    figure, grid = plt.subplots(len(pictured), 2, figsize=(10, 4.2 * len(pictured)), squeeze=False)
    for (target, tuned), axes_row in zip(pictured, grid, strict=True):
        left, right, bottom, top = target.window or (-3, 3, -3, 3)
        x, y = np.linspace(left, right, 240), np.linspace(bottom, top, 240)
        points = jnp.asarray(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2))
        logs = np.asarray(jax.vmap(target.logdensity_fn)(points)).reshape(240, 240)
        starts = _starts(target)
        for method, axes in zip(METHODS, axes_row, strict=True):
            levels = logs.max() - np.array([12, 8, 5, 3, 1.5, 0.5])
            axes.contour(x, y, logs, levels, colors="0.75", linewidths=0.8, linestyles="solid")
            step_size, metric = tuned[method]
            trajectory = make_trajectory(target, method, metric, num_steps)
            for index, start in enumerate(starts):
                walk = trajectory(start, jax.random.key(index), step_size)
                axes.plot(*walk.T, "-o", color=f"C{index}", ms=2.5, lw=1.1)
                axes.plot(*walk[0], "s", color=f"C{index}", ms=6)
                _ellipse(axes, metric, start, f"C{index}", step_size)
            axes.set_title(f"{target.name}: {method}, step size {step_size:.2g}", fontsize=10)
            axes.set_xlim(left, right)
            axes.set_ylim(bottom, top)
            names = ("θ₁", "θ₂") if target.name == "banana" else ("x", "v")
            axes.set_xlabel(names[0])
            axes.set_ylabel(names[1])
    figure.suptitle(
        f"{num_steps} steps from each square; ellipses: three steps at unit speed in the metric, "
        "{z' : (z' - z)ᵀ G(z) (z' - z) = (3ε)²}; grey: log density",
        fontsize=10,
    )
    figure.tight_layout()
    save_figure(figure, path)


def _starts(target: Target) -> list[np.ndarray]:
    if target.name == "banana":
        return [np.array([0.9, 0.3]), np.array([-0.5, 1.2]), np.array([-1.5, -1.55])]
    return [np.array([0.3, -2.0]), np.array([1.0, 1.0]), np.array([-3.0, 4.0])]


def _ellipse(axes: Any, metric: Any, z: np.ndarray, color: str, step_size: float) -> None:
    angles = np.linspace(0, 2 * np.pi, 100)
    circle = jnp.asarray(np.stack([np.cos(angles), np.sin(angles)]))
    lower = np.linalg.cholesky(np.asarray(metric.tensor(jnp.asarray(z, float))))
    points = z[:, None] + 3 * step_size * np.linalg.solve(lower.T, np.asarray(circle))
    axes.fill(*points, color=color, alpha=0.25, lw=0)


def draw_convergence(curves: dict[str, dict[str, dict]], path: Path) -> None:
    """Errors of running moments, against derivatives and against seconds, a row for each target."""
    figure, grid = plt.subplots(len(curves), 2, figsize=(9.5, 2.6 * len(curves)), squeeze=False, sharey="row")
    for (name, methods), axes_row in zip(curves.items(), grid, strict=True):
        for axes, clock in zip(axes_row, ("derivatives", "seconds"), strict=True):
            for index, (method, curve) in enumerate(methods.items()):
                axes.loglog(curve[clock][4:], curve["errors"][4:], color=f"C{index}", label=method, lw=1.5)
            axes.grid(alpha=0.3)
            axes.set_title(name, fontsize=10)
        axes_row[0].set_ylabel("error of running moments,\nposterior s.d.")
    grid[-1][0].set_xlabel("derivatives taken by one chain")
    grid[-1][1].set_xlabel("seconds, all chains side by side")
    grid[0][0].legend(fontsize=9)
    figure.tight_layout()
    save_figure(figure, path)


def make_target(name: str, config: SamplersConfig) -> Target:
    """A target by name. Softness 1 keeps the funnels' metric away from the small eigenvalues of their inflections."""
    if name == "banana":
        return targets.banana()
    if name.startswith("funnel_"):
        return targets.funnel(int(name.removeprefix("funnel_")), 1.0)
    return targets.logistic(config.dataset, *targets.load_logistic(config.dataset, config.data_dir))


def compare(config: SamplersConfig, command: str) -> dict:
    """Measure all targets, and write the results."""
    check_writable(config.results)
    has_data = config.data_dir or os.environ.get(data.DATA_DIR_VARIABLE)
    chosen = {name: make_target(name, config) for name in config.targets if name != "logistic" or has_data}
    found, curves, tuned = {}, {}, {}
    for name, target in chosen.items():
        drawn = {method: run(name, method, target, config) for method in METHODS}
        found[target.name], curves[target.name], tuned[target.name] = measure(target, drawn)
        if name == config.traced and util.find_spec("arviz"):
            coordinates = [f"z{i + 1}" for i in range(min(3, len(target.start)))]
            trace, pair = (config.results / f"compare_samplers_{kind}.png" for kind in ("trace", "pair"))
            plots.trace_and_pair({m: samples for m, (samples, _) in drawn.items()}, coordinates, trace, pair)
        for row in found[target.name]:
            print(
                f"{target.name:<16}{row['method']:<7}ESS of z {row['ess_mean']:7.0f}, of z² {row['ess_square']:7.0f}, "
                f"{row['seconds']:6.2f} s, failed solves {row['num_unconverged']}, divergent {row['num_divergent']}"
            )
    report = save_report(config.results / "compare_samplers", command, config, {"targets": found}, markdown)
    pictured = [
        (target, tuned[target.name]) for target in chosen.values() if target.window and len(target.start) == 2
    ]
    draw_trajectories(pictured, config.results / "compare_samplers_trajectories.png")
    draw_convergence(curves, config.results / "compare_samplers_convergence.png")
    return report


def main() -> None:
    import tyro

    config = tyro.cli(SamplersConfig, prog="python -m experiments.compare_samplers")
    jax.config.update("jax_enable_x64", True)
    command = "python -m experiments.compare_samplers " + " ".join(sys.argv[1:])
    compare(config, command.strip())
    print((config.results / "compare_samplers.md").read_text())
