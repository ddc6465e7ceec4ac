"""Half precision: what is drawn at random is no coarser than single precision makes it."""

import ast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import metrics
from hmcvae._random import happens, normal
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.langevin import mmala
from tests.support.paths import REPOSITORY

HALF = [jnp.bfloat16, jnp.float16]
KEY = jax.random.key(3)


@pytest.mark.parametrize("dtype", [*HALF, jnp.float32, jnp.float64])
def test_normal_numbers_have_tails(dtype):
    x = normal(KEY, (400_000,), dtype)
    assert x.dtype == dtype
    x = np.asarray(x, np.float64)
    share = np.mean(np.abs(x) > 3)  # 0.0027, with a standard error of 0.0001
    assert 0.0022 < share < 0.0032
    assert abs(np.var(x) - 1) < 0.01


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_other_precisions_draw_what_jax_draws(dtype):
    np.testing.assert_array_equal(normal(KEY, (5,), dtype), jax.random.normal(KEY, (5,), dtype))
    probability = jnp.linspace(0, 1, 50, dtype=dtype)
    expected = jax.random.uniform(KEY, (50,), dtype) < probability
    np.testing.assert_array_equal(happens(KEY, probability), expected)


@pytest.mark.parametrize("dtype", [*HALF, jnp.float32])
def test_what_is_rare_happens_rarely(dtype):
    for probability, most in ((0.0, 0), (1e-6, 10), (0.25, 101_500)):
        count = int(happens(KEY, jnp.full(400_000, probability, dtype)).sum())
        assert count <= most, (probability, count)
    assert count > 98_500
    assert happens(KEY, jnp.ones(1000, dtype)).all()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", ["hmc", "mmala"])
def test_steps_that_are_far_too_large_are_rejected(name, dtype):
    """At more than twice the standard deviation energies explode; one of a hundred of them was accepted."""

    def density(z):
        return -0.5 * jnp.sum(z**2)

    kernels = {"hmc": lambda: hmc(density, 2.2, 3), "mmala": lambda: mmala(density, 6.0, metrics.identity())}
    algorithm = kernels[name]()
    starts = normal(jax.random.key(0), (20_000, 1), dtype)
    states = jax.vmap(algorithm.init)(starts)
    _, info = jax.jit(jax.vmap(algorithm.step))(jax.random.split(KEY, 20_000), states)
    is_hopeless = np.asarray(info.acceptance_rate, np.float64) < 1e-4
    assert is_hopeless.sum() > 5000
    assert np.asarray(info.is_accepted)[is_hopeless].sum() <= 2


def test_nothing_else_of_the_package_draws_numbers_in_a_precision_that_it_is_given():
    for path in (REPOSITORY / "hmcvae").rglob("*.py"):
        if path.name == "_random.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "jax.random.normal",
                "jax.random.uniform",
            ):
                assert len(node.args) + len(node.keywords) <= 2, f"{path}:{node.lineno}"
