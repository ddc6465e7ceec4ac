"""Leapfrog steps per second: `python -m experiments.bench_integrators [--quick] [--peers blackjax mici]`.

In one run, each density × number of chains × dtype is integrated by every contestant:

- **ours**: `hmcvae.integrators.integrate` over `leapfrog`, with a diagonal metric;
- **BlackJAX**: `velocity_verlet` in its own trajectory loop, with the same diagonal mass;
- **the bare gradient**: a chained scan of `z ← z + τ jax.grad(logdensity_fn)(z)`. It holds the gradient of log p,
  one fused multiply-add of the position, and the loop; each position waits for the last gradient, so that nothing
  can be hoisted or overlapped. It has no momentum, mass or value of log p: no integrator can be cheaper. τ is so small
  that the chain stays where it began, since exp and log cost more far out than where a trajectory runs.

All start from the same draws from the density (its Laplace approximation for the logistic one), under `jax.vmap`
over chains and one `jax.jit`. A call is one trajectory of L steps, L chosen for a call of some 50 ms. Contestants
take turns within each round, so that a noisy machine is equally unfair to all. Over the calmer half of the rounds,
a rate is from the median time, and a ratio is the median of the ratios within a round (± its standard error).

Gaussians have a dense precision matrix P, log p = -½ zᵀ P z, whose gradient by `jax.grad` is two products with P:
work that a real density does too. The logistic regression has 1000 rows and 25 coefficients.

With `--peers` given, the Riemannian integrators are measured against those libraries too: see `bench_riemannian`.
"""

import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from jax import lax
from scipy import special

from hmcvae import integrators, metrics

PEERS = ("blackjax",)  # of the leapfrog; the Riemannian part has peers of its own
TARGET_COST = 1.15  # of the bare gradient
NOTES = "<!-- written by hand, kept by the script -->"


@dataclass(frozen=True)
class Config:
    """Benchmark the leapfrog against BlackJAX's and against the bare gradient.

    peers: other libraries to measure, "blackjax" and "mici"; one that is not installed is reported as "not measured".
        Not given: the leapfrog against BlackJAX alone. Given: also the Riemannian integrators against them.
    quick: a smoke run of a few seconds, written to runs/ and good for nothing else.
    chains: numbers of chains under vmap.
    call_seconds: how long a timed call should last.
    case_seconds: how long all calls of one case may last; it sets the number of rounds, 8 to max_rounds.
    max_rounds: see case_seconds.
    unroll: steps in an iteration of our loop and of the bare gradient's (BlackJAX has no such choice).
    folder: where the results are written; runs/bench_integrators by default.
    """

    peers: tuple[str, ...] | None = None
    quick: bool = False
    chains: tuple[int, ...] = (1, 256, 4096)
    call_seconds: float = 0.05
    case_seconds: float = 12.0
    max_rounds: int = 31
    unroll: int = 1
    folder: Path | None = None


@dataclass(frozen=True)
class Density:
    """A log density with the scale of its bulk: the mode and a factor of the covariance there."""

    name: str
    build: Callable[[Any], Callable[[jax.Array], jax.Array]]  # dtype -> logdensity_fn
    mode: np.ndarray
    scale: np.ndarray  # C with C Cᵀ the covariance
    step_size: float

    def draw(self, rng: np.random.Generator, num_chains: int) -> np.ndarray:
        return self.mode + rng.normal(size=(num_chains, self.mode.shape[0])) @ self.scale.T


def gaussian(dim: int) -> Density:
    """N(0, P⁻¹) with a dense P whose eigenvalues run from 1 to 4."""
    rng = np.random.default_rng(dim)
    rotation, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    eigenvalues = np.linspace(1.0, 4.0, dim)
    precision = (rotation * eigenvalues) @ rotation.T

    def build(dtype: Any) -> Callable[[jax.Array], jax.Array]:
        P = jnp.asarray(precision, dtype)
        return lambda z: -0.5 * jnp.dot(z, P @ z)

    return Density(f"Gaussian, d = {dim}", build, np.zeros(dim), rotation / np.sqrt(eigenvalues), 0.1)


