"""The trees of the no-U-turn sampler, against a plain recursion in Python, and the point that is drawn from them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hmcvae import integrators, metrics
from hmcvae._random import threefry, uniform_at
from hmcvae.samplers.base import check_settings, set_out
from hmcvae.samplers.nuts import _leap, _velocity_and_energy, nuts
from hmcvae.samplers.trees import DIVERGED, GROWS, TURNED, End, Growth, Lane, grow
from hmcvae.samplers.turning import Point, Span, turns
from tests.support.gaussians import COVARIANCE, gaussian
from tests.support.kernels import BENT
from tests.support.statistics import log_gamma

CAP = 5


def funnel(z):
    return -0.5 * z[0] ** 2 * jnp.exp(-z[1]) - 0.5 * z[1] - z[1] ** 2 / 18


# log density, step size, metric, integrator
CASES = {
    "gaussian": (gaussian, 0.25, metrics.identity(), integrators.leapfrog),
    "gaussian, coarse": (gaussian, 1.1, metrics.dense(jnp.linalg.inv(COVARIANCE)), integrators.leapfrog),
    "skewed": (log_gamma, 0.3, metrics.diagonal(jnp.array([1.0, 3.0])), integrators.mclachlan),
    "funnel": (funnel, 0.9, metrics.identity(), integrators.leapfrog),
    "riemannian": (gaussian, 0.3, BENT, integrators.generalized_leapfrog),
}
START = jnp.array([0.3, -0.8])


class Reference:
    """Hoffman & Gelman's recursion with Stan's criterion, points in the order of time."""

    def __init__(self, logdensity_fn, step_size, metric, integrator):
        step = integrator(logdensity_fn, metric)
        self.metric, self.step_size = metric, step_size
        self.step = jax.jit(lambda state, sign: step(state, sign * step_size)[0])
        self.look = jax.jit(partial(_velocity_and_energy, metric))

    def point(self, state):
        velocity, energy = self.look(state)
        return {
            "state": state,
            "v": np.asarray(state.momentum),
            "u": np.asarray(velocity),
            "H": float(energy),
        }

    def turns(self, left, right):
        """Of two halves, lists of points in the order of time."""

        def goes_on(points):
            rho = sum(point["v"] for point in points)
            return rho @ points[0]["u"] > 0 and rho @ points[-1]["u"] > 0

        return not (goes_on(left + right) and goes_on([*left, right[0]]) and goes_on([left[-1], *right]))

    def build(self, point, sign, depth):
        """(points in the order of time, why it ended or None) of a sub-tree that begins beside a point."""
        if depth == 0:
            new = self.point(self.step(point["state"], float(sign)))
            self.made.append(new)
            error = new["H"] - self.start["H"]
            return [new], None if error <= 1000 else DIVERGED
        first, why = self.build(point, sign, depth - 1)
        if why:
            return first, why
        second, why = self.build(first[-1] if sign > 0 else first[0], sign, depth - 1)
        if why:
            return second, why
        left, right = (first, second) if sign > 0 else (second, first)
        return left + right, TURNED if self.turns(left, right) else None

    def tree(self, start, signs):
        self.start, self.made = self.point(start), []
        points, why, depth = [self.start], GROWS, 0
        index, chances = 0, np.ones(1)  # of the start, and of being drawn
        for sign in signs:
            new, ended = self.build(points[-1] if sign > 0 else points[0], sign, depth)
            if ended:
                why = ended
                break
            old_weights, new_weights = self.weights(points), self.weights(new)
            share = min(1, new_weights.sum() / old_weights.sum())
            parts = [chances * (1 - share), share * new_weights / new_weights.sum()]
            left, right = (points, new) if sign > 0 else (new, points)
            chances = np.concatenate(parts if sign > 0 else parts[::-1])
            points, depth = left + right, depth + 1
            index += 0 if sign > 0 else len(new)
            if self.turns(left, right):
                why = TURNED
                break
        return points, depth, why, chances, index

    def weights(self, points):
        return np.exp([self.start["H"] - point["H"] for point in points])


def signs_of(words, count=CAP):
    return [1 if int(words[0]) >> j & 1 else -1 for j in range(count)]


@pytest.mark.parametrize("name", CASES)
def test_trees_are_those_of_the_recursion(name):
    logdensity_fn, step_size, metric, integrator = CASES[name]
    reference = Reference(logdensity_fn, step_size, metric, integrator)
    algorithm = nuts(logdensity_fn, step_size, metric, integrator=integrator, max_depth=CAP)
    state = algorithm.init(START)
    keys = jax.random.split(jax.random.key(3), 24)
    _, infos = jax.jit(jax.vmap(algorithm.step, (0, None)))(keys, state)
    seen = set()
    for index, key in enumerate(keys):
        info = jax.tree.map(lambda leaf, index=index: leaf[index], infos)
        key_momentum, key_tree = jax.random.split(key)
        start = set_out(key_momentum, state, metric)
        signs = signs_of(jax.random.bits(key_tree, (3,), jnp.uint32))
        points, depth, why, _, _ = reference.tree(start, signs)
        made = reference.made
        assert (int(info.tree_depth), int(info.num_integration_steps)) == (depth, len(made))
        assert (bool(info.is_turning), bool(info.is_divergent)) == (why == TURNED, why == DIVERGED)
        assert bool(info.reached_max_depth) == (why == GROWS)
        errors = np.array([point["H"] for point in made]) - reference.start["H"]
        rates = np.exp(np.minimum(-errors, 0)) * (errors <= 1000)
        np.testing.assert_allclose(float(info.acceptance_rate), rates.mean(), rtol=1e-6)
        np.testing.assert_allclose(float(info.max_energy_error), errors.max(), rtol=1e-6, atol=1e-9)
        energies = [point["H"] for point in points]
        assert np.min(np.abs(np.array(energies) - float(info.energy))) < 1e-9
        seen.add((depth, why, len(made) == 2**depth - 1))
    assert len(seen) > 2, "trees of one kind show nothing"


@pytest.mark.parametrize(("name", "seed"), [("gaussian", 0), ("gaussian, coarse", 1)])
def test_points_are_drawn_with_their_probabilities(name, seed):
    """One momentum and one sequence of directions; what is left to chance is which point is moved to."""
    logdensity_fn, step_size, metric, integrator = CASES[name]
    state = nuts(logdensity_fn, step_size, metric, integrator=integrator).init(START)
    start = set_out(jax.random.key(seed), state, metric)
    words = jnp.array([0b00110, 0, 0], jnp.uint32)
    reference = Reference(logdensity_fn, step_size, metric, integrator)
    points, _, _, chances, index = reference.tree(start, signs_of(words, 4))
    assert len(points) >= 4
    settings = check_settings(logdensity_fn, metric, integrator, step_size, 1000.0, False, None)
    step = integrator(logdensity_fn, metric)
    growth = Growth(
        lambda _, state, sign: _leap(step, metric, settings, state, sign * step_size),
        False,
        False,
        4,
        1000.0,
    )
    velocity, energy = _velocity_and_energy(metric, start)

    def draw(seed):
        return grow(growth, None, Lane(End(start, velocity), energy, words[0], seed), None)

    seeds = jax.random.bits(jax.random.key(9), (20_000, 2), jnp.uint32)
    trees = jax.jit(jax.vmap(draw))(seeds)
    positions = np.stack([np.asarray(point["state"].position) for point in points])
    np.testing.assert_allclose(trees.past.state.position[0], positions[0], rtol=1e-8)
    np.testing.assert_allclose(trees.future.state.position[0], positions[-1], rtol=1e-8)
    np.testing.assert_allclose(trees.rho[0], sum(point["v"] for point in points), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(trees.log_weight[0], np.log(reference.weights(points).sum()), rtol=1e-7)
    away = np.abs(np.asarray(trees.candidate.position)[:, None] - positions[None]).sum(axis=2)
    assert away.min(axis=1).max() < 1e-8
    counts = np.bincount(away.argmin(axis=1), minlength=len(points))
    np.testing.assert_array_equal(np.asarray(trees.has_moved), away.argmin(axis=1) != index)
    likely = chances * len(seeds) > 5
    found, expected = counts[likely], chances[likely] * len(seeds)
    assert counts[~likely].sum() < 60
    assert stats.chi2.sf(((found - expected) ** 2 / expected).sum(), likely.sum() - 1) > 1e-4, (
        found,
        expected,
    )


def test_each_of_the_six_conditions_of_a_turn_counts():
    """Spans drawn at random: for each condition some where it alone says that they turn."""
    numbers = np.random.default_rng(0).normal(size=(4000, 10, 2)) + 0.6
    vectors = np.moveaxis(numbers, 1, 0)
    older = Span(Point(vectors[0], vectors[1]), Point(vectors[2], vectors[3]), vectors[4])
    newer = Span(Point(vectors[5], vectors[6]), Point(vectors[7], vectors[8]), vectors[9])

    def go_on(rho, *ends):
        return [np.sum(rho * end.velocity, axis=1) > 0 for end in ends]

    conditions = [
        *go_on(older.rho + newer.rho, older.first, newer.last),
        *go_on(older.rho + newer.first.momentum, older.first, newer.first),
        *go_on(older.last.momentum + newer.rho, older.last, newer.last),
    ]
    found = np.asarray(jax.jit(jax.vmap(turns))(older, newer))
    np.testing.assert_array_equal(found, ~np.all(conditions, axis=0))
    for index in range(6):
        others = np.all(conditions[:index] + conditions[index + 1 :], axis=0)
        assert (others & ~conditions[index]).sum() > 10


class TestRandomNumbers:
    @pytest.mark.parametrize(
        ("key", "counter", "expected"),
        [
            ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
            ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
            ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
        ],
    )
    def test_known_answers(self, key, counter, expected):
        """The published test vectors of Threefry-2x32-20."""
        words = threefry(tuple(map(jnp.uint32, key)), tuple(map(jnp.uint32, counter)))
        assert tuple(map(int, words)) == expected

    @pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32, jnp.float64])
    def test_uniform(self, dtype):
        numbers = jax.jit(jax.vmap(lambda i: uniform_at(jnp.array([1, 2], jnp.uint32), 0, i, dtype)))(
            jnp.arange(20_000)
        )
        assert numbers.dtype == dtype
        values = np.asarray(numbers, np.float64)
        assert 0 <= values.min() < values.max() < 1
        assert stats.kstest(values, "uniform").pvalue > 1e-4
        others = jax.vmap(lambda i: uniform_at(jnp.array([1, 2], jnp.uint32), 1, i, dtype))(
            jnp.arange(20_000)
        )
        assert abs(np.corrcoef(values, np.asarray(others, np.float64))[0, 1]) < 4 / np.sqrt(20_000)


def test_random_numbers_are_not_drawn_in_the_kernels_of_positions():
    # XLA would put a whole generator of random bits into each kernel that selects by what it draws, for each entry.
    algorithm = nuts(lambda z: -0.5 * jnp.dot(z, z), 0.5)
    states = jax.vmap(algorithm.init)(jnp.zeros((3, 7)))
    step = jax.jit(jax.vmap(algorithm.step))
    program = step.lower(jax.random.split(jax.random.key(0), 3), states).compile().as_text()
    kernels = [text for text in program.split("\n\n") if text.lstrip().startswith("%fused")]
    drawing = [
        text.partition(") -> ")[2].split(" ")[0]
        for text in kernels
        if text.count("shift-right-logical(") >= 20
    ]
    assert drawing
    assert all("[3,7]" not in shape for shape in drawing), drawing
