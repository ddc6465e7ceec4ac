"""What a training epoch of each bound costs, and pythae's RHVAE: `python -m experiments.bench_bounds --data-dir DIR`.

Nets, images, batches, optimizer and the turns that the contestants take are those of `experiments.bench_training`; the
contestants are the bounds with a per-example metric, all with 3 leapfrog steps, and pythae's `RHVAE` with
n_lf = 3 and its own metric net.

A bound with the Fisher metric has to pay for the metric (the Fisher Gaussian's cost beyond that of the VAE) and for the
leapfrog steps (HVI's cost): `parts` is the sum of the two. RHVI's parts are a contestant of its own, measured beside
it: the same posterior, nets and positions, and at each of them the metric, its factor, the gradients of log |G| and of
log p, moved by explicit steps (`experiments.parts`). RHVI over it is the price of the solves and of the
forces.
"""

import sys
from dataclasses import asdict, dataclass
from datetime import date
from importlib import util
from pathlib import Path

import matplotlib.pyplot as plt

from experiments.benchmarks import training as bench_training
from experiments.benchmarks.training import describe_system, made_up, measure, smaller
from experiments.reporting.plots import save_figure
from experiments.support.files import check_writable, write_json
from hmcvae import data

OURS = (
    "VAE",
    "full Gaussian",
    "HVI",
    "amortised",
    "amortised recentred",
    "Fisher Gaussian",
    "Fisher",
    "Fisher recentred",
    "RHVI",
    "RHVI's parts",
)
PEERS = ("RHVAE",)


@dataclass(frozen=True)
class Config(bench_training.Config):
    """Benchmark the bounds' training epochs; see `experiments.bench_training` for the fields."""

    one_core: bool = False
    extras: bool = False
    models: tuple[str, ...] = OURS
    peers: tuple[str, ...] = PEERS


def parts(seconds: dict[str, float]) -> dict[str, float]:
    """For the bounds that are sums: the seconds of their necessary parts, from bounds of their own."""
    metric = seconds["Fisher Gaussian"] - seconds["VAE"]
    return {
        "amortised": seconds["HVI"] + seconds["full Gaussian"] - seconds["VAE"],
        "Fisher": seconds["HVI"] + metric,
        "RHVI": seconds["RHVI's parts"],
    }


def make_rows(measured: list[dict], known: dict) -> list[dict]:
    """Seconds, ratios, XLA's count of operations and temporary memory."""
    ours = {row["model"]: row["seconds"] for row in measured if row["library"] == "hmcvae"}
    peer = next((row["seconds"] for row in measured if row["model"] == "RHVAE"), None)
    sums = parts(ours)
    rows = []
    for row in measured:
        facts = known[row["library"]][row["model"]]
        rows.append(
            {
                "model": row["model"],
                "library": row["library"],
                "seconds": row["seconds"],
                "cpu_seconds": row["cpu_seconds"],
                "rounds": row["rounds"],
                "over_hvi": row["seconds"] / ours["HVI"],
                "over_parts": row["seconds"] / sums[row["model"]] if row["model"] in sums else None,
                "rhvae_over_it": peer / row["seconds"] if peer else None,
                "gflop": facts["flops"] / 1e9,
                "temporary_mib": facts.get("temporary_bytes", 0) / 2**20 or None,
            }
        )
    return rows


def markdown(report: dict) -> str:
    """The table."""

    def cell(value: float | None, digits: int = 2) -> str:
        return "not measured" if value is None else f"{value:.{digits}f}"

    config = report["config"]
    lines = [
        f"Training epochs of {config['num_images']} grey MNIST images, batch {config['batch_size']}, dense nets "
        f"{'-'.join(map(str, config['hidden']))}, {config['latent_dim']} latents, {config['num_steps']} leapfrog "
        f"steps; medians of {report['num_rounds']} rounds taken in turns.",
        "",
        "| bound | seconds | over HVI | over its parts | RHVAE's over it | GFLOP an epoch | temporary MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in report["rows"]:
        name = r["model"] if r["library"] == "hmcvae" else f"{r['library']} {r['model']}"
        parts_cell = "" if r["over_parts"] is None else cell(r["over_parts"])
        memory = "" if r["temporary_mib"] is None else cell(r["temporary_mib"], 0)
        lines.append(
            f"| {name} | {cell(r['seconds'], 3)} | {cell(r['over_hvi'])} | {parts_cell} | "
            f"{cell(r['rhvae_over_it'])} | {cell(r['gflop'], 0)} | {memory} |"
        )
    system = report["environment"]
    cores = f"{system['num_cores']} core" + ("s" if system["num_cores"] != 1 else "")
    versions = ", ".join(f"{name} {system[name]}" for name in ("jax", "torch", "pythae"))
    lines += [
        "",
        f"`{report['command']}`, {cores} of {system['cpu']}, {versions}, {report['date']}.",
    ]
    return "\n".join(lines) + "\n"


def draw(report: dict, path: Path) -> None:
    """Bars of the seconds an epoch."""
    rows = report["rows"]
    figure, axes = plt.subplots(figsize=(7, 0.35 * len(rows) + 1.2))
    names = [r["model"] if r["library"] == "hmcvae" else f"{r['library']} {r['model']}" for r in rows]
    colors = ["C0" if r["library"] == "hmcvae" else "C1" for r in rows]
    axes.barh(range(len(rows)), [r["seconds"] for r in rows], color=colors)
    for y, r in enumerate(rows):
        axes.text(r["seconds"], y, f" {r['over_hvi']:.2f} x HVI", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), names, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("seconds a training epoch (median), less is better")
    axes.set_title("Training epochs of the bounds: blue hmcvae, orange pythae", fontsize=10)
    axes.grid(alpha=0.3, axis="x")
    save_figure(figure, path)


def run(config: Config, images, command: str) -> dict:
    """Measure, print, and write the JSON, Markdown and picture."""
    folder = config.folder or Path("runs/bench_bounds")
    check_writable(folder)
    has_peer = bool(util.find_spec("pythae") and util.find_spec("torch"))
    if not has_peer:
        print(f"pythae is not installed: not measured. {bench_training.INSTALL}", file=sys.stderr)
    system = describe_system()
    measured, known = measure(config, images, ("hmcvae", "pythae") if has_peer else ("hmcvae",))
    report = {
        "command": command,
        "date": date.today().isoformat(),
        "environment": system,
        "config": asdict(config) | {"data_dir": None, "folder": None},
        "num_rounds": len(measured[0]["rounds"]),
        "rows": make_rows(measured, known),
    }
    stem = folder / "bench_bounds"
    write_json(stem.with_suffix(".json"), report)
    stem.with_suffix(".md").write_text(markdown(report))
    draw(report, stem.with_suffix(".png"))
    print(markdown(report))
    return report


def main() -> None:
    import tyro

    config = tyro.cli(Config, prog="python -m experiments.bench_bounds")
    if config.quick:
        config = smaller(config)
        images = made_up(config.num_images)
    else:
        images = data.load("mnist", config.data_dir).train[: config.num_images]
    arguments = " ".join(["DIR" if arg == str(config.data_dir) else arg for arg in sys.argv[1:]])
    run(config, images, f"python -m experiments.bench_bounds {arguments}".strip())