def logistic(num_rows: int = 1000, dim: int = 25, prior_variance: float = 100.0) -> Density:
    """Bayesian logistic regression on made-up data."""
    rng = np.random.default_rng(0)
    covariates = rng.normal(size=(num_rows, dim))
    labels = rng.uniform(size=num_rows) < special.expit(covariates @ rng.normal(size=dim, scale=0.3))
    mode, hessian = np.zeros(dim), np.eye(dim)
    for _ in range(20):  # Newton's method
        probability = special.expit(covariates @ mode)
        weighted = covariates * (probability * (1 - probability))[:, None]
        hessian = covariates.T @ weighted + np.eye(dim) / prior_variance
        mode = mode + np.linalg.solve(hessian, covariates.T @ (labels - probability) - mode / prior_variance)

    def build(dtype: Any) -> Callable[[jax.Array], jax.Array]:
        X, y = jnp.asarray(covariates, dtype), jnp.asarray(labels, dtype)

        def logdensity_fn(z: jax.Array) -> jax.Array:
            logits = X @ z
            return jnp.sum(y * logits - jax.nn.softplus(logits)) - 0.5 * jnp.dot(z, z) / prior_variance

        return logdensity_fn

    scale = np.linalg.cholesky(np.linalg.inv(hessian))
    return Density(f"logistic, {num_rows} × {dim}", build, mode, scale, 0.01)


# A contestant: (state, step size) -> the end of a trajectory of L steps, for one chain.
Trajectory = Callable[[integrators.IntegratorState, jax.Array], Any]


def bare_gradient(logdensity_fn: Callable, num_steps: Any, unroll: int = 1) -> Trajectory:
    """The gradients of a trajectory and nothing else; see the module's docstring. A traced L serves calibration."""

    def body(z: jax.Array, tiny: jax.Array) -> jax.Array:
        return z + tiny * jax.grad(logdensity_fn)(z)

    def run(state: integrators.IntegratorState, step_size: jax.Array) -> jax.Array:
        tiny = 1e-7 * step_size
        if not isinstance(num_steps, int):
            return lax.fori_loop(0, num_steps, lambda _, z: body(z, tiny), state.position)
        scanned = lax.scan(lambda z, _: (body(z, tiny), None), state.position, None, num_steps, unroll=unroll)
        return scanned[0]

    return run


def ours(logdensity_fn: Callable, num_steps: int, mass: jax.Array, unroll: int = 1) -> Trajectory:
    step = integrators.leapfrog(logdensity_fn, metrics.diagonal(mass))
    return lambda state, epsilon: integrators.integrate(step, state, epsilon, num_steps, unroll=unroll)[0]


def blackjax_verlet(logdensity_fn: Callable, num_steps: int, mass: jax.Array) -> Trajectory:
    from blackjax.mcmc import integrators as peer
    from blackjax.mcmc import metrics as peer_metrics
    from blackjax.mcmc import trajectory

    kinetic_energy_fn = peer_metrics.gaussian_euclidean(1 / mass).kinetic_energy
    integrate = trajectory.static_integration(peer.velocity_verlet(logdensity_fn, kinetic_energy_fn))

    def run(state: Any, step_size: jax.Array) -> Any:
        return integrate(peer.IntegratorState(*state[:4]), step_size, num_steps)

    return run


def batched(trajectory: Trajectory) -> Callable:
    return jax.jit(jax.vmap(trajectory, (0, None)))


def seconds_of(call: Callable) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def choose_num_steps(logdensity_fn: Callable, arguments: tuple, seconds: float) -> int:
    """L for a call of about `seconds`.

    At least 32, so that the one value of log p at the end of a trajectory weighs as little as in practice; but no
    more than 5 seconds hold, and at least 8.
    """
    run = jax.jit(
        lambda n, state, epsilon: jax.vmap(bare_gradient(logdensity_fn, n), (0, None))(state, epsilon)
    )
    num_steps = 1
    jax.block_until_ready(run(num_steps, *arguments))
    while True:
        elapsed = min(seconds_of(lambda n=num_steps: run(n, *arguments)) for _ in range(3))
        if elapsed > seconds / 4:
            break
        num_steps *= 4
    per_step = elapsed / num_steps
    return max(8, min(max(32, round(seconds / per_step)), round(5 / per_step)))


