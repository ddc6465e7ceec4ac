"""Trainings and estimates on one device and on all of this process's, for `test_devices`: prints a line of JSON."""

import json
import re
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType

import hmcvae
from hmcvae import annealing, bounds, evaluation, posteriors, training

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
LATENT, PIXELS, BATCH = 3, 6, 16
if sys.argv[1] == "processes":  # before JAX looks for its devices
    jax.distributed.initialize(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))


def encode(params, x):
    h = jnp.tanh(params["e"] @ x)
    return h[:LATENT], 0.3 * h[LATENT : 2 * LATENT] - 0.5, h


def decode(params, z):
    return params["d"] @ jnp.tanh(z) + params["b"]


VAE = hmcvae.VAE(encode, decode, hmcvae.likelihoods.bernoulli(), LATENT)
KEYS = jax.random.split(jax.random.key(0), 3)
PARAMS = {
    "e": 0.5 * jax.random.normal(KEYS[0], (8, PIXELS)),
    "d": jax.random.normal(KEYS[1], (PIXELS, LATENT)),
    "b": jnp.zeros(PIXELS),
}
DATA = np.asarray(jax.random.bernoulli(KEYS[2], 0.4, (80, PIXELS)), np.float64)
VALIDATION = DATA[:13]
BOUNDS = {
    "elbo": bounds.elbo(VAE),
    "hvi": bounds.hvi(VAE, num_transitions=1, num_steps=2),
    "fisher": bounds.hvi(VAE, posterior=posteriors.fisher(LATENT), num_transitions=1, num_steps=2),
    "rhvi": bounds.rhvi(VAE, num_transitions=1, num_steps=1),
}


def start(bound):
    return {"vae": PARAMS, "bound": bound.init(jax.random.key(1))}


def fit(bound, data=DATA, **options):
    """(the last state, the records' columns)."""
    options = {"num_epochs": 3, "batch_size": BATCH, "validation": VALIDATION} | options
    epochs = list(training.fit(bound, start(bound), data, optimizer=optax.adam(0.01), **options))
    state, records = epochs[-1][0], [record for _, record in epochs]
    names = ("bound", "validation_bound", "grad_norm", "energy_error")
    return state, {name: [record[name] for record in records] for name in names}


def bytes_moved(mesh) -> dict:
    """Of one step: the operands of all collectives in XLA's program, and the parameters."""
    bound, optimizer = BOUNDS["rhvi"], optax.adam(0.01)
    devices = training.Devices(mesh)
    step = training.make_step(bound, optimizer, training.Settings(batch_size=BATCH), devices=devices)
    state = devices.put_state(training.init_state(start(bound), optimizer, 0))
    program = jax.jit(step, static_argnums=3).lower(
        state, devices.put_batch(DATA[:BATCH]), jax.random.key(0), 5
    )
    kinds, total = set(), 0
    sizes = {"f64": 8, "f32": 4, "s32": 4, "pred": 1, "u32": 4, "s64": 8}
    kind = r"(all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter)"
    for line in program.compile().as_text().splitlines():
        found = re.search(rf"= (.*?) {kind}(-start)?\(", line)
        if found:
            kinds.add(found[2])
            for dtype, shape in re.findall(r"(f64|f32|s32|s64|u32|pred)\[([\d,]*)\]", found[1]):
                total += sizes[dtype] * int(np.prod([int(n) for n in shape.split(",") if n] or [1]))
    own = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))
    return {"moved": total, "params": own, "kinds": sorted(kinds)}


def curves(mesh) -> dict:
    result: dict = {}
    for name, bound in BOUNDS.items():
        _, one = fit(bound)
        state, eight = fit(bound, mesh=mesh)
        result[name] = {"one": one, "mesh": eight}
        if name in ("elbo", "rhvi"):
            parts, result[name]["split"] = fit(bound, mesh=mesh, shard_params=True)
    leaf = parts.params["vae"]["e"]
    result["split_share"] = leaf.addressable_shards[0].data.size / leaf.size
    batches = [DATA[first : first + BATCH] for first in range(0, 80, BATCH)]
    result["stream"] = {
        "one": fit(BOUNDS["elbo"], batches)[1],
        "mesh": fit(BOUNDS["elbo"], batches, mesh=mesh)[1],
    }
    with tempfile.TemporaryDirectory() as folder:
        fit(
            BOUNDS["elbo"],
            num_epochs=2,
            mesh=mesh,
            shard_params=True,
            checkpoints=training.Checkpoints(folder),
        )
        kept = training.Checkpoints(folder)
        half = jax.make_mesh((4,), ("batch",), devices=jax.devices()[:4])  # Explicit axes
        result["resumed"] = fit(BOUNDS["elbo"], mesh=half, checkpoints=kept, resume=True)[1]
    params = state.params
    result["estimate"] = {
        name: np.asarray(
            evaluation.estimate(
                BOUNDS["rhvi"], jax.device_get(params), jax.random.key(2), VALIDATION, num_samples=6, mesh=own
            ).log_likelihood
        ).tolist()
        for name, own in (("one", None), ("mesh", mesh))
    }
    options = {"num_temperatures": 10, "num_chains": 3, "num_steps": 2}
    result["ais"] = {
        name: np.asarray(
            annealing.ais(VAE, PARAMS, jax.random.key(2), VALIDATION, mesh=own, **options).log_likelihood
        ).tolist()
        for name, own in (("one", None), ("mesh", mesh))
    }
    result["bytes"] = bytes_moved(mesh)
    refused = []
    for data, size in ((DATA, 12), ([DATA[:12]], BATCH)):
        try:
            fit(BOUNDS["elbo"], data, batch_size=size, mesh=mesh)
        except ValueError as error:
            refused.append(str(error))
    result["refused"] = refused
    return result


def processes(folder: str) -> dict:
    """Of one of several processes: the curves, those of batches of which it reads its own part, and a resumed run."""
    mesh = jax.make_mesh((jax.device_count(),), ("batch",), axis_types=(AxisType.Auto,))
    count, own = jax.process_count(), jax.process_index()
    # Many processes on few cores compile for minutes: of those the cheap bounds alone.
    names = BOUNDS if count < 4 else ("elbo", "hvi")
    result: dict = {name: fit(BOUNDS[name], mesh=mesh)[1] for name in names}
    share = BATCH // count
    batches = [DATA[first + own * share : first + (own + 1) * share] for first in range(0, 80, BATCH)]
    result["stream"] = fit(BOUNDS["elbo"], batches, mesh=mesh)[1]
    kept = training.Checkpoints(folder)
    fit(BOUNDS["elbo"], num_epochs=2, mesh=mesh, shard_params=True, checkpoints=kept)
    result["epochs"], result["last_good"] = kept.epochs(), kept.last_good()
    result["resumed"] = fit(BOUNDS["elbo"], mesh=mesh, checkpoints=kept, resume=True)[1]
    try:
        kept.restore({"another": jnp.zeros(3)})
    except ValueError as error:
        result["refused"] = str(error)
    try:
        training.on_first(lambda: 1 / 0 if training.is_first() else 0)
    except (ZeroDivisionError, RuntimeError) as error:
        result["failed"] = [type(error).__name__, str(error)]
    return result


def main() -> None:
    if sys.argv[1] == "curves":
        mesh = jax.make_mesh((jax.device_count(),), ("batch",), axis_types=(AxisType.Auto,))
        print(json.dumps(curves(mesh)))
    else:
        print(json.dumps(processes(sys.argv[5])))


if __name__ == "__main__":
    main()
