"""Seconds an epoch against pythae: `python -m experiments.bench_training --data-dir DIR [--quick]`.

One net (784-300-300-20 tanh MLPs both ways), one batch size, one optimizer (Adam, 1e-3), the same 6,000 grey MNIST
images, and as many whole batches an epoch. The contestants:

- **hmcvae**: `training.make_epoch`, with `bounds.elbo(kl="analytic")`, which is pythae's own objective for its VAE,
  and with `bounds.hvi`: 3 leapfrog steps, learned masses, step size and reverse model, exact gradients. What it does
  besides is in its time: it shuffles, converts bytes to floats, draws its noise, checks every gradient for being
  finite. Two more rows draw new bits from the grey values in every epoch, as one would train.
- **pythae**: its `VAE` and `HVAE` (n_lf = 3, learned step size) with nets of the same shape, in a plain loop without
  DataLoader over float images made beforehand, and with Adam as PyTorch's single fused kernel, the fastest that it
  offers. Two more rows are pythae's own `BaseTrainer`, with its DataLoader and its Adam. `HVAE` refuses grey values
  unless torch's check of a distribution's arguments is off, so it is off, which also saves it time. Its gradient
  leaves out the second-order terms; one more row puts them in, to compare equal work.

Each library runs in processes of its own: one with all cores and one with a single core, where the figures depend
least on what else the machine does. They wait while another works: the contestants take turns, an epoch each, in
several rounds. Compilation and the first epoch come before. A ratio is of medians over the rounds, pythae's over ours
on as many cores. CPU seconds are those of all threads: they leave out the time when other programs held the cores.
"""

import itertools
import logging
import multiprocessing
import os
import platform
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib import metadata, util
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax.flatten_util import ravel_pytree

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from experiments.benchmarks.parts import explicit_leapfrog
from experiments.reporting.plots import save_figure
from experiments.support.checks import check_above_zero, check_fields, check_whole
from experiments.support.files import check_writable, write_json
from hmcvae import bounds, data, likelihoods, networks, posteriors, solvers, training
from hmcvae.bounds import Bound

MODELS = ("VAE", "HVI")
EXACT = "HVI, second-order terms added"
TARGETS = (2.0, 3.0)  # times faster than pythae: at least, and aimed at
PACKAGES = ("hmcvae", "jax", "jaxlib", "flax", "optax", "torch", "pythae", "numpy")
# Without its dependencies: one of them is a backport that shadows the standard library's dataclasses.
INSTALL = (
    "pip install torch pydantic imageio cloudpickle scikit-learn && pip install --no-deps pythae==0.1.2 && "
    "python -m experiments.bench_training"
)
NUM_ITERATIONS = 4  # of each implicit solve of RHVI in training
NOTES = "<!-- written by hand, kept by the script -->"

AnyConfig = TypeVar("AnyConfig", bound="Config")
Epoch = Callable[[], float]  # trains for an epoch, and returns minus the mean loss


@dataclass(frozen=True)
class Config:
    """Benchmark the training against pythae's.

    data_dir: the folder with the data's files.
    quick: a smoke run on made-up images and small nets, written to runs/ and good for nothing else.
    num_images, batch_size, hidden, latent_dim, num_steps: see the module's docstring.
    rounds: epochs that every contestant is timed for.
    seconds: no new round begins after so many seconds of them, once there are three.
    one_core: also run both libraries on a single core (where the system can pin a process).
    extras: also time the variants: ours with new bits in every epoch, and pythae's own trainer.
    models: what of ours is timed; see `make_bound`.
    peers: pythae's models; see `make_pythae`.
    folder: where the results are written; runs/bench_training by default.
    """

    data_dir: Path | None = None
    quick: bool = False
    num_images: int = 6000
    batch_size: int = 128
    hidden: tuple[int, ...] = (300, 300)
    latent_dim: int = 20
    num_steps: int = 3
    rounds: int = 9
    seconds: float = 150.0
    one_core: bool = True
    extras: bool = True
    models: tuple[str, ...] = MODELS
    peers: tuple[str, ...] = (*MODELS, EXACT)
    folder: Path | None = None

    def __post_init__(self):
        counts = ("num_images", "batch_size", "hidden", "latent_dim", "num_steps", "rounds")
        check_fields(self, {name: check_whole(1) for name in counts} | {"seconds": check_above_zero})
        if self.batch_size > self.num_images:
            raise ValueError(
                f"batch_size must be between 1 and num_images = {self.num_images}, got {self.batch_size}"
            )

    @property
    def num_batches(self) -> int:
        return self.num_images // self.batch_size