def time_in_turns(calls: dict[str, Callable], config: Config) -> dict[str, np.ndarray]:
    """Seconds of each call in the calmer half of the rounds.

    The order turns, so that no contestant always follows the same one. A round in which the machine did something
    else is long for whoever ran at that moment; dropping the longer half of the rounds favours nobody.
    """
    for call in calls.values():
        seconds_of(call)  # compile
    once = sum(seconds_of(call) for call in calls.values())
    num_rounds = int(np.clip(config.case_seconds / once, min(8, config.max_rounds), config.max_rounds))
    names = list(calls)
    seconds = {name: np.zeros(num_rounds) for name in names}
    for index in range(num_rounds):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name][index] = seconds_of(calls[name])
    length = sum(values / np.median(values) for values in seconds.values())
    calm = np.argsort(length)[: -(-num_rounds // 2)]
    return {name: values[calm] for name, values in seconds.items()}


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, float]:
    """The median of the ratios within a round, and its standard error from their interquartile range."""
    ratios = numerator / denominator
    low, high = np.quantile(ratios, [0.25, 0.75])
    return float(np.median(ratios)), float(0.93 * (high - low) / np.sqrt(ratios.size))


def largest_difference(ends: list[Any]) -> float:
    """The largest relative difference in position and momentum between the ends of two trajectories."""
    gaps = [
        float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)))
        for a, b in zip(ends[0][:2], ends[1][:2], strict=True)
    ]
    return max(gaps)


def measure(density: Density, num_chains: int, dtype: str, peers: tuple[str, ...], config: Config) -> dict:
    """One row of the table."""
    logdensity_fn = density.build(dtype)
    rng = np.random.default_rng(1)
    position = jnp.asarray(density.draw(rng, num_chains), dtype)
    momentum = jnp.asarray(rng.normal(size=position.shape), dtype)
    logdensity, gradient = jax.jit(jax.vmap(jax.value_and_grad(logdensity_fn)))(position)
    state = integrators.IntegratorState(position, momentum, logdensity, gradient)
    arguments = (state, jnp.asarray(density.step_size, dtype))
    mass = jnp.ones(position.shape[1], dtype)
    builders = {"ours": ours} | ({"blackjax": blackjax_verlet} if "blackjax" in peers else {})
    difference = None
    if len(builders) > 1:  # the contestants do the same thing
        ends = [batched(build(logdensity_fn, 10, mass))(*arguments) for build in builders.values()]
        difference = largest_difference(ends)
        if not difference < 1e4 * float(jnp.finfo(dtype).eps):
            raise ValueError(f"{density.name}: trajectories differ from BlackJAX's by {difference:.2g}")
    num_steps = choose_num_steps(logdensity_fn, arguments, config.call_seconds)
    runs = {
        "gradient": batched(bare_gradient(logdensity_fn, num_steps, config.unroll)),
        "ours": batched(ours(logdensity_fn, num_steps, mass, config.unroll)),
    }
    if "blackjax" in peers:
        runs["blackjax"] = batched(blackjax_verlet(logdensity_fn, num_steps, mass))
    seconds = time_in_turns({name: lambda run=run: run(*arguments) for name, run in runs.items()}, config)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    cost, cost_error = ratio(seconds["ours"], seconds["gradient"])
    row = {
        "density": density.name,
        "chains": num_chains,
        "dtype": dtype,
        "num_steps": num_steps,
        "rounds": len(seconds["ours"]),
        "gradient_microseconds": 1e6 * median["gradient"] / num_steps,
        "steps_per_second": {name: num_chains * num_steps / value for name, value in median.items()},
        "ours_over_gradient": cost,
        "ours_over_gradient_error": cost_error,
        "blackjax_over_gradient": None,
        "blackjax_over_ours": None,
        "blackjax_over_ours_error": None,
        "difference_from_blackjax": difference,
    }
    if "blackjax" in seconds:
        row["blackjax_over_gradient"], _ = ratio(seconds["blackjax"], seconds["gradient"])
        row["blackjax_over_ours"], row["blackjax_over_ours_error"] = ratio(
            seconds["blackjax"], seconds["ours"]
        )
    return row


def measure_all(config: Config, peers: tuple[str, ...]) -> Iterator[dict]:
    densities = [gaussian(2), gaussian(50)] + ([] if config.quick else [gaussian(1000)]) + [logistic()]
    for density in densities:
        for num_chains in config.chains:
            for dtype in ("float32", "float64"):
                yield measure(density, num_chains, dtype, peers, config)


def describe_system() -> dict[str, str]:
    """The device and the versions that a result belongs to."""
    names = ("jax", "jaxlib", "numpy", "blackjax", "hmcvae")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    device = jax.devices()[0]
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        cpu = f"{models[0]}, {len(models)} cores" if models else cpu
    return {
        "device": f"{device.platform} ({device.device_kind})",
        "cpu": cpu,
        "python": platform.python_version(),
    } | (versions)


# --- The report.

