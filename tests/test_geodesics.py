"""Geodesics against those known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import metrics
from hmcvae.geodesics import geodesic, resample

POLAR = metrics.from_tensor(lambda z: jnp.diag(jnp.array([1.0, z[0] ** 2])))
HALF_PLANE = metrics.from_tensor(lambda z: jnp.eye(2) / z[1] ** 2)


def test_in_polar_coordinates_it_is_the_chord():
    found = geodesic(POLAR, jnp.array([1.0, 0.0]), jnp.array([2.0, 2.0]), num_points=80, tolerance=1e-10)
    assert found.converged
    chord = np.hypot(2 * np.cos(2) - 1, 2 * np.sin(2))
    np.testing.assert_allclose(found.length, chord, rtol=2e-4)
    r, angle = found.points.T
    x, y = r * jnp.cos(angle), r * jnp.sin(angle)
    # On the straight line from (1, 0) to (2 cos 2, 2 sin 2).
    off = (x - 1) * 2 * np.sin(2) - y * (2 * np.cos(2) - 1)
    np.testing.assert_allclose(off, 0, atol=2e-3)
    assert found.straight_length > 1.05 * chord


@pytest.mark.parametrize(("num_points", "error"), [(10, 8e-3), (40, 4e-4), (160, 3e-5)])
def test_the_hyperbolic_distance_is_approached_at_second_order(num_points, error):
    start, end = jnp.array([0.0, 1.0]), jnp.array([1.5, 0.5])
    found = geodesic(HALF_PLANE, start, end, num_points=num_points, tolerance=1e-12)
    exact = np.arccosh(1 + np.sum((end - start) ** 2) / (2 * start[1] * end[1]))
    assert abs(found.length / exact - 1) < error
    assert found.energy >= found.length**2 * (1 - 1e-9)
    np.testing.assert_allclose(found.energy, exact**2, rtol=2 * error)


def test_a_metric_that_varies_much_is_no_obstacle():
    """The half plane from near its edge; and a hill across the straight line, whose metric must not be kept for the
    path that has left it."""
    start, end = jnp.array([0.0, 0.1]), jnp.array([5.0, 2.0])
    found = geodesic(HALF_PLANE, start, end, num_points=80)
    exact = np.arccosh(1 + np.sum((end - start) ** 2) / (2 * start[1] * end[1]))
    assert found.converged
    assert found.num_iterations < 60
    np.testing.assert_allclose(found.length, exact, rtol=1e-3)
    hill = metrics.from_tensor(lambda z: jnp.ones(2) * (1 + 1e4 * jnp.exp(-2 * jnp.sum(z**2))))
    ends = jnp.array([-3.0, 0.05]), jnp.array([3.0, 0.05])
    found, longer = (geodesic(hill, *ends, tolerance=own) for own in (1e-5, 1e-10))
    assert found.converged
    assert found.num_iterations < 100
    np.testing.assert_allclose(found.energy, longer.energy, rtol=1e-4)


def test_a_constant_metric_has_straight_geodesics_in_one_step():
    G = jnp.array([[2.0, 0.5], [0.5, 1.0]])
    start, end = jnp.array([1.0, -1.0]), jnp.array([0.0, 3.0])
    found = geodesic(metrics.from_tensor(lambda z: G), start, end, num_points=7)
    assert found.converged
    assert found.num_iterations == 1
    np.testing.assert_allclose(found.points, np.linspace(start, end, 7), atol=1e-6)
    np.testing.assert_allclose(found.length, np.sqrt((end - start) @ G @ (end - start)), rtol=1e-6)


def test_reversed_it_is_the_same_path_and_two_points_are_a_straight_one():
    start, end = jnp.array([0.0, 1.0]), jnp.array([1.5, 0.5])
    there = geodesic(HALF_PLANE, start, end, num_points=15, tolerance=1e-12)
    back = geodesic(HALF_PLANE, end, start, num_points=15, tolerance=1e-12)
    np.testing.assert_allclose(there.points, back.points[::-1], atol=1e-4)
    two = geodesic(HALF_PLANE, start, end, num_points=2)
    assert two.converged
    assert two.points.shape == (2, 2)


def test_a_fisher_metric_under_jit_and_vmap_in_single_precision():
    W = jax.random.normal(jax.random.key(0), (30, 2), jnp.float32)
    metric = metrics.fisher(
        lambda z: 3 * jnp.sin(W @ z), lambda f: jax.nn.sigmoid(f) * jax.nn.sigmoid(-f), 1.0
    )
    starts, ends = jax.random.normal(jax.random.key(1), (2, 4, 2), jnp.float32)
    found = jax.jit(jax.vmap(lambda a, b: geodesic(metric, a, b)))(starts, ends)
    assert found.points.dtype == jnp.float32
    assert np.all(np.asarray(found.length) < np.asarray(found.straight_length))
    fine = geodesic(metric, starts[0].astype(float), ends[0].astype(float), tolerance=1e-12)
    np.testing.assert_allclose(found.energy[0], fine.energy, rtol=1e-4)
    np.testing.assert_array_equal(found.points[:, 0], starts)
    np.testing.assert_array_equal(found.points[:, -1], ends)


def test_resampled_points_are_equally_far_apart():
    points = jnp.stack([jnp.linspace(0.0, 1.0, 400) ** 2, 1 + jnp.linspace(0.0, 1.0, 400)], axis=1)
    walk = resample(HALF_PLANE, points, 9)
    fine = resample(HALF_PLANE, points, 161)
    links = jnp.linalg.norm(jnp.diff(fine, axis=0), axis=1) / ((fine[1:, 1] + fine[:-1, 1]) / 2)
    np.testing.assert_allclose(links, links.mean(), rtol=5e-3)
    np.testing.assert_allclose(walk[0], points[0])
    np.testing.assert_allclose(walk[-1], points[-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((jnp.zeros(2), jnp.zeros(3)), {}, "one shape"),
        ((jnp.zeros(2), jnp.array([0.0, jnp.nan])), {}, "end must be finite"),
        ((jnp.zeros(2), jnp.ones(2)), {"num_points": 1}, "num_points"),
        ((jnp.zeros(2), jnp.ones(2)), {"max_iterations": -1}, "max_iterations"),
        ((jnp.zeros(2), jnp.ones(2)), {"tolerance": 0.0}, "tolerance"),
        ((jnp.zeros(2), jnp.ones(2)), {"tolerance": jnp.ones(2)}, "tolerance"),
        ((jnp.zeros(2), jnp.ones(2)), {"tolerance": True}, "tolerance"),
        ((jnp.zeros(2), jnp.ones(2)), {"num_points": True}, "num_points"),
        ((jnp.zeros(2), jnp.ones(2)), {"max_iterations": None}, "max_iterations"),
    ],
)
def test_bad_arguments_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        geodesic(POLAR, *arguments, **options)


def test_bad_chains_are_refused():
    with pytest.raises(ValueError, match="points must be"):
        resample(POLAR, jnp.zeros((1, 2)), 3)
    with pytest.raises(ValueError, match="num_points"):
        resample(POLAR, jnp.ones((3, 2)), 1)