# --- Ours.


def make_bound(config: Config, model: str, image_shape: Any, **options: Any) -> tuple[Bound, Callable]:
    """(bound, init): `init(rng_key)` gives the bound's and the VAE's parameters."""
    vae, init_vae, num_features = networks.build_vae(
        image_shape, config.latent_dim, likelihoods.bernoulli(), hidden=config.hidden
    )
    d = config.latent_dim
    dynamics: dict = {"reverse": networks.reverse_model(num_features, d), "num_steps": config.num_steps}
    amortised, fisher = posteriors.full_covariance(num_features, d), posteriors.fisher(d)
    refined = {"amortised": posteriors.gauss_newton(amortised), "Fisher": posteriors.gauss_newton(fisher)}
    few = solvers.fixed_point(num_iterations=NUM_ITERATIONS, differentiate="unrolled")
    make: dict[str, Callable[[], Bound]] = {
        "VAE": lambda: bounds.elbo(vae, kl="analytic"),
        "HVI": lambda: bounds.hvi(vae, **dynamics, **options),
        "full Gaussian": lambda: bounds.elbo(vae, posterior=amortised),
        "Fisher Gaussian": lambda: bounds.elbo(vae, posterior=fisher),
        "amortised": lambda: bounds.hvi(vae, posterior=amortised, **dynamics, **options),
        "amortised recentred": lambda: bounds.hvi(vae, posterior=refined["amortised"], **dynamics, **options),
        "Fisher": lambda: bounds.hvi(vae, posterior=fisher, **dynamics, **options),
        "Fisher recentred": lambda: bounds.hvi(vae, posterior=refined["Fisher"], **dynamics, **options),
        "RHVI": lambda: bounds.rhvi(vae, posterior=fisher, solver=few, **dynamics, **options),
        "RHVI's parts": lambda: bounds.rhvi(
            vae, posterior=fisher, integrator=explicit_leapfrog, **dynamics, **options
        ),
    }
    bound = make[model]()
    return bound, lambda key: {"vae": init_vae(key), "bound": bound.init(key)}


def build_ours(config: Config, images: np.ndarray, one_core: bool) -> tuple[dict[str, Epoch], dict]:
    """Epochs by model, and {model: what is known of it}."""
    options = training.Options(batch_size=config.batch_size)
    optimizer = training.make_optimizer(options, config.num_batches)
    pixels, epochs, known = jnp.asarray(images), {}, {}
    for model in config.models:
        bound, init = make_bound(config, model, images.shape[1:])
        for variant, binarize in (("", False), (", new bits", True)):
            if binarize and (one_core or not config.extras):
                continue
            state = training.init_state(init(jax.random.key(0)), optimizer, seed=0)
            epoch_fn = training.make_epoch(bound, optimizer, options, 255, binarize)
            begin = time.perf_counter()
            compiled = epoch_fn.lower(state, pixels).compile()
            known[model + variant] = {
                "compile_seconds": time.perf_counter() - begin,
                "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
            }
            epochs[model + variant] = our_epoch(compiled, state, pixels)
            if one_core:
                epochs[model]()
                known[model]["shares"] = shares(compiled, epochs[model])
        flops = count_flops(config, model, images[: config.batch_size])
        known[model]["flops"] = flops * config.num_batches
        if one_core and model == "HVI":
            known[model]["gradient"] = check_our_gradient(config, images[:8])
    return epochs, known


def our_epoch(compiled: Any, state: Any, pixels: jax.Array) -> Epoch:
    held = [state]  # and nowhere else, so that the old state is freed

    def epoch() -> float:
        held[0], metrics = jax.block_until_ready(compiled(held[0], pixels))
        return float(metrics.bound.mean())

    return epoch


def batch_loss(bound: Bound, params: Any, keys: jax.Array, x: jax.Array) -> jax.Array:
    return -jnp.mean(jax.vmap(bound, (None, 0, 0))(params, keys, x)[0])