COLUMNS = "| density | chains | dtype | L | bare gradient | ours | BlackJAX | ours / BlackJAX | cost / bare gradient |"


def number(value: float) -> str:
    """Three digits and a unit: 12.3 k, 4.56 M."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def table_row(row: dict) -> str:
    rate, faster = row["steps_per_second"], row["blackjax_over_ours"]
    cells = [
        row["density"],
        f"{row['chains']}",
        row["dtype"],
        f"{row['num_steps']}",
        number(rate["gradient"]),
        number(rate["ours"]),
        number(rate["blackjax"]) if "blackjax" in rate else "not measured",
        "not measured" if faster is None else f"{faster:.2f} ± {row['blackjax_over_ours_error']:.2f}",
        f"{row['ours_over_gradient']:.2f} ± {row['ours_over_gradient_error']:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def table(rows: list[dict]) -> list[str]:
    return [COLUMNS, "|" + "---|" * 3 + "---:|" * 6, *map(table_row, rows)]


def case_name(row: dict) -> str:
    return f"{row['density']}, {row['chains']} chain{'s' * (row['chains'] > 1)}, {row['dtype']}"


def outcome(rows: list[dict]) -> list[str]:
    """What was expected, against what came."""
    costs = [row["ours_over_gradient"] for row in rows]
    above = [row for row in rows if row["ours_over_gradient"] > TARGET_COST]
    dearest = max(rows, key=lambda row: row["ours_over_gradient"])
    lines = [
        f"Expected: at least 1.0 × BlackJAX everywhere, at most {TARGET_COST} × the cost of the bare gradient.",
        "",
        f"- Cost over the bare gradient: median {np.median(costs):.2f} ×, worst {max(costs):.2f} × "
        f"({case_name(dearest)}); {len(rows) - len(above)} of {len(rows)} cases within {TARGET_COST} ×.",
    ]
    lines += [
        f"- Above it: {case_name(row)}, {row['ours_over_gradient']:.2f} ± {row['ours_over_gradient_error']:.2f} ×."
        for row in above
    ]
    against = [row for row in rows if row["blackjax_over_ours"] is not None]
    if against:
        least = min(against, key=lambda row: row["blackjax_over_ours"])
        most = max(against, key=lambda row: row["blackjax_over_ours"])
        median = np.median([row["blackjax_over_ours"] for row in against])
        lines.append(
            f"- Against BlackJAX: median {median:.2f} ×, least {least['blackjax_over_ours']:.2f} × "
            f"({case_name(least)}), most {most['blackjax_over_ours']:.2f} × ({case_name(most)})."
        )
        below = [row for row in against if row["blackjax_over_ours"] < 1]
        lines += [
            f"- Below 1 ×: {case_name(row)}, {row['blackjax_over_ours']:.2f} ± {row['blackjax_over_ours_error']:.2f} ×."
            for row in below
        ]
    else:
        lines.append("- Against BlackJAX: not measured.")
    return lines


def markdown(rows: list[dict], system: dict[str, str], notes: str) -> str:
    about = (
        f"Rates are steps per second of all chains together; L is the number of steps in a timed call. "
        f"{system['device']}, {system['cpu']}; jax {system['jax']}, blackjax {system['blackjax']}. "
        "`python -m experiments.bench_integrators` writes this file; its docstring says what each contestant does."
    )
    heading = "# Leapfrog against BlackJAX and against the bare gradient"
    lines = [heading, "", about, "", *table(rows), "", "## Expectation and outcome", "", *outcome(rows), ""]
    return "\n".join(lines) + f"\n{NOTES}\n{notes}"


def draw(rows: list[dict], system: dict[str, str], path: Path) -> None:
    """The cost of a step over that of its gradient, for every case."""
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    figure, axes = plt.subplots(
        1, len(dtypes), figsize=(11, 5.6), sharex=True, sharey=True, layout="constrained"
    )
    styles = (("blackjax_over_gradient", "BlackJAX velocity_verlet", "tab:orange", "s"),)
    styles += (("ours_over_gradient", "hmcvae leapfrog", "tab:blue", "o"),)
    for axis, dtype in zip(axes, dtypes, strict=True):
        chosen = [row for row in rows if row["dtype"] == dtype]
        heights = np.arange(len(chosen)) + 0.7 * np.cumsum(
            [i > 0 and chosen[i]["density"] != chosen[i - 1]["density"] for i in range(len(chosen))]
        )
        axis.axvspan(1.0, TARGET_COST, color="tab:green", alpha=0.15, label=f"within {TARGET_COST} ×")
        axis.axvline(1.0, color="black", linewidth=1, label="the gradient alone")
        for key, label, colour, marker in styles:
            points = [(row[key], height) for row, height in zip(chosen, heights, strict=True) if row[key]]
            if points:
                axis.scatter(
                    *zip(*points, strict=True), color=colour, marker=marker, s=42, label=label, zorder=3
                )
                for cost, height in points:
                    side = 1 if key == styles[0][0] else -1
                    axis.annotate(
                        f"{cost:.2f}",
                        (cost, height),
                        (7 * side, 0),
                        textcoords="offset points",
                        ha="left" if side > 0 else "right",
                        va="center",
                        fontsize=7.5,
                        color=colour,
                        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
                    )
        labels = [f"{row['density']}  ·  {row['chains']} chain{'s' * (row['chains'] > 1)}" for row in chosen]
        axis.set_yticks(heights, labels)
        axis.set_xscale("log")
        ticks = [1, 1.5, 2, 3, 4]
        axis.set_xticks(ticks, [f"{tick:g} ×" for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel("time of a leapfrog step / time of a gradient  (less is better)")
        axis.set_title(dtype, fontsize=11)
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    highest = max(max(row[key] or 1 for key, *_ in styles) for row in rows)
    axes[0].set_xlim(0.8, 1.2 * highest)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=9, frameon=False)
    title = f"What a leapfrog step costs beyond its gradient ({system['cpu']}, jax {system['jax']})"
    if not any(row["blackjax_over_gradient"] for row in rows):
        title += "; BlackJAX not measured"
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def kept_notes(path: Path) -> str:
    """What a person wrote below the script's part of an earlier report."""
    if not path.exists() or NOTES not in path.read_text():
        return ""
    return path.read_text().split(NOTES, 1)[1].lstrip("\n")


