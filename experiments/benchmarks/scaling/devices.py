"""What the code for a mesh costs on one device, and what a step moves between eight."""

import os
import re
from typing import NamedTuple

import jax
import numpy as np

from experiments.benchmarks.scaling.config import Config
from experiments.benchmarks.scaling.model import OPTIMIZER, PIXELS, model, num_bytes, pixels
from experiments.support.timing import in_turns, ratio
from hmcvae import training

SHAPE = (28, 28, 1)
METHODS = {"VAE": None, "HVI, 4 steps": 4}
SIZES = {"f64": 8, "s64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}
COLLECTIVES = r"(all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter)"


class OneDevice(NamedTuple):
    """seconds: of an epoch without a mesh.  over: the mesh's seconds over those, within a round, and its error."""

    method: str
    seconds: float
    over: tuple[float, float]


class Moved(NamedTuple):
    """Bytes of a step on `num_devices`: of the operands of XLA's collectives, and of the parameters."""

    method: str
    num_devices: int
    moved: int
    params: int


def one_device(config: Config) -> list[OneDevice]:
    """Epochs with and without a mesh of one device, in turns."""
    rows = []
    images = pixels(config.num_images, SHAPE)
    mesh = jax.make_mesh((1,), ("batch",), devices=jax.devices()[:1])
    for name, num_steps in METHODS.items():
        bound, params = model(SHAPE, config.hidden, config.latent_dim, num_steps)
        settings = training.Settings(batch_size=config.batch_size)
        calls = {}
        for kind, own in (("none", training.Devices()), ("mesh", training.Devices(mesh))):
            epoch = training.make_epoch(bound, OPTIMIZER, settings, PIXELS, own)
            state = own.put_state(training.init_state(params, OPTIMIZER, 0))
            examples = own.put_examples(images)
            calls[kind] = lambda epoch=epoch, state=state, examples=examples: epoch(state, examples)
        taken = in_turns(calls, config.max_rounds)
        rows.append(OneDevice(name, float(np.median(taken["none"])), ratio(taken["mesh"], taken["none"])))
    return rows


def collective_bytes(program: str) -> int:
    """Of the results of all collectives in a compiled program's text."""
    total = 0
    for line in program.splitlines():
        found = re.search(rf"= (.*?) {COLLECTIVES}(-start)?\(", line)
        if found:
            for dtype, shape in re.findall(rf"({'|'.join(SIZES)})\[([\d,]*)\]", found[1]):
                total += SIZES[dtype] * int(np.prod([int(n) for n in shape.split(",") if n] or [1]))
    return total


def moved(config: Config) -> list[Moved]:
    """Of one step on all of this process's devices."""
    rows = []
    devices = training.Devices(jax.make_mesh((jax.device_count(),), ("batch",)))
    batch = config.batch_size - config.batch_size % jax.device_count()
    for name, num_steps in METHODS.items():
        bound, params = model(SHAPE, config.hidden, config.latent_dim, num_steps)
        settings = training.Settings(batch_size=batch)
        step = training.make_step(bound, OPTIMIZER, settings, PIXELS, devices)
        state = devices.put_state(training.init_state(params, OPTIMIZER, 0))
        examples = devices.put_batch(pixels(batch, SHAPE))
        program = jax.jit(step, static_argnums=3).lower(state, examples, jax.random.key(0), 5).compile()
        rows.append(
            Moved(name, jax.device_count(), collective_bytes(program.as_text() or ""), num_bytes(params))
        )
    return rows


def moved_on_eight(config: Config) -> list[Moved]:
    """The same in a process with eight virtual devices."""
    import multiprocessing

    before = {name: os.environ.get(name) for name in ("XLA_FLAGS", "JAX_PLATFORMS")}
    flags = f"{before['XLA_FLAGS'] or ''} --xla_force_host_platform_device_count=8".strip()
    os.environ.update(XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(moved, (config,))
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