def count_flops(config: Config, model: str, images: np.ndarray) -> float:
    """Floating-point operations of a batch's gradient, by XLA's count; the loop is unrolled for it, since XLA counts
    a loop's body once."""
    bound, init = make_bound(config, model, images.shape[1:], unroll=True)
    arguments = (init(jax.random.key(0)), jax.random.split(jax.random.key(1), len(images)))
    gradient = jax.jit(jax.grad(lambda *inputs: batch_loss(bound, *inputs)))
    analysis: Any = gradient.lower(*arguments, jnp.asarray(images / 255, jnp.float32)).cost_analysis()
    return float(analysis["flops"])


def check_our_gradient(config: Config, images: np.ndarray) -> dict[str, float]:
    """The bound's derivative along a random direction of the decoder's weights, in float64: the automatic one, and
    the difference quotient. They differ if second-order terms are missing."""
    with jax.enable_x64(True):
        bound, init = make_bound(config, "HVI", images.shape[1:])
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), init(jax.random.key(0)))
        keys = jax.random.split(jax.random.key(1), len(images))
        x = jnp.asarray(images / 255, jnp.float64)
        decoder, unravel = ravel_pytree(params["vae"]["decoder"])
        direction = jax.random.normal(jax.random.key(2), decoder.shape, jnp.float64)

        def value(t: jax.Array) -> jax.Array:
            vae = params["vae"] | {"decoder": unravel(decoder + t * direction)}
            return batch_loss(bound, params | {"vae": vae}, keys, x)

        h = 1e-6
        quotient = (jax.jit(value)(jnp.asarray(h)) - jax.jit(value)(jnp.asarray(-h))) / (2 * h)
        # In reverse mode, as in training.
        return {"automatic": float(jax.jit(jax.grad(value))(jnp.asarray(0.0))), "quotient": float(quotient)}


def shares(compiled: Any, epoch: Epoch) -> dict[str, float]:
    """What an epoch's time goes to, from the profiler: each of XLA's operations is one event with a name, and in the
    compiled program's text that name comes with its place in the code. Empty where there is no such profile."""
    bodies, kinds, body = {}, {}, ""
    for line in compiled.as_text().splitlines():
        opened = re.match(r"(?:ENTRY )?%(\S+) \(.*\{$", line)
        if opened:
            body = opened[1]
        bodies[body] = bodies.get(body, "") + line
        named = re.match(r"\s+(?:ROOT )?%(\S+) = ", line)
        if named:
            kinds[named[1]] = line

    def kind_of(line: str) -> str | None:
        if re.search(r" (while|call|conditional)\(", line):
            return None  # holds other events
        called = re.search(r"calls=%([^ ,]+)", line)
        if re.search(r" dot\(", line + bodies.get(called[1] if called else "", "")):
            return "matrix products"
        place = re.search(r'op_name="([^"]*)"', line)
        if re.search(r"random|threefry|normal|shuffle|erf_inv", place[1] if place else ""):
            return "random numbers"
        return "the rest of the gradient" if "jvp(" in (place[1] if place else "") else "optimizer and loop"

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            epoch()
        paths = list(Path(folder).rglob("*.xplane.pb"))
        reader = getattr(jax.profiler, "ProfileData", None)
        if reader is None or not paths:
            return {}
        planes = reader.from_file(str(paths[0])).planes
        events = [event for plane in planes for line in plane.lines for event in line.events]
        total: dict[str, float] = {}
        for event in events:
            kind = kind_of(kinds[event.name]) if event.name in kinds else None
            if kind is not None:
                total[kind] = total.get(kind, 0.0) + event.duration_ns
    return {kind: value / sum(total.values()) for kind, value in sorted(total.items(), key=lambda e: -e[1])}


# --- pythae.


