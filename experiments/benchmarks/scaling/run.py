"""The run of the benchmark of scaling."""

from pathlib import Path

import jax

from experiments.benchmarks.scaling import devices, streaming
from experiments.benchmarks.scaling.arithmetic import on_paper
from experiments.benchmarks.scaling.config import Config, smaller
from experiments.benchmarks.scaling.model import OPTIMIZER, PIXELS, model, num_bytes, pixels
from experiments.benchmarks.scaling.tables import markdown
from experiments.reporting.reports import command_line, make_report, write_report
from experiments.support.files import check_writable
from hmcvae import training

NAME = "bench_scaling"


def flops_per_image(config: Config, num_steps: int | None) -> tuple[float, int]:
    """(operations of a training step for one image, by XLA's count; bytes of the parameters)."""
    bound, params = model(devices.SHAPE, config.hidden, config.latent_dim, num_steps)
    step = training.make_step(bound, OPTIMIZER, training.Settings(batch_size=config.batch_size), PIXELS)
    state = training.init_state(params, OPTIMIZER, 0)
    images = pixels(config.batch_size, devices.SHAPE)
    lowered = jax.jit(step, static_argnums=3).lower(state, images, jax.random.key(0), 5)
    cost = lowered.compile().cost_analysis() or {}
    return float(cost["flops"]) / config.batch_size, num_bytes(params)


def benchmark(config: Config, command: str) -> dict:
    """Measure, print, and write the JSON and the page."""
    stem = (config.folder or Path(f"runs/{NAME}")) / NAME
    check_writable(stem.parent)
    figures = {
        "streaming": streaming.in_own_process(config)._asdict(),
        "one_device": [row._asdict() for row in devices.one_device(config)],
        "moved": [row._asdict() for row in devices.moved_on_eight(config)],
        "paper": [
            on_paper(name, *flops_per_image(config, num_steps))._asdict()
            for name, num_steps in devices.METHODS.items()
        ],
    }
    report = make_report(command, config, figures)
    write_report(stem, report, markdown)
    print(markdown(report))
    return report


def main() -> None:
    import tyro

    config = tyro.cli(Config, prog=f"python -m experiments.{NAME}")
    benchmark(smaller(config) if config.quick else config, command_line(NAME))
