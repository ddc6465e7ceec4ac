"""Bayesian logistic regression by RMHMC, HMC, simplified manifold MALA and NUTS, beside the published figures of
Girolami & Calderhead (2011, Tables 3-7): `python -m experiments.logistic_regression --data-dir DIR`.

Each method makes `num_runs` runs of one chain, one after the other, from w = 1e-3: a warm-up that is not timed, then
`num_samples` draws that are. Writes logistic_regression.{json,md,png} into --results, by default runs/.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hmcvae
from experiments.samplers import targets
from experiments.support.checks import check_above_zero, check_fields, check_whole
from experiments.support.files import check_writable, save_report
from hmcvae.samplers.draws import Samples, TransitionCounts

# s, (min, median, max ESS) and s per min ESS of their Tables 3-7: 5000 draws, means of 10 runs, MATLAB.
PUBLISHED = {
    "australian": {
        "RMHMC": (81.7, (4975, 5000, 5000), 0.016),
        "HMC": (87.3, (3197, 3612, 3982), 0.027),
        "mMALA": (3.2, (487, 625, 746), 0.006),
    },
    "german": {
        "RMHMC": (246.6, (4757, 5000, 5000), 0.052),
        "HMC": (117.9, (3182, 3632, 3986), 0.037),
        "mMALA": (5.0, (435, 615, 747), 0.012),
    },
    "heart": {
        "RMHMC": (42.2, (4862, 5000, 5000), 0.0087),
        "HMC": (27.6, (3246, 3647, 4003), 0.0085),
        "mMALA": (1.6, (371, 481, 617), 0.0043),
    },
    "pima": {
        "RMHMC": (34.4, (5000, 5000, 5000), 0.0069),
        "HMC": (45.7, (3265, 3605, 3893), 0.014),
        "mMALA": (1.9, (1046, 1160, 1300), 0.0018),
    },
    "ripley": {
        "RMHMC": (28.0, (4273, 4677, 4961), 0.0065),
        "HMC": (24.8, (3326, 3719, 4053), 0.0076),
        "mMALA": (1.3, (291, 403, 473), 0.0045),
    },
}
METHODS = ("RMHMC", "RMHMC, tuned", "HMC", "mMALA", "NUTS")


# Of the warm-up. Langevin proposals are best near 0.57 (Roberts & Rosenthal 1998); RMHMC wants a margin, since a step
# whose equations have no solution is rejected.
TARGET_ACCEPTANCE = {"RMHMC": 0.9, "RMHMC, tuned": 0.9, "HMC": 0.8, "mMALA": 0.57}


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
    methods: tuple[str, ...] = METHODS
    num_runs: int = 10
    num_samples: int = 5000
    num_warmup: int = 1000
    step_size: float = 0.5
    check_reversibility: bool = True
    float64: bool = True
    results: Path = Path("runs/logistic_regression")

    def __post_init__(self):
        for name in self.methods:
            if name not in METHODS:
                raise ValueError(f"methods must be among {', '.join(METHODS)}, got {name!r}")
        for name in self.datasets:
            if name not in targets.LOGISTIC:
                raise ValueError(f"datasets must be among {', '.join(targets.LOGISTIC)}, got {name!r}")
        check_fields(
            self,
            {
                "num_runs": check_whole(1),
                "num_samples": check_whole(1),
                "num_warmup": check_whole(0),
                "step_size": check_above_zero,
            },
        )


# A run: key -> (samples of one chain, seconds of the draws).
Run = Callable[[jax.Array], tuple[Samples, float]]


def make_run(method: str, target: targets.Target, config: LogisticConfig) -> Run:
    """A method on a target."""
    if method == "NUTS":
        return _nuts_run(target, config)
    logdensity_fn = target.logdensity_fn
    if method.startswith("RMHMC"):
        steps = hmcvae.uniform_steps(1, 6)
        algorithm = hmcvae.rmhmc(
            logdensity_fn,
            config.step_size,
            steps,
            target.metric,
            check_reversibility=config.check_reversibility,
        )
    elif method == "HMC":
        algorithm = hmcvae.hmc(logdensity_fn, 0.1, hmcvae.uniform_steps(1, 100))
    else:
        algorithm = hmcvae.mmala(logdensity_fn, 0.5, target.metric)

    def run(key: jax.Array) -> tuple[Samples, float]:
        warm_key, draw_key = jax.random.split(key)
        warm = hmcvae.sample(
            warm_key,
            algorithm,
            jnp.asarray(target.start, float)[None],
            num_samples=1,
            num_warmup=config.num_warmup,
            target_acceptance=TARGET_ACCEPTANCE[method],
            adapt_mass=None,
        )
        # "RMHMC" draws at their step size; its warm-up is to move away from where no step of that size is possible.
        tuned = algorithm if method == "RMHMC" else _with_step_size(algorithm, warm.adaptation.step_size)
        start = time.perf_counter()
        samples = hmcvae.sample(draw_key, tuned, warm.position[:, -1], num_samples=config.num_samples)
        jax.block_until_ready(samples.position)
        return samples, time.perf_counter() - start

    return run


def _with_step_size(algorithm: Any, step_size: jax.Array) -> Any:
    """The algorithm with another step size and the same compiled kernel."""
    return algorithm._replace(step_size=step_size)


def _nuts_run(target: targets.Target, config: LogisticConfig) -> Run:
    """BlackJAX's NUTS with its window adaptation, as one compiled program each."""
    import blackjax

    warmup: Any = blackjax.window_adaptation(blackjax.nuts, target.logdensity_fn)
    adapt = jax.jit(lambda key: warmup.run(key, jnp.asarray(target.start, float), config.num_warmup)[0])

    nuts: Any = blackjax.nuts

    @jax.jit
    def draw(key: jax.Array, state: Any, parameters: Any) -> tuple:
        step = nuts(target.logdensity_fn, **parameters).step

        def body(state: Any, key: jax.Array):
            state, info = step(key, state)
            kept = info.acceptance_rate, info.is_divergent, info.num_integration_steps
            return state, (state.position, kept)

        return jax.lax.scan(body, state, jax.random.split(key, config.num_samples))[1]

    def run(key: jax.Array) -> tuple[Samples, float]:
        warm_key, draw_key = jax.random.split(key)
        state, parameters = adapt(warm_key)
        start = time.perf_counter()
        position, kept = jax.block_until_ready(draw(draw_key, state, parameters))
        seconds = time.perf_counter() - start
        zero = jnp.zeros((), jnp.int32)
        count = jnp.asarray(config.num_samples)
        counts = TransitionCounts(count, jnp.mean(kept[0]), jnp.sum(kept[1]), zero, zero)
        return Samples(
            position[None], None, None, counts, hmcvae.samplers.Adaptation(None, None, counts)
        ), seconds

    return run