def make_pythae(config: Config, name: str, image_shape: Any) -> Any:
    """pythae's model with our nets. `EXACT` is its HVAE with `create_graph`, which keeps the second-order terms."""
    import torch
    from pythae.models import HVAE, RHVAE, VAE, HVAEConfig, RHVAEConfig, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from torch import nn

    height, width, channels = image_shape
    num_pixels = height * width * channels

    def layers(*widths: int) -> list[Any]:
        pairs = [(nn.Linear(n, m), nn.Tanh()) for n, m in itertools.pairwise(widths)]
        return [layer for pair in pairs for layer in pair]

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(*layers(num_pixels, *config.hidden))
            self.mean = nn.Linear(config.hidden[-1], config.latent_dim)
            self.log_variance = nn.Linear(config.hidden[-1], config.latent_dim)

        def forward(self, x: Any) -> Any:
            h = self.body(x.reshape(len(x), -1))
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            head: list[Any] = [nn.Linear(config.hidden[0], num_pixels)]
            if name in ("VAE", "RHVAE"):  # which take probabilities where HVAE takes logits
                head.append(nn.Sigmoid())
            self.body = nn.Sequential(*layers(config.latent_dim, *config.hidden[::-1]), *head)

        def forward(self, z: Any) -> Any:
            return ModelOutput(reconstruction=self.body(z).reshape(len(z), channels, height, width))

    class ExactHVAE(HVAE):
        def _dU_dz(self, z: Any, x: Any) -> Any:
            U = -self._log_p_x_given_z(self.decoder(z)["reconstruction"].reshape(len(x), -1), x).sum()
            return torch.autograd.grad(U, z, create_graph=True)[0] + z

    settings = {
        "input_dim": (channels, height, width),
        "latent_dim": config.latent_dim,
        "reconstruction_loss": "bce",
    }
    torch.manual_seed(0)
    if name == "VAE":
        return VAE(VAEConfig(**settings), Encoder(), Decoder())
    if name == "RHVAE":
        rhvae = RHVAEConfig(n_lf=config.num_steps, **settings)
        return RHVAE(rhvae, Encoder(), Decoder())  # with its own metric net, 784-400-(20, 190)
    hvae = HVAEConfig(n_lf=config.num_steps, eps_lf=0.1, learn_eps_lf=True, **settings)
    return (ExactHVAE if name == EXACT else HVAE)(hvae, Encoder(), Decoder())


def build_pythae(config: Config, images: np.ndarray, one_core: bool) -> tuple[dict[str, Epoch], dict]:
    """Epochs by model, and {model: what is known of it}."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(1 if one_core else len_cores())
    torch.distributions.Distribution.set_default_validate_args(False)
    logging.disable(logging.INFO)
    grey = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255
    epochs, known = {}, {}
    for name in config.peers:
        model = name.partition(", ")[0]
        peer = make_pythae(config, name, images.shape[1:]).train()
        optimizer = torch.optim.Adam(peer.parameters(), lr=1e-3, fused=True)
        counter = FlopCounterMode(display=False)
        with counter:
            peer({"data": grey[: config.batch_size]}).loss.backward()
        known[name] = {"flops": float(counter.get_total_flops()) * config.num_batches}
        epochs[name] = peer_epoch(config, peer, optimizer, grey)
        if config.extras and not one_core and name in MODELS:
            own = make_pythae(config, name, images.shape[1:])
            epochs[f"{name}, its own trainer"] = trainer_epoch(config, own, grey)
        if one_core and model == "HVI":
            known[name]["gradient"] = check_peer_gradient(config, name, images[:8], grey[:8])
    return epochs, known


def peer_epoch(config: Config, model: Any, optimizer: Any, grey: Any) -> Epoch:
    import torch

    def epoch() -> float:
        total = torch.zeros(())
        used = config.num_batches * config.batch_size
        for indices in torch.randperm(len(grey))[:used].split(config.batch_size):
            loss = model({"data": grey[indices]}).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return -float(total) / config.num_batches

    return epoch


def trainer_epoch(config: Config, model: Any, grey: Any) -> Epoch:
    """An epoch of pythae's `BaseTrainer`, without its progress bars and checkpoints."""
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback

    settings = BaseTrainerConfig(
        per_device_train_batch_size=config.batch_size, learning_rate=1e-3, no_cuda=True
    )
    used = grey[: config.num_batches * config.batch_size]
    trainer = BaseTrainer(model, BaseDataset(used, torch.ones(len(used))), training_config=settings)
    trainer.set_optimizer()
    trainer.callback_handler = CallbackHandler([TrainingCallback()], model)
    return lambda: -float(trainer.train_step(1))


