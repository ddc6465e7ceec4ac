"""Bayesian logistic regression by RMHMC, HMC, simplified manifold MALA and NUTS, beside the published figures of
Girolami & Calderhead (2011, Tables 3-7): `python -m experiments.logistic_regression --data-dir DIR`.

Each method makes `num_runs` runs of one chain, one after the other, from w = 1e-3: a warm-up that is not timed, then
`num_samples` draws that are. Writes logistic_regression.{json,md,png} into --results, by default runs/.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import hmcvae
from experiments.reporting.plots import plt, save_figure
from experiments.reporting.reports import command_line, device_line, make_report, write_report
from experiments.samplers import targets
from experiments.samplers.published import PUBLISHED, Published
from experiments.samplers.single_chain import BlackjaxNuts, SingleChain
from experiments.samplers.targets import Target
from experiments.support.checks import check_above_zero, check_choices, check_fields, check_whole
from experiments.support.files import check_writable


def _rmhmc(target: Target, config: "LogisticConfig") -> Any:
    return hmcvae.rmhmc(
        target.logdensity_fn,
        config.step_size,
        hmcvae.uniform_steps(1, 6),
        target.metric,
        check_reversibility=config.check_reversibility,
    )


def _hmc(target: Target, config: "LogisticConfig") -> Any:
    return hmcvae.hmc(target.logdensity_fn, 0.1, hmcvae.uniform_steps(1, 100))


def _mmala(target: Target, config: "LogisticConfig") -> Any:
    return hmcvae.mmala(target.logdensity_fn, 0.5, target.metric)


# RMHMC wants a margin in its acceptance, since a step whose equations have no solution is rejected. Without tuning it
# draws at their step size; its warm-up is to move away from where no step of that size is possible. Langevin proposals
# are best near 0.57 (Roberts & Rosenthal 1998).
SAMPLERS: dict[str, SingleChain | BlackjaxNuts] = {
    sampler.name: sampler
    for sampler in (
        SingleChain(name="RMHMC", make_fn=_rmhmc, target_acceptance=0.9, tuned=()),
        SingleChain(name="RMHMC, tuned", make_fn=_rmhmc, target_acceptance=0.9),
        SingleChain(name="HMC", make_fn=_hmc, target_acceptance=0.8),
        SingleChain(name="mMALA", make_fn=_mmala, target_acceptance=0.57),
        BlackjaxNuts(),
    )
}


@dataclass(frozen=True)
class LogisticConfig:
    """Sample the logistic regression posteriors of Girolami & Calderhead (2011).

    Attributes:
        data_dir: the folder that holds logreg/*.npz.
        datasets: of australian, german, heart, pima, ripley.
        methods: of "RMHMC", "RMHMC, tuned", HMC, mMALA, NUTS; NUTS is BlackJAX's, left out where that is missing.
        num_runs: runs of each method.
        num_samples: draws of each run.
        num_warmup: transitions before them.
        step_size: of RMHMC, theirs; with 1 to 6 steps.
        check_reversibility: retrace RMHMC's trajectories, at twice the cost: where many solves fail (ripley at their
            step size) what can be solved forwards but not backwards biases the draws.
        float64: double precision, as theirs.
        results: where the table and the picture go.
    """

    data_dir: Path | None = None
    datasets: tuple[str, ...] = targets.LOGISTIC
    methods: tuple[str, ...] = tuple(SAMPLERS)
    num_runs: int = 10
    num_samples: int = 5000
    num_warmup: int = 1000
    step_size: float = 0.5
    check_reversibility: bool = True
    float64: bool = True
    results: Path = Path("runs/logistic_regression")

    def __post_init__(self):
        check_choices("methods", self.methods, SAMPLERS)
        check_choices("datasets", self.datasets, targets.LOGISTIC)
        check_fields(
            self,
            {
                "num_runs": check_whole(1),
                "num_samples": check_whole(1),
                "num_warmup": check_whole(0),
                "step_size": check_above_zero,
            },
        )


def measure(method: str, target: targets.Target, config: LogisticConfig) -> dict:
    """The runs of one method on one target: seconds, effective sample sizes and failures, means over the runs."""
    run = SAMPLERS[method].make_run(target, config)
    run(jax.random.key(0))  # compiles
    found = []
    for index in range(config.num_runs):
        samples, seconds = run(jax.random.key(1 + index))
        found.append((hmcvae.diagnose(samples, seconds), np.asarray(samples.position[0])))
    # As theirs: clipped at the number of draws.
    sizes = np.minimum([d.ess_mean for d, _ in found], config.num_samples)
    squares = np.minimum([d.ess_square for d, _ in found], config.num_samples)
    seconds = float(np.mean([d.seconds for d, _ in found]))
    spread = [float(np.mean(f(sizes, axis=1))) for f in (np.min, np.median, np.max)]
    draws = np.concatenate([position for _, position in found])
    return {
        "method": method,
        "seconds": seconds,
        "ess": spread,
        "ess_square_min": float(np.mean(np.min(squares, axis=1))),
        "seconds_per_min_ess": seconds / spread[0],
        "acceptance_rate": float(np.mean([d.acceptance_rate for d, _ in found])),
        "num_divergent": sum(d.num_divergent for d, _ in found),
        "num_unconverged": sum(d.num_unconverged for d, _ in found),
        "num_irreversible": sum(d.num_irreversible for d, _ in found),
        "num_transitions": sum(d.num_transitions for d, _ in found),
        "mean": draws.mean(0).tolist(),
        "sd": draws.std(0).tolist(),
        # Of the mean over all runs, in posterior standard deviations.
        "mean_error": (1 / np.sqrt(sizes.sum(0))).tolist(),
    }


def disagreement(rows: list[dict]) -> float:
    """The largest difference of two methods' posterior means, in its own standard errors."""
    worst = 0.0
    for a in rows:
        for b in rows:
            error = np.hypot(np.multiply(a["mean_error"], a["sd"]), np.multiply(b["mean_error"], b["sd"]))
            worst = max(worst, float(np.max(np.abs(np.subtract(a["mean"], b["mean"])) / error)))
    return worst


def markdown(report: dict) -> str:
    """The table, ours and theirs."""
    config = report["config"]
    lines = ["# Bayesian logistic regression", "", f"`{report['command']}`", ""]
    for name, entry in report["datasets"].items():
        lines += _section(name, entry)
    way_back = "retraced at twice the cost" if config["check_reversibility"] else "not retraced"
    lines += [
        f"{config['num_samples']} draws, means over {config['num_runs']} runs of one chain after "
        f"{config['num_warmup']} transitions of warm-up that are not timed; ESS of the mean (ArviZ: Geyer's initial "
        f"monotone sequence), clipped at {config['num_samples']}; failed solves and divergences of all "
        f"{config['num_runs'] * config['num_samples']} transitions. RMHMC: step size {config['step_size']} as "
        f"published, or tuned; 1 to 6 steps, {way_back}. HMC: unit masses, tuned step size, 1 to 100 steps. mMALA: "
        "tuned. NUTS: BlackJAX with window adaptation (diagonal masses).",
        "",
        "Published: Girolami & Calderhead (2011), HMC with 100 steps, MATLAB on the hardware of its time: the "
        "seconds do not compare, the effective sizes and the order of the methods do. They make a fixed number of "
        "iterations and do not look whether a solve converged; here one that did not is rejected.",
        "",
        f"Device: {device_line(report['environment'])}, {'float64' if config['float64'] else 'float32'}.",
    ]
    return "\n".join(lines) + "\n"


def _section(name: str, entry: dict) -> list[str]:
    """One data set's table, and how far its methods agree."""
    n, d = entry["shape"]
    return [
        f"## {name}, {n} × {d}",
        "",
        "| method | s | ESS min, median, max | s per min ESS | min ESS of w² | accepted | failed solves | "
        "irreversible | divergent | published: s; ESS; s per min ESS |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---|",
        *(_row(row, PUBLISHED[name]) for row in entry["rows"]),
        "",
        f"Posterior means of the methods differ by at most {entry['disagreement']:.1f} standard errors over the "
        f"{d} coefficients and all pairs.",
        "",
    ]


def _row(row: dict, published: dict[str, Published]) -> str:
    ess = ", ".join(f"{value:.0f}" for value in row["ess"])
    return (
        f"| {row['method']} | {row['seconds']:.2f} | {ess} | {row['seconds_per_min_ess']:.2g} | "
        f"{row['ess_square_min']:.0f} | {row['acceptance_rate']:.3f} | {row['num_unconverged']} | "
        f"{row['num_irreversible']} | {row['num_divergent']} | {published.get(row['method'], '-')} |"
    )


def draw(report: dict, path: Path) -> None:
    """Seconds for one effective draw of the worst coefficient, by data set and method."""
    datasets = report["datasets"]
    seconds = {
        name: {row["method"]: row["seconds_per_min_ess"] for row in entry["rows"]}
        for name, entry in datasets.items()
    }
    methods = list(next(iter(seconds.values())))
    figure, axes = plt.subplots(figsize=(8.5, 3.8))
    width = 0.8 / len(methods)
    for index, method in enumerate(methods):
        values = [1e3 * own[method] for own in seconds.values()]
        places = np.arange(len(datasets)) + (index - (len(methods) - 1) / 2) * width
        axes.bar(places, values, width, label=method, color=f"C{index}")
    labels = [f"{name}\n{entry['shape'][0]} × {entry['shape'][1]}" for name, entry in datasets.items()]
    axes.set_xticks(range(len(datasets)), labels)
    axes.set_yscale("log")
    axes.set_ylabel("ms per effective draw\nof the worst coefficient (less is better)")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(ncols=len(methods), fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.14), frameon=False)
    save_figure(figure, path)


def run_all(config: LogisticConfig, command: str) -> dict:
    """Measure everything, and write the results."""
    check_writable(config.results)
    loaded = {name: targets.load_logistic(name, config.data_dir) for name in config.datasets}
    datasets = {}
    for name, (X, t) in loaded.items():
        target, rows = targets.logistic(name, X, t), []
        for method in config.methods:
            try:
                rows.append(measure(method, target, config))
            except ImportError as error:
                print(f"{method}: not measured ({error})")
                continue
            row = rows[-1]
            print(
                f"{name:<12}{method:<7}{row['seconds']:8.2f} s, min ESS {row['ess'][0]:6.0f}, failed solves "
                f"{row['num_unconverged']}, divergent {row['num_divergent']}"
            )
        datasets[name] = {"shape": X.shape, "rows": rows, "disagreement": disagreement(rows)}
    report = make_report(command, config, {"datasets": datasets})
    write_report(config.results / "logistic_regression", report, markdown, draw)
    return report


def main() -> None:
    import tyro

    config = tyro.cli(LogisticConfig, prog="python -m experiments.logistic_regression")
    jax.config.update("jax_enable_x64", config.float64)
    run_all(config, command_line("logistic_regression", config.data_dir))
    print((config.results / "logistic_regression.md").read_text())
