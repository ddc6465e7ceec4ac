"""Chains spread over devices: inside `shard_map` with its checks on, and on a mesh with Explicit axes.

Each in a process of its own, since the number of (virtual) devices is fixed when JAX starts.
"""

import subprocess
import sys

import pytest

from tests.support.paths import REPOSITORY

HEAD = """
import os
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=4"
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import hmcvae
from hmcvae import metrics, uniform_steps

def normal(z):
    return -0.5 * jnp.sum(z**2)

keys = jax.random.split(jax.random.key(0), 8)
starts = jax.random.normal(jax.random.key(1), (8, 2))
"""

SHARD_MAP = """
mesh = jax.make_mesh((4,), ("chains",), axis_types=(AxisType.Auto,))

def shard(function):
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=P("chains"), out_specs=P("chains")))

def step(keys, starts):
    return jax.vmap(algorithm.step)(keys, jax.vmap(algorithm.init)(starts))[0].position

def draw(keys, starts):
    return hmcvae.sample(keys[0], algorithm, starts, num_samples=3, num_warmup=num_warmup).position
"""

ALGORITHMS = {
    "hmc": "hmcvae.hmc(normal, 0.5, 3)",
    "hmc of random length, retraced": "hmcvae.hmc(normal, 0.5, uniform_steps(1, 3), check_reversibility=True)",
    "rmhmc": "hmcvae.rmhmc(normal, 0.5, 2, metrics.softabs(normal, 1.0))",
    "rmhmc of random length": "hmcvae.rmhmc(normal, 0.5, uniform_steps(1, 3), metrics.fisher(jnp.tanh, jnp.exp))",
    "nuts": "hmcvae.nuts(normal, 0.5, max_depth=4)",
    "nuts, implicit": (
        "hmcvae.nuts(normal, 0.5, metrics.softabs(normal, 1.0), max_depth=3, "
        "integrator=hmcvae.integrators.generalized_leapfrog)"
    ),
    "mmala": "hmcvae.mmala(normal, 0.5, metrics.monge(normal))",
}