def check_peer_gradient(config: Config, name: str, images: np.ndarray, grey: Any) -> dict[str, float]:
    """See `check_our_gradient`."""
    import torch

    model = make_pythae(config, name, images.shape[1:]).double().train()
    x = {"data": grey.double()}
    weights = list(model.decoder.parameters())
    torch.manual_seed(2)
    directions = [torch.randn_like(weight) for weight in weights]

    def loss() -> Any:
        torch.manual_seed(1)  # the same noise every time
        return model(x).loss

    def moved(t: float) -> float:
        with torch.no_grad():
            for weight, direction in zip(weights, directions, strict=True):
                weight.add_(direction, alpha=t)
        value = float(loss())
        with torch.no_grad():
            for weight, direction in zip(weights, directions, strict=True):
                weight.sub_(direction, alpha=t)
        return value

    h = 1e-6
    quotient = (moved(h) - moved(-h)) / (2 * h)
    loss().backward()
    automatic = sum(float((w.grad * d).sum()) for w, d in zip(weights, directions, strict=True))
    return {"automatic": automatic, "quotient": quotient}


# --- The workers, and the turns that they take.


def len_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def serve(pipe: Any, library: str, one_core: bool, config: Config, images: np.ndarray) -> None:
    """A worker: builds its epochs, then times one whenever it is told a name."""
    if one_core:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    # Threads that wait by spinning take the core from the very thread that they wait for, as soon as another program
    # is there; with this, PyTorch is the same on a quiet machine and several times faster on a busy one.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    jax.config.update("jax_platforms", "cpu")
    warnings.simplefilter("ignore")
    try:
        epochs, known = (build_ours if library == "hmcvae" else build_pythae)(config, images, one_core)
        for epoch in epochs.values():
            epoch()
    except Exception as error:
        pipe.send(RuntimeError(f"{library}: {error!r}"))
        return
    pipe.send((list(epochs), known))
    for name in iter(pipe.recv, None):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        bound = epochs[name]()
        pipe.send((time.perf_counter() - begin, time.process_time() - begin_cpu, bound))


class Worker:
    """A process with one library in it; see `serve`."""

    def __init__(self, library: str, one_core: bool, config: Config, images: np.ndarray):
        context = multiprocessing.get_context("spawn")  # JAX has threads, which do not survive a fork
        self.library, self.num_cores = library, 1 if one_core else len_cores()
        self.pipe, child = context.Pipe()
        self.process = context.Process(
            target=serve, args=(child, library, one_core, config, images), daemon=True
        )
        self.process.start()
        child.close()

    def receive(self) -> Any:
        """What the worker sends.

        Raises:
            RuntimeError: if it failed.
        """
        try:
            message = self.pipe.recv()
        except EOFError:
            raise RuntimeError(f"the process that runs {self.library} ended unexpectedly") from None
        if isinstance(message, Exception):
            raise message
        return message

    def time_epoch(self, name: str) -> tuple[float, float, float]:
        """(seconds, CPU seconds, bound) of one epoch."""
        self.pipe.send(name)
        return self.receive()

    def close(self) -> None:
        if self.process.is_alive():
            self.process.terminate()
        self.process.join()
        self.process.close()
        self.pipe.close()


def measure(config: Config, images: np.ndarray, libraries: tuple[str, ...]) -> tuple[list[dict], dict]:
    """A row for every contestant, and {library: {model: what is known of it}}."""
    kinds = (False, True) if config.one_core and hasattr(os, "sched_setaffinity") else (False,)
    workers, names, known = [], [], {}
    try:
        for library in libraries:
            for one_core in kinds:
                workers.append(Worker(library, one_core, config, images))
                found, facts = workers[-1].receive()
                names.append(found)
                for name, values in facts.items():  # those of all cores first
                    known.setdefault(library, {}).setdefault(name, {}).update(
                        {key: value for key, value in values.items() if key not in known[library][name]}
                    )
        contestants = [(w, name) for w, found in zip(workers, names, strict=True) for name in found]
        times: list[list[tuple[float, float, float]]] = [[] for _ in contestants]
        begin = time.perf_counter()
        for number in range(config.rounds):
            if number >= 3 and time.perf_counter() - begin > config.seconds:
                break
            for index in list(range(len(contestants)))[:: 1 if number % 2 else -1]:
                worker, name = contestants[index]
                times[index].append(worker.time_epoch(name))
    finally:
        for worker in workers:
            worker.close()
    rows = [make_row(w.library, n, w.num_cores, t) for (w, n), t in zip(contestants, times, strict=True)]
    return rows, known


