"""`find_start`: uphill, and honest where it cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hmcvae.samplers import find_start

SCALES = jnp.array([0.01, 1.0, 30.0])
MODE = jnp.array([3.0, -1.0, 2.0])


def gaussian(position):
    z = jnp.concatenate([position["a"], position["b"][None]])
    return -0.5 * jnp.sum(((z - MODE) / SCALES) ** 2)


def wall(z):
    """Finite at the start alone, with a slope."""
    return jnp.where(jnp.all(z == 1), jnp.sum(z), jnp.nan)


def test_comes_to_the_mode_of_a_badly_scaled_gaussian():
    starts = {"a": jnp.array([[50.0, 20.0], [3.0, -1.0]]), "b": jnp.array([-40.0, 2.0])}
    found, info = find_start(gaussian, starts, num_steps=60)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, starts)
    np.testing.assert_allclose(found["a"], MODE[None, :2] * jnp.ones((2, 1)), atol=1e-4)
    np.testing.assert_allclose(info.logdensity, jax.vmap(gaussian)(found), rtol=1e-12)
    gradients = jax.vmap(jax.grad(gaussian))(found)
    largest = np.maximum(np.abs(gradients["a"]).max(axis=1), np.abs(gradients["b"]))
    np.testing.assert_allclose(info.gradient_norm, largest, rtol=1e-12)
    assert not info.has_failed.any()
    assert info.num_steps[1] == 0  # that chain was there


def test_no_more_steps_than_asked_for_and_never_downhill():
    starts = {"a": jnp.array([[50.0, 20.0]]), "b": jnp.array([-40.0])}
    before = jax.vmap(gaussian)(starts)
    for num_steps in (1, 3):
        _, info = find_start(gaussian, starts, num_steps=num_steps)
        assert info.num_steps == num_steps
        assert info.logdensity > before


def test_failure_is_flagged_and_the_start_kept():
    starts = jnp.stack([jnp.ones(2), jnp.full(2, jnp.nan), jnp.zeros(2)]).astype(jnp.float32)
    found, info = find_start(wall, starts)
    np.testing.assert_array_equal(found, starts)
    assert found.dtype == jnp.float32
    assert info.has_failed.all()


def test_the_best_point_is_kept_where_steps_overshoot(monkeypatch):
    monkeypatch.setattr("optax.lbfgs", lambda: optax.with_extra_args_support(optax.sgd(1.2)))
    found, info = find_start(lambda z: -jnp.sum(z**2), jnp.ones((1, 2)), num_steps=3)
    np.testing.assert_array_equal(found, np.ones((1, 2)))
    assert (float(info.logdensity[0]), float(info.gradient_norm[0]), int(info.num_steps[0])) == (-2.0, 2.0, 3)
    assert info.has_failed.all()


@pytest.mark.parametrize("positions", [jnp.ones(()), {"a": jnp.ones((2, 1)), "b": jnp.ones((3, 1))}])
def test_positions_without_a_chain_axis(positions):
    with pytest.raises(ValueError, match="one leading chain axis"):
        find_start(wall, positions)