def run(code: str, num_devices: int = 4) -> None:
    head = HEAD.replace("device_count=4", f"device_count={num_devices}")
    done = subprocess.run(
        [sys.executable, "-c", head + code], cwd=REPOSITORY, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_steps_inside_shard_map(name):
    """What varies over the devices is said of every loop's carry; the draws are those of one device."""
    run(
        SHARD_MAP
        + f"algorithm = {ALGORITHMS[name]}\n"
        + "np.testing.assert_allclose(shard(step)(keys, starts), jax.jit(step)(keys, starts), rtol=1e-4)"
    )


def test_sample_inside_shard_map():
    """Each device runs its own chains, warm-up and all."""
    run(
        SHARD_MAP
        + f"algorithm, num_warmup = {ALGORITHMS['hmc of random length, retraced']}, 20\n"
        + "found = shard(draw)(keys, starts)\n"
        + "for index in range(0, 8, 2):\n"
        + "    alone = jax.jit(draw)(keys[index : index + 2], starts[index : index + 2])\n"
        + "    np.testing.assert_allclose(found[index : index + 2], alone, rtol=1e-3)"
    )


def test_sample_of_chains_on_a_mesh_with_explicit_axes():
    run(
        """
mesh = jax.make_mesh((4,), ("chains",), axis_types=(AxisType.Explicit,))
spread = jax.device_put(starts, NamedSharding(mesh, P("chains")))
algorithm = hmcvae.hmc(normal, 0.5, uniform_steps(1, 3))
options = {"num_samples": 20, "num_warmup": 30}
alone = hmcvae.sample(keys[0], algorithm, starts, **options)
found = hmcvae.sample(keys[0], algorithm, spread, **options)
# Sums over devices round otherwise, and the tuned step size feels it.
np.testing.assert_allclose(found.position, alone.position, rtol=1e-3, atol=3e-3)
assert found.position.sharding.mesh == mesh
assert found.position.sharding.spec[0] == "chains", found.position.sharding
tuned = algorithm._replace(step_size=found.adaptation.step_size, metric=found.adaptation.metric)
with jax.set_mesh(mesh):
    more = hmcvae.sample(keys[1], tuned, found.last, num_samples=5)
assert hmcvae.concatenate(found, more).shape == (8, 25, 2)
try:
    jax.jit(lambda x: hmcvae.sample(keys[0], algorithm, x, num_samples=3).position)(spread)
except ValueError as error:
    assert "Explicit axes" in str(error)
else:
    raise AssertionError("not refused")
"""
    )


def test_chains_on_a_mesh_draw_what_they_draw_on_one_device():
    """On 1, 2 and 8 devices, to rounding; stored, and resumed on others, as well. A warm-up pools them all."""
    run(
        """
import tempfile
starts = jax.random.normal(jax.random.key(2), (16, 2))
algorithm = hmcvae.hmc(normal, 0.5, uniform_steps(1, 3))
alone = hmcvae.sample(keys[0], algorithm, starts, num_samples=20)
tuned = hmcvae.sample(keys[0], algorithm, starts, num_samples=5, num_warmup=60).adaptation
for count in (1, 2, 8):
    mesh = jax.make_mesh((count,), ("chains",), devices=jax.devices()[:count])
    found = hmcvae.sample(keys[0], algorithm, starts, num_samples=20, mesh=mesh)
    assert found.position.sharding.num_devices == count
    np.testing.assert_allclose(found.position, alone.position, atol=1e-4)
    assert int(found.counts.num_transitions) == 16 * 20
    np.testing.assert_allclose(found.counts.acceptance_rate, alone.counts.acceptance_rate, rtol=1e-4)
# One length for all the chains, wherever they are.
shared = hmcvae.hmc(normal, 0.5, uniform_steps(1, 3, shared=True))
one, found = (hmcvae.sample(keys[0], shared, starts, num_samples=20, **on) for on in ({}, {"mesh": mesh}))
np.testing.assert_allclose(found.position, one.position, atol=1e-4)
lengths = np.asarray(found.info.num_integration_steps)
assert np.all(lengths == lengths[:1]) and len(np.unique(lengths)) == 3
own = hmcvae.sample(keys[0], algorithm, starts, num_samples=5, num_warmup=60, mesh=mesh).adaptation
np.testing.assert_allclose(own.step_size, tuned.step_size, rtol=0.05)
with tempfile.TemporaryDirectory() as folder:
    hmcvae.sample(keys[0], algorithm, starts, mesh=mesh, folder=folder, num_samples=7)
    stored = hmcvae.sample(keys[0], algorithm, starts, folder=folder, resume=True, num_samples=20)
    np.testing.assert_allclose(stored.position, alone.position, atol=1e-4)
try:
    hmcvae.sample(keys[0], algorithm, starts[:6], mesh=mesh, num_samples=3)
except ValueError as error:
    assert "the 8 devices of the mesh need a multiple of as many chains, got 6" in str(error)
else:
    raise AssertionError("not refused")
""",
        num_devices=8,
    )


def test_data_of_a_density_come_to_where_the_chains_are():
    run(
        """
from jax.tree_util import Partial

def log_density(y, z):
    return -0.5 * jnp.sum((z - y) ** 2)

y = jnp.asarray([0.5, 1.0])
auto, explicit = (jax.make_mesh((4,), ("chains",), axis_types=(kind,)) for kind in (AxisType.Auto, AxisType.Explicit))
spread = jax.device_put(starts, NamedSharding(explicit, P("chains")))
on_mesh = jax.device_put(y, NamedSharding(explicit, P()))
options = {"num_samples": 5, "num_warmup": 10}

def draw(y, starts, **more):
    algorithm = hmcvae.hmc(Partial(log_density, y), 0.5, 2)
    return np.asarray(hmcvae.sample(keys[0], algorithm, starts, **options, **more).position)

alone = draw(y, starts)
for found in (draw(jax.device_put(y, jax.devices()[1]), starts, mesh=auto), draw(on_mesh, spread), draw(y, spread)):
    np.testing.assert_allclose(found, alone, rtol=1e-3, atol=3e-3)
"""
    )