def measure(method: str, target: targets.Target, config: LogisticConfig) -> dict:
    """The runs of one method on one target: seconds, effective sample sizes and failures, means over the runs."""
    run = make_run(method, target, config)
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
    config, machine = report["config"], report["environment"]
    lines = ["# Bayesian logistic regression", "", f"`{report['command']}`", ""]
    for name, entry in report["datasets"].items():
        n, d = entry["shape"]
        lines += [
            f"## {name}, {n} × {d}",
            "",
            "| method | s | ESS min, median, max | s per min ESS | min ESS of w² | accepted | failed solves | "
            "irreversible | divergent | published: s; ESS; s per min ESS |",
            "|---|---:|---|---:|---:|---:|---:|---:|---:|---|",
        ]
        for row in entry["rows"]:
            theirs = PUBLISHED[name].get(row["method"])
            published = f"{theirs[0]}; {', '.join(map(str, theirs[1]))}; {theirs[2]}" if theirs else "-"
            ess = ", ".join(f"{value:.0f}" for value in row["ess"])
            lines.append(
                f"| {row['method']} | {row['seconds']:.2f} | {ess} | {row['seconds_per_min_ess']:.2g} | "
                f"{row['ess_square_min']:.0f} | {row['acceptance_rate']:.3f} | {row['num_unconverged']} | "
                f"{row['num_irreversible']} | {row['num_divergent']} | {published} |"
            )
        lines += [
            "",
            f"Posterior means of the methods differ by at most {entry['disagreement']:.1f} standard errors over the "
            f"{d} coefficients and all pairs.",
            "",
        ]
    lines += [
        f"{config['num_samples']} draws, means over {config['num_runs']} runs of one chain after "
        f"{config['num_warmup']} transitions of warm-up that are not timed; ESS of the mean (ArviZ: Geyer's initial "
        f"monotone sequence), clipped at {config['num_samples']}; failed solves and divergences of all "
        f"{config['num_runs'] * config['num_samples']} transitions. RMHMC: step size {config['step_size']} as "
        "published, or tuned; 1 to 6 steps, "
        + ("retraced at twice the cost" if config["check_reversibility"] else "not retraced")
        + ". HMC: unit masses, tuned step size, 1 to 100 steps. mMALA: tuned. "
        "NUTS: BlackJAX with window adaptation (diagonal masses).",
        "",
        "Published: Girolami & Calderhead (2011), HMC with 100 steps, MATLAB on the hardware of its time: the "
        "seconds do not compare, the effective sizes and the order of the methods do. They make a fixed number of "
        "iterations and do not look whether a solve converged; here one that did not is rejected.",
        "",
        f"Device: {machine['device']} ({machine['num_cpus']} cores), JAX {machine['jax']}, "
        f"{'float64' if config['float64'] else 'float32'}.",
    ]
    return "\n".join(lines) + "\n"


def draw(report: dict, path: Path) -> None:
    """Seconds for one effective draw of the worst coefficient, by data set and method."""
    from experiments.reporting.plots import plt, save_figure

    names = list(report["datasets"])
    figure, axes = plt.subplots(figsize=(8.5, 3.8))
    methods = [row["method"] for row in report["datasets"][names[0]]["rows"]]
    width = 0.8 / len(methods)
    for index, method in enumerate(methods):
        values = [
            1e3 * next(r for r in entry["rows"] if r["method"] == method)["seconds_per_min_ess"]
            for entry in report["datasets"].values()
        ]
        places = np.arange(len(names)) + (index - (len(methods) - 1) / 2) * width
        axes.bar(places, values, width, label=method, color=f"C{index}")
    labels = [
        f"{name}\n{entry['shape'][0]} × {entry['shape'][1]}" for name, entry in report["datasets"].items()
    ]
    axes.set_xticks(range(len(names)), labels)
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
    stem = config.results / "logistic_regression"
    report = save_report(stem, command, config, {"datasets": datasets}, markdown)
    draw(report, stem.with_suffix(".png"))
    return report


def main() -> None:
    import tyro

    config = tyro.cli(LogisticConfig, prog="python -m experiments.logistic_regression")
    jax.config.update("jax_enable_x64", config.float64)
    command = "python -m experiments.logistic_regression " + " ".join(sys.argv[1:])
    run_all(config, command.strip())
    print((config.results / "logistic_regression.md").read_text())