def make_row(library: str, name: str, num_cores: int, times: list[tuple[float, float, float]]) -> dict:
    seconds, cpu, bound = (np.array(values) for values in zip(*times, strict=True))
    return {
        "model": name.partition(", ")[0],
        "library": library,
        "variant": name.partition(", ")[2],
        "num_cores": num_cores,
        "seconds": float(np.median(seconds)),
        "least_seconds": float(seconds.min()),
        "cpu_seconds": float(np.median(cpu)),
        "bound": float(bound[-1]),
        "rounds": [round(float(value), 4) for value in seconds],
    }


def compare(rows: list[dict], absent: tuple[str, ...]) -> list[dict]:
    """Rows by model with their ratios to ours on as many cores; those of an absent library hold None."""
    empty = dict.fromkeys(("num_cores", "seconds", "least_seconds", "cpu_seconds", "bound"))
    rows = rows + [
        {"model": model, "library": library, "variant": "", "rounds": []} | empty
        for model in MODELS
        for library in absent
    ]
    for row in rows:
        ours = find(rows, row["model"], "hmcvae", row["num_cores"])
        for key in ("seconds", "cpu_seconds"):
            row[f"{key}_over_ours"] = row[key] / ours[key] if ours and row[key] else None
    return sorted(
        rows,
        key=lambda row: (
            MODELS.index(row["model"]),
            row["library"],
            -(row["num_cores"] or 0),
            row["variant"],
        ),
    )


def find(rows: list[dict], model: str, library: str, num_cores: int | None) -> dict | None:
    """The row without a variant."""
    for row in rows:
        if (row["model"], row["library"], row["num_cores"], row["variant"]) == (
            model,
            library,
            num_cores,
            "",
        ):
            return row
    return None


# --- The report.


