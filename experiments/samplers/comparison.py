"""HMC and RMHMC side by side: `python -m experiments.compare_samplers`.

On a banana, Neal's funnel (d = 2 and 10) and, with --data-dir, a logistic regression posterior of Girolami & Calderhead
(2011). Writes into --results, by default runs/compare_samplers: compare_samplers.{json,md},
compare_samplers_trajectories.png (a few trajectories of each over the density, with the metric's ellipses),
compare_samplers_convergence.png (errors of running moments against the number of derivatives taken and against
seconds) and traces and pairs of coordinates of one target, compare_samplers_{trace,pair}.png.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

import hmcvae
from experiments.reporting import plots
from experiments.reporting.reports import (
    command_line,
    device_line,
    make_report,
    markdown_table,
    write_report,
)
from experiments.samplers import measures, targets
from experiments.samplers.figures import Dynamics, draw_convergence, draw_trajectories
from experiments.samplers.sampler import Drawn, Sampler
from experiments.samplers.targets import Target
from experiments.support.checks import check_choices, check_fields, check_whole
from experiments.support.files import check_writable
from experiments.support.timing import timed
from hmcvae import data, integrators, solvers
from hmcvae._checks import check_seed
from hmcvae.samplers.draws import Samples

# Curved enough that plain iterations leave solvable equations unsolved.
SOLVER = solvers.newton()


class Case(NamedTuple):
    """make_fn: config -> the target.  divisor: of the draws, where they cost most.  needs_data: is left out without."""

    make_fn: Callable[[Any], Target]
    divisor: int = 1
    needs_data: bool = False


def _logistic(config: "SamplersConfig") -> Target:
    return targets.logistic(config.dataset, *targets.load_logistic(config.dataset, config.data_dir))


# Softness 1 keeps the funnels' metric away from the small eigenvalues of their inflections.
TARGETS = {
    "banana": Case(lambda config: targets.banana()),
    "funnel_2": Case(lambda config: targets.funnel(2, 1.0)),
    "funnel_10": Case(lambda config: targets.funnel(10, 1.0), divisor=4),
    "logistic": Case(_logistic, needs_data=True),
}


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
        check_choices("targets", self.targets, TARGETS)
        case_of(self.traced)


def case_of(name: str) -> Case:
    """A target of the comparison.

    Raises:
        ValueError: if it is not there.
    """
    check_choices("targets", [name], TARGETS)
    return TARGETS[name]


@dataclass(frozen=True, kw_only=True)
class Contestant(Sampler):
    """A sampler with its share of the draws, and its trajectories for pictures.

    Attributes:
        factor_fn: config -> how many times num_samples it draws.
        integrator_fn: (logdensity_fn, metric) -> step.
    """

    factor_fn: Callable[[SamplersConfig], int]
    integrator_fn: Callable[..., Any]

    def num_draws(self, name: str, config: SamplersConfig) -> int:
        """Draws of each chain on a target of TARGETS."""
        return config.num_samples // case_of(name).divisor * self.factor_fn(config)

    def run(self, name: str, target: Target, config: SamplersConfig) -> Drawn:
        """Tune, compile, and draw from a target; `name` is its in TARGETS."""
        count = self.num_draws(name, config)
        warm = self.warm_up(
            jax.random.key(config.seed),
            self.make_fn(target, config),
            target,
            num_chains=config.num_chains,
            num_warmup=config.num_warmup,
        )

        @jax.jit
        def draw(key: jax.Array, positions: jax.Array) -> Samples:
            return hmcvae.sample(key, warm.algorithm, positions, num_samples=count)

        arguments = jax.random.key(config.seed + 1), warm.positions
        compiled = draw.lower(*arguments).compile()
        samples, elapsed = timed(lambda: compiled(*arguments))
        return Drawn(samples._replace(adaptation=warm.adaptation), elapsed.seconds)

    def dynamics(self, drawn: Drawn) -> Dynamics:
        """Its trajectories as they were tuned."""
        found = drawn.samples.adaptation
        return Dynamics(self.integrator_fn, float(found.step_size), found.metric)


def _hmc(target: Target, config: SamplersConfig) -> Any:
    return hmcvae.hmc(target.logdensity_fn, 0.1, hmcvae.uniform_steps(1, config.max_steps))


def _rmhmc(target: Target, config: SamplersConfig) -> Any:
    return hmcvae.rmhmc(
        target.logdensity_fn,
        0.1,
        hmcvae.uniform_steps(1, config.max_steps),
        target.metric,
        solver=SOLVER,
        check_reversibility=config.check_reversibility,
    )


HMC = Contestant(
    name="HMC",
    make_fn=_hmc,
    target_acceptance=0.8,
    factor_fn=lambda config: config.hmc_factor,
    integrator_fn=integrators.leapfrog,
)
# Where RMHMC's equations have no solution the transition is rejected: its step size is better chosen with a margin.
RMHMC = Contestant(
    name="RMHMC",
    make_fn=_rmhmc,
    target_acceptance=0.95,
    factor_fn=lambda config: 1,
    integrator_fn=partial(integrators.generalized_leapfrog, solver=SOLVER),
)
SAMPLERS = (HMC, RMHMC)

COLUMNS = [
    "target",
    "method",
    "draws",
    "step size",
    "accepted",
    "failed solves",
    "irreversible",
    "divergent",
    "R̂",
]
COLUMNS += ["E-BFMI", "min ESS of z", "min ESS of z²", "ESS per 1000 derivatives", "ESS per second"]
COLUMNS += ["mean off by (s.e.)"]


def markdown(report: dict) -> str:
    """The page."""
    config = report["config"]
    rows = [_cells(name, row) for name, found in report["targets"].items() for row in found]
    way_back = (
        "RMHMC's trajectories are retraced, and rejected where they do not come back, at twice the cost."
        if config["check_reversibility"]
        else "Reversibility is not checked."
    )
    lines = [
        "# HMC and RMHMC side by side",
        "",
        f"`{report['command']}`",
        "",
        *markdown_table(COLUMNS, rows, num_words=2),
        "",
        f"{config['num_chains']} chains, the draws of all of them in the table, "
        f"after {config['num_warmup']} transitions of warm-up, 1 to {config['max_steps']} steps. Step "
        "sizes tuned to an acceptance of 0.8 (HMC, which also adapts diagonal masses) and 0.95 (RMHMC, whose steps are "
        "rejected where the equations have no solution; solved by Newton's method). A derivative is one of log p, of "
        "log |G|, or one iteration of a solve. R̂ and effective sizes are for the coordinates whose true moments are "
        "known (of the funnels v alone). The last column: the largest error of a posterior mean in its own standard "
        f"errors; for the logistic regression, against the mean of both methods. {way_back}",
        "",
        f"Device: {device_line(report['environment'])}, float64.",
    ]
    return "\n".join(lines) + "\n"


def _cells(name: str, row: dict) -> list[str]:
    return [
        *(name, row["method"], f"{row['num_transitions']:,}", f"{row['step_size']:.3g}"),
        f"{row['acceptance_rate']:.3f}",
        *(f"{row[f'num_{kind}']}" for kind in ("unconverged", "irreversible", "divergent")),
        *(f"{row['rhat']:.3f}", f"{row['e_bfmi']:.2f}", f"{row['ess_mean']:.0f}", f"{row['ess_square']:.0f}"),
        *(f"{row['ess_per_1000_derivatives']:.3g}", f"{row['ess_per_second']:.3g}"),
        f"{row['largest_deviation']:.1f}",
    ]


def compare(config: SamplersConfig, command: str) -> dict:
    """Measure all targets, and write the results."""
    check_writable(config.results)
    has_data = config.data_dir or os.environ.get(data.DATA_DIR_VARIABLE)
    chosen = {
        name: case_of(name).make_fn(config)
        for name in config.targets
        if has_data or not case_of(name).needs_data
    }
    rows, curves, pictured = {}, {}, []
    for name, target in chosen.items():
        drawn = {sampler.name: sampler.run(name, target, config) for sampler in SAMPLERS}
        exact = measures.moments(target, drawn)
        rows[target.name] = [measures.row(method, own, exact) for method, own in drawn.items()]
        curves[target.name] = {method: measures.curve(own, exact) for method, own in drawn.items()}
        for row in rows[target.name]:
            print(_summary(target.name, row))
        if name == config.traced:
            _draw_traces(drawn, len(target.start), config.results)
        if target.view is not None:
            dynamics = {sampler.name: sampler.dynamics(drawn[sampler.name]) for sampler in SAMPLERS}
            pictured.append((target, target.view, dynamics))
    report = make_report(command, config, {"targets": rows})
    write_report(config.results / "compare_samplers", report, markdown)
    if pictured:
        draw_trajectories(pictured, config.results / "compare_samplers_trajectories.png")
    draw_convergence(curves, config.results / "compare_samplers_convergence.png")
    return report


def _summary(name: str, row: dict) -> str:
    return (
        f"{name:<16}{row['method']:<7}ESS of z {row['ess_mean']:7.0f}, of z² {row['ess_square']:7.0f}, "
        f"{row['seconds']:6.2f} s, failed solves {row['num_unconverged']}, divergent {row['num_divergent']}"
    )


def _draw_traces(drawn: Mapping[str, Drawn], dimension: int, folder: Path) -> None:
    names = [f"z{i + 1}" for i in range(min(3, dimension))]
    trace, pair = (folder / f"compare_samplers_{kind}.png" for kind in ("trace", "pair"))
    plots.trace_and_pair({method: own.samples for method, own in drawn.items()}, names, trace, pair)


def main() -> None:
    import tyro

    config = tyro.cli(SamplersConfig, prog="python -m experiments.compare_samplers")
    jax.config.update("jax_enable_x64", True)
    compare(config, command_line("compare_samplers", config.data_dir))
    print((config.results / "compare_samplers.md").read_text())
