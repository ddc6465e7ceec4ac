"""Densities that carry their data along: programs take them as arguments, and keep none of them."""

import dataclasses
import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from hmcvae import metrics
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.langevin import mmala
from hmcvae.samplers.lengths import uniform_steps
from hmcvae.samplers.nuts import nuts
from hmcvae.samplers.sampling import sample
from tests.support.sampling import ALGORITHM, STARTS, draw

pytestmark = pytest.mark.filterwarnings("ignore::hmcvae.SamplingWarning")


DATA_KERNELS = {
    "hmc": lambda density: hmc(density, 0.5, uniform_steps(1, 3)),
    "hmc, one length": lambda density: hmc(density, 0.5, uniform_steps(1, 3, shared=True)),
    "nuts": lambda density: nuts(density, 0.5, max_depth=3),
    "mmala": lambda density: mmala(density, 0.5, metrics.identity()),
}


@pytest.mark.parametrize("kind", DATA_KERNELS)
@pytest.mark.parametrize("num_warmup", [0, 30])
def test_other_data_trace_nothing(kind, num_warmup):
    """Where the density carries them along; the draws are those of a density that closes over them."""
    traces = []

    def log_density(scale, data, z):
        traces.append(scale)
        return -0.5 * scale * jnp.sum((z - data["y"]) ** 2)

    make, options = DATA_KERNELS[kind], {"num_samples": 3, "num_warmup": num_warmup}
    for y, is_first in ((np.arange(3.0), True), (np.ones(3), False)):
        data = {"y": y, "unused": jnp.zeros((2, 2))}
        traces.clear()
        found = draw(algorithm=make(Partial(log_density, 2.0, data)), **options)
        assert bool(traces) == is_first
        closed = draw(algorithm=make(lambda z, data=data: log_density(2.0, data, z)), **options)
        np.testing.assert_allclose(found.position, closed.position, rtol=1e-6, atol=1e-8)
    traces.clear()
    draw(algorithm=make(Partial(log_density, 3.0, data)), **options)
    assert set(traces) == {3.0}  # a number is no array, and may decide how it is computed


def test_data_are_not_kept():
    class Array(np.ndarray):
        pass

    def log_density(y, z):
        return -0.5 * jnp.sum((z - y) ** 2)

    y = np.arange(3.0).view(Array)
    gone = weakref.ref(y)
    samples = draw(algorithm=hmc(Partial(log_density, y), 0.5, 2), num_warmup=20, num_samples=3)
    del y
    gc.collect()
    assert gone() is None
    assert samples.position.shape == (len(STARTS), 3, 3)


def log_density(y, z):
    return -0.5 * jnp.sum((z - y) ** 2)


Y = np.arange(3.0)


@pytest.mark.parametrize(("one", "other"), [(2, 2.0), (1, True), (0.0, -0.0), ("a", "b")])
def test_what_is_equal_is_not_the_same(one, other):
    """Numbers among a density's arguments that compare equal may make another density."""

    def own(number, y, z):
        return log_density(y, z) * (3.0 if repr(number) == repr(other) else 1.0)

    first, second = (draw(algorithm=hmc(Partial(own, n, Y), 0.5, 2), num_samples=3) for n in (one, other))
    assert (np.asarray(first.position) != second.position).any()


class Thing:
    """Can be seen to be gone."""

    def __init__(self):
        self.y = jnp.asarray(Y)

    def __call__(self, y, z):
        return log_density(y + self.y, z)


def of_an_object(thing, y, z):
    return log_density(y + thing.y, z)


def algorithm_of(kind, thing):
    if kind == "metric":
        tensor = metrics.from_tensor(lambda z: (1 + thing.y[1] * z[0] ** 2) * jnp.eye(3))
        return mmala(Partial(log_density, Y), 0.3, tensor)
    density = {
        "object": lambda: Partial(of_an_object, thing, Y),
        "functools": lambda: Partial(functools.partial(of_an_object, thing), Y),
        "nested": lambda: Partial(Partial(of_an_object, thing), Y),
    }[kind]
    return hmc(density(), 0.5, 2)