def describe_system() -> dict[str, Any]:
    """The machine and the versions that a result belongs to."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = models[0] if models else cpu
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    return {
        "device": "cpu",
        "cpu": cpu,
        "num_cores": len_cores(),
        "load_before": load,
        "python": platform.python_version(),
    } | versions


def title(row: dict) -> str:
    """A contestant as the table and the picture name it."""
    names = {
        "hmcvae": {"VAE": "hmcvae ELBO", "HVI": "hmcvae HVI"},
        "pythae": {"VAE": "pythae VAE", "HVI": "pythae HVAE"},
    }
    return names[row["library"]][row["model"]] + (f", {row['variant']}" if row["variant"] else "")


def cores(row: dict) -> str:
    return f"{row['num_cores']} core{'s' * (row['num_cores'] > 1)}"


def times(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f} ×"


def table(rows: list[dict]) -> list[str]:
    lines = [
        "| contestant | cores | s an epoch, median | least | CPU s an epoch | s over ours | CPU s over ours "
        "| bound at the end |",
        "|---|" + "---:|" * 7,
    ]
    for row in rows:
        if row["seconds"] is None:
            cells = [title(row), "", "not measured", "", "", "not measured", "not measured", ""]
        else:
            cells = [
                title(row),
                f"{row['num_cores']}",
                *(f"{row[key]:.3f}" for key in ("seconds", "least_seconds", "cpu_seconds")),
                times(row["seconds_over_ours"]),
                times(row["cpu_seconds_over_ours"]),
                f"{row['bound']:.1f}",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def outcome(rows: list[dict], known: dict) -> list[str]:
    """What was expected, what came, and where the time goes."""
    lines = [f"Expected: at least {TARGETS[0]:g} × faster than each, aiming at {TARGETS[1]:g} ×."]
    for row in rows:
        if row["library"] == "hmcvae" or row["variant"] not in ("", EXACT.partition(", ")[2]):
            continue
        name = f"- Against {title(row)}"
        if row["seconds"] is None:
            lines.append(f"{name}: not measured. `{INSTALL}`")
            continue
        ratios = (row["seconds_over_ours"], row["cpu_seconds_over_ours"])
        met = [
            kind
            for kind, ratio in zip(("by the clock", "in CPU time"), ratios, strict=True)
            if ratio >= TARGETS[0]
        ]
        verdict = f"at least {TARGETS[0]:g} × {' and '.join(met)}" if met else f"not {TARGETS[0]:g} ×"
        lines.append(
            f"{name}, {cores(row)}: {ratios[0]:.2f} × in seconds, {ratios[1]:.2f} × in CPU seconds: {verdict}."
        )
    return [*lines, *work(rows, known), *gradients(known)]


def work(rows: list[dict], known: dict) -> list[str]:
    """Operations and their rate, on as few cores as were measured, and what the time goes to."""
    lines, seen = [], set()
    for row in sorted(rows, key=lambda row: row["num_cores"] or 0):
        name = f"{row['model']}, {row['variant']}".removesuffix(", ")
        facts = known.get(row["library"], {}).get(name, {})
        if "flops" not in facts or (row["library"], name) in seen:
            continue
        seen.add((row["library"], name))
        rate = facts["flops"] / row["cpu_seconds"] / 1e9
        line = f"- {title(row)}: {facts['flops'] / 1e9:.1f} Gflop an epoch, {rate:.0f} Gflop per CPU second"
        if facts.get("shares"):
            parts = ", ".join(f"{kind} {share:.0%}" for kind, share in facts["shares"].items())
            line += f"; of its time, {parts}"
        if "compile_seconds" in facts:
            line += f". Compiled in {facts['compile_seconds']:.1f} s"
        lines.append(f"{line}.")
    return lines


def gradients(known: dict) -> list[str]:
    """The automatic derivative over the difference quotient, of both."""
    parts = []
    for library, models in known.items():
        for name, facts in models.items():
            if "gradient" in facts:
                ratio = facts["gradient"]["automatic"] / facts["gradient"]["quotient"]
                row = {"library": library, "model": "HVI", "variant": name.partition(", ")[2]}
                parts.append(f"{title(row)} {ratio:.4f}")
    if not parts:
        return []
    return [
        "- Derivative of the loss along a random direction of the decoder's weights, automatic over difference "
        f"quotient, 1 when nothing is left out: {'; '.join(parts)}."
    ]


def markdown(rows: list[dict], known: dict, report: dict, notes: str) -> str:
    system, config = report["environment"], report["config"]
    widths = "-".join(str(width) for width in (784, *config["hidden"], config["latent_dim"]))
    num_batches = config["num_images"] // config["batch_size"]
    about = (
        f"`{report['command']}`, {report['date']}: {system['cpu']}, {system['num_cores']} cores, CPU only; jax "
        f"{system['jax']}, torch {system['torch']}, pythae {system['pythae']}. {report['num_rounds']} rounds, in which "
        f"the contestants take turns; {report['seconds']:.0f} seconds in all. {config['num_images']} images, "
        f"{num_batches} batches of {config['batch_size']}, {widths} tanh MLPs, Adam. All take the grey values "
        "as they are, except where new bits are drawn from them in every epoch. "
        f"The load average before the run was {system['load_before']}: other programs were on the cores as far as that "
        "is above 0, and then CPU seconds say more than seconds."
    )
    below = (
        "The bound at the end is the mean over the last timed epoch, to show that all of them train. pythae's VAE has "
        "the same objective as ours; the loss of its HVAE leaves out constants and terms, and is no bound."
    )
    heading = "# Seconds an epoch, against pythae"
    lines = [heading, "", about, "", *table(rows), "", below, "", "## Expectation and outcome", ""]
    return "\n".join([*lines, *outcome(rows, known), ""]) + f"\n{NOTES}\n{notes}"


def draw(rows: list[dict], report: dict, path: Path) -> None:
    """A bar for every contestant, with what it takes over ours."""
    chosen = [row for row in rows if row["seconds"] is not None]
    groups = [[row for row in chosen if row["model"] == model] for model in MODELS]
    figure, panels = plt.subplots(
        len(MODELS),
        1,
        figsize=(9.5, 1.5 + 0.4 * len(chosen)),
        height_ratios=[len(group) + 0.6 for group in groups],
        layout="constrained",
    )
    names = {
        "VAE": "VAE (ELBO)",
        "HVI": f"{report['config']['num_steps']} leapfrog steps in the bound (HVI, HVAE)",
    }
    colours = {"hmcvae": ("tab:blue", "#aecbe6"), "pythae": ("tab:orange", "#fcd2a6")}
    for axes, model, group in zip(panels, MODELS, groups, strict=True):
        longest = max(max(row["seconds"], row["cpu_seconds"]) for row in group)
        for height, row in enumerate(group):
            dark, light = colours[row["library"]]
            axes.barh(height, row["seconds"], 0.78, color=light)
            axes.barh(height, row["cpu_seconds"], 0.36, color=dark)
            over = [f" ({row[f'{key}_over_ours']:.1f} × ours)" for key in ("seconds", "cpu_seconds")]
            over = ["", ""] if row["library"] == "hmcvae" else over
            text = f"{row['seconds']:.2f} s{over[0]}, CPU {row['cpu_seconds']:.2f} s{over[1]}"
            end = max(row["seconds"], row["cpu_seconds"])
            axes.text(end + 0.012 * longest, height, text, va="center", fontsize=8.5)
        labels = [f"{title(row)} · {cores(row)}" for row in group]
        axes.set_yticks(range(len(group)), labels, fontsize=9)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.62 * longest)
        axes.set_title(names[model], fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel(
        "seconds an epoch, median (less is better): light, by the clock; dark, of processor time",
        fontsize=9.5,
    )
    system, config = report["environment"], report["config"]
    figure.suptitle(
        f"Training on {config['num_images']} MNIST images, batch {config['batch_size']} — "
        f"{system['cpu']}, jax {system['jax']}, torch {system['torch']}",
        fontsize=11,
    )
    save_figure(figure, path)


def kept_notes(path: Path) -> str:
    """What a person wrote below the script's part of an earlier report."""
    text = path.read_text() if path.exists() else ""
    return text.split(NOTES, 1)[1].lstrip("\n") if NOTES in text else ""