def run(config: Config) -> list[dict]:
    """Measure, print, and write the JSON, Markdown and picture.

    Raises:
        ValueError: for a peer that is not known, or if a peer's trajectory is not ours.
    """
    wanted = PEERS if config.peers is None else config.peers
    unknown = set(wanted) - {*PEERS, "mici"}
    if unknown:
        raise ValueError(f"peers must be among {(*PEERS, 'mici')}, got {sorted(unknown)}")
    wanted = tuple(peer for peer in wanted if peer in PEERS)
    peers = tuple(peer for peer in wanted if util.find_spec(peer))
    for peer in sorted(set(wanted) - set(peers)):
        print(f"{peer} is not installed: not measured", file=sys.stderr)
    system, begin, rows = describe_system(), time.perf_counter(), []
    print(", ".join(f"{name} {value}" for name, value in system.items()), *table([]), sep="\n")
    for row in measure_all(config, peers):
        rows.append(row)
        print(table_row(row), flush=True)
    print("", *outcome(rows), sep="\n")
    folder = config.folder or Path("runs/bench_integrators")
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / "bench_integrators"
    settings = asdict(config) | {"folder": None, "peers": list(peers)}
    seconds = round(time.perf_counter() - begin, 1)
    report = {"environment": system, "config": settings, "seconds": seconds, "rows": rows}
    stem.with_suffix(".json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    notes = kept_notes(stem.with_suffix(".md"))
    stem.with_suffix(".md").write_text(markdown(rows, system, notes))
    draw(rows, system, stem.with_suffix(".png"))
    print(f"written in {seconds} s: {stem}.json, .md, .png")
    if config.peers:
        run_riemannian(config)
    return rows


def run_riemannian(config: Config) -> None:
    """The Riemannian part, with the same peers and folder."""
    from experiments.benchmarks import riemannian as bench_riemannian

    settings = bench_riemannian.Config(peers=config.peers or (), quick=config.quick, folder=config.folder)
    bench_riemannian.run(bench_riemannian.smaller(settings) if config.quick else settings)


def main() -> None:
    import tyro

    jax.config.update("jax_enable_x64", True)
    config = tyro.cli(Config)
    if config.quick:
        # Smaller in every direction that the user did not set.
        config = replace(config, chains=config.chains if config.chains != Config.chains else (1, 16))
        config = replace(config, call_seconds=0.002, case_seconds=0.02, max_rounds=3)
    if config.peers:
        from experiments.benchmarks import riemannian as bench_riemannian

        bench_riemannian.enlarge_thread_pool()
    try:
        run(config)
    except ValueError as error:
        sys.exit(f"error: {error}")