@pytest.mark.parametrize("kind", ["object", "functools", "nested", "metric"])
def test_nothing_is_kept_with_a_function_but_what_is_its_own(kind):
    def run():
        thing = Thing()
        draw(algorithm=algorithm_of(kind, thing), num_samples=2)
        return weakref.ref(thing)

    gone = run()
    gc.collect()
    assert gone() is None


def test_a_density_whose_arguments_have_no_hash_is_compiled_once():
    traces = []

    @dataclasses.dataclass
    class Settings:
        scale: float

    def own(settings, y, z):
        traces.append(1)
        return settings.scale * log_density(y, z)

    density = Partial(own, Settings(2.0), Y)
    draw(algorithm=hmc(density, 0.5, 2), num_samples=2)
    traces.clear()
    draw(algorithm=hmc(density, 0.5, 2), num_samples=2)
    assert not traces


def test_arrays_that_are_no_numbers_are_no_data():
    def own(names, y, z):
        return log_density(y, z) * len(names)

    found = draw(algorithm=hmc(Partial(own, np.array(["a", "b"]), Y), 0.5, 2), num_samples=2)
    expected = draw(algorithm=hmc(lambda z: 2 * log_density(Y, z), 0.5, 2), num_samples=2)
    np.testing.assert_allclose(found.position, expected.position, rtol=1e-6)


def test_random_keys_may_be_data_of_a_run_in_a_folder(tmp_path):
    def own(key, z):
        return log_density(jax.random.normal(key, (3,)), z)

    def run(seed, **options):
        algorithm = hmc(Partial(own, jax.random.key(seed)), 0.5, 2)
        return draw(algorithm=algorithm, num_samples=3, folder=tmp_path / "run", **options)

    first = run(0)
    np.testing.assert_array_equal(run(0, resume=True).position, first.position)
    with pytest.raises(ValueError, match="holds another run: data was"):
        run(1, resume=True)


@pytest.mark.parametrize(("before", "after"), [(2.0, 3.0), (2.0, 2), (True, 1), ("plain", "other")])
def test_numbers_beside_the_data_are_part_of_a_run_in_a_folder(tmp_path, before, after):
    def own(number, data, z):
        return log_density(data, z) * (1.0 if isinstance(number, str) else number)

    def run(number, **options):
        algorithm = hmc(Partial(own, number, Y), 0.5, 2)
        return draw(algorithm=algorithm, num_samples=3, folder=tmp_path / "run", **options)

    first = run(before)
    np.testing.assert_array_equal(run(before, resume=True).position, first.position)
    with pytest.raises(ValueError, match="holds another run: data was"):
        run(after, resume=True)


def test_a_record_is_made_of_draws_alone():
    """It may be dear."""
    made = []

    def record(state):
        jax.debug.callback(lambda: made.append(1))
        return state.position[0]

    draw(num_samples=3, num_warmup=20, record=record)
    jax.effects_barrier()
    assert len(made) == 3


@pytest.mark.filterwarnings("error:Some donated buffers were not usable")
@pytest.mark.parametrize("num_warmup", [0, 20])
def test_many_runs_under_vmap(num_warmup):
    keys = jax.random.split(jax.random.key(0), 2)

    def run(key):
        return sample(key, ALGORITHM, STARTS, num_samples=4, num_warmup=num_warmup).position

    found = jax.vmap(run)(keys)
    for own, key in zip(found, keys, strict=True):
        np.testing.assert_allclose(own, run(key), rtol=1e-6, atol=1e-8)


def test_a_run_without_warm_up_goes_on_twice(tmp_path):
    whole = draw(num_samples=12)
    for count in (4, 8, 12):
        found = draw(num_samples=count, folder=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(found.position, whole.position)