def run(config: Config, images: np.ndarray, command: str) -> dict:
    """Measure, print, and write the JSON, Markdown and picture.

    Raises:
        ValueError: unless there are num_images images.
        RuntimeError: if a contestant fails.
    """
    folder = config.folder or Path("runs/bench_training")
    check_writable(folder)
    if len(images) != config.num_images:
        raise ValueError(f"expected num_images = {config.num_images} images, got {len(images)}")
    absent = tuple(name for name in ("pythae",) if not (util.find_spec(name) and util.find_spec("torch")))
    libraries = tuple(name for name in ("hmcvae", "pythae") if name not in absent)
    for name in absent:
        print(f"{name} is not installed: not measured. {INSTALL}", file=sys.stderr)
    system, begin = describe_system(), time.perf_counter()
    print(", ".join(f"{name} {value}" for name, value in system.items()), flush=True)
    measured, known = measure(config, images, libraries)
    rows = compare(measured, absent)
    report = {
        "command": command,
        "date": date.today().isoformat(),
        "environment": system,
        "config": asdict(config) | {"data_dir": None, "folder": None},
        "num_rounds": len(measured[0]["rounds"]),
        "seconds": round(time.perf_counter() - begin, 1),
        "rows": rows,
        "known": known,
    }
    print(*table(rows), "", *outcome(rows, known), sep="\n")
    stem = folder / "bench_training"
    write_json(stem.with_suffix(".json"), report)
    stem.with_suffix(".md").write_text(markdown(rows, known, report, kept_notes(stem.with_suffix(".md"))))
    draw(rows, report, stem.with_suffix(".png"))
    print(f"written in {report['seconds']} s: {stem}.json, .md, .png")
    return report


def smaller(config: AnyConfig) -> AnyConfig:
    """The smoke run: smaller in every direction."""
    changes = {"num_images": 64, "batch_size": 16, "hidden": (8, 8), "latent_dim": 2, "rounds": 2}
    return replace(config, one_core=False, extras=False, **changes)


def made_up(num_images: int) -> np.ndarray:
    """Bright discs, for runs without data."""
    grid = np.mgrid[:28, :28]
    centres = np.random.default_rng(0).uniform(8, 20, (num_images, 2, 1, 1))
    return (255 * (((grid - centres) ** 2).sum(1) < 36)).astype(np.uint8)[..., None]


def main() -> None:
    import tyro

    config = tyro.cli(Config)
    if config.quick:
        config = smaller(config)
        images = made_up(config.num_images)
    else:
        images = data.load("mnist", config.data_dir).train[: config.num_images]
    arguments = " ".join(["DIR" if arg == str(config.data_dir) else arg for arg in sys.argv[1:]])
    run(config, images, f"python -m experiments.bench_training {arguments}".strip())
