"""Masses learned from draws and gradients: against the definition, with little to learn from, and in a warm-up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import metrics
from hmcvae.metrics import LowRank
from hmcvae.samplers import adaptation as adapt
from hmcvae.samplers import fisher_masses as fisher
from hmcvae.samplers.draws import SamplingWarning
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.lengths import uniform_steps
from hmcvae.samplers.nuts import nuts
from hmcvae.samplers.sampling import sample
from hmcvae.samplers.stages import common_key_of
from hmcvae.samplers.stored import Store
from tests.support.gaussians import normal

RNG = np.random.default_rng(3)


def filled(draws, gradients, dtype=jnp.float64):
    """A buffer of one chain's draws, and the metric that a warm-up of their dimension begins with."""
    n, d = draws.shape
    state = fisher.buffer_init(d, dtype)
    rows = (state.draws.at[:n].set(draws.astype(dtype)), state.gradients.at[:n].set(gradients.astype(dtype)))
    k = fisher.num_directions(d)
    start = LowRank(jnp.full(d, 7.0, dtype), jnp.eye(d, k, dtype=dtype), jnp.ones(k, dtype))
    return state._replace(count=jnp.asarray(n), draws=rows[0], gradients=rows[1]), start


fit = jax.jit(fisher.fit_low_rank, static_argnums=1)


def condition(metric, covariance):
    """Of the posterior's covariance in the metric's coordinates."""
    values = np.linalg.eigvals(np.asarray(metric.tensor(jnp.zeros(len(covariance))), float) @ covariance).real
    return values.max() / values.min()


class TestFit:
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    def test_is_the_geometric_mean_of_covariances(self, dtype):
        """Σ Cov(g) Σ = Cov(z), for draws and gradients that no Gaussian has, in directions beyond the cutoff."""
        d, n = 4, 400
        covariance = np.full((d, d), 0.96) + 0.04 * np.eye(d)
        covariance = covariance * np.outer(*2 * [np.array([1e-2, 1.0, 5.0, 1e2])])
        root = np.linalg.cholesky(covariance)
        draws = RNG.normal(size=(n, d)) @ root.T + np.array([0.0, 30.0, -1.0, 0.0])
        gradients = -np.linalg.solve(covariance, draws.T).T + 0.4 * RNG.normal(size=(n, d)) @ np.linalg.inv(
            root
        )
        metric, is_enough = fit(*filled(draws, gradients, dtype)[:1], 1, filled(draws, gradients, dtype)[1])
        assert is_enough
        scale = np.sqrt(np.std(gradients, axis=0) / np.std(draws, axis=0))
        np.testing.assert_allclose(metric.mass, scale**2, rtol=1e-4)
        assert np.all(np.abs(np.log(metric.eigenvalues)) > np.log(fisher.CUTOFF))
        S = np.linalg.inv(np.asarray(metric.tensor(jnp.zeros(d, dtype)), float))
        left, right = S @ np.cov(gradients.T) @ S, np.cov(draws.T)
        unit = np.sqrt(np.diag(right))
        np.testing.assert_allclose(left / np.outer(unit, unit), right / np.outer(unit, unit), atol=2e-2)
        np.testing.assert_allclose(metric.vectors.T @ metric.vectors, np.eye(d), atol=1e-5)

    def test_a_gaussian_needs_no_more_draws_than_dimensions(self):
        """Where the noise of the two covariances cancels; that of the draws alone would leave a condition of ten."""
        d = 12
        Q = np.linalg.qr(RNG.normal(size=(d, d)))[0]
        covariance = (Q * np.geomspace(1e-3, 1e3, d)) @ Q.T
        draws = RNG.multivariate_normal(np.zeros(d), covariance, 40)
        metric, _ = fit(*filled(draws, -draws @ np.linalg.inv(covariance))[:1], 1, filled(draws, draws)[1])
        assert condition(metric, covariance) < fisher.CUTOFF**2 * 1.05

    def test_more_dimensions_than_draws(self):
        """d = 300 beyond all axes, a covariance of three directions: found among the axes of 64 draws. Six seeds left a
        condition of 309 to 516, of 24,000 and more of the masses alone."""
        d, rng = 300, np.random.default_rng(0)
        assert d > 2 * fisher.MOST_AXES
        Q = np.linalg.qr(rng.normal(size=(d, 3)))[0]
        stretch = np.array([400.0, 0.01, 100.0])
        covariance = np.eye(d) + (Q * (stretch - 1)) @ Q.T
        draws = rng.normal(size=(64, d)) @ (np.eye(d) + (Q * (np.sqrt(stretch) - 1)) @ Q.T)
        gradients = -(draws + draws @ (Q * (1 / stretch - 1)) @ Q.T)
        metric, _ = fit(filled(draws, gradients, jnp.float32)[0], 1, filled(draws, gradients, jnp.float32)[1])
        assert metric.vectors.shape == (d, fisher.MOST_DIRECTIONS)
        assert condition(metric, covariance) < 800

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    def test_what_says_nothing(self, dtype):
        """A coordinate whose gradient is constant has its variance, one that never moved the mass that was, and a row
        in which a number is not finite is none."""
        draws = RNG.normal(size=(100, 3)) * np.array([3.0, 0.1, 0.0])
        gradients = -draws / np.array([9.0, 1.0, 1.0]) ** 1
        gradients[:, 1] = 2.5
        clean = fit(filled(draws, gradients, dtype)[0], 1, filled(draws, gradients, dtype)[1])[0]
        np.testing.assert_allclose(clean.mass, [1 / 9, 1 / draws[:, 1].var(), 7.0], rtol=1e-3)
        assert np.all(np.isfinite(clean.tensor(jnp.zeros(3, dtype))))
        dirty, bad = draws.copy(), gradients.copy()
        dirty[17, 0], bad[3, 1] = np.inf, np.nan
        state, start = filled(dirty, bad, dtype)
        rest, _ = filled(np.delete(draws, [3, 17], 0), np.delete(gradients, [3, 17], 0), dtype)
        ours, theirs = (
            fit(state, 1, start)[0].factor(jnp.zeros(3, dtype)).diagonals for state in (state, rest)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)

    def test_rows_of_the_window_before_do_not_count(self):
        """21 transitions of which every other one is kept are 11 rows; behind them is what was there before."""
        draws = np.random.default_rng(1).normal(size=(50, 3))
        state, start = filled(draws[:11], -(draws[:11] ** 3))
        longer = filled(10 * draws, draws)[0]
        stale = longer._replace(
            count=jnp.asarray(21),
            stride=jnp.asarray(2, jnp.int32),
            draws=longer.draws.at[:11].set(draws[:11]),
            gradients=longer.gradients.at[:11].set(-(draws[:11] ** 3)),
        )
        jax.tree.map(np.testing.assert_array_equal, fit(stale, 1, start)[0], fit(state, 1, start)[0])

    def test_too_few_rows(self):
        state, start = filled(np.ones((3, 2)), np.ones((3, 2)))
        metric, is_enough = fit(state, 1, start)
        assert not is_enough
        assert np.all(np.isfinite(metric.mass))


class TestBuffer:
    @pytest.mark.parametrize("num_chains", [3, 100])
    def test_rows_are_spread_over_the_window(self, num_chains):
        """Transitions 0, s, 2 s, … of a window of any length, each draw with its own gradient."""
        update = jax.jit(fisher.buffer_update)
        state = fisher.buffer_init(2, jnp.float32)
        rows, slots = fisher._slots(num_chains)
        for index in range(3 * slots + 5):
            chain = jnp.arange(num_chains, dtype=jnp.float32)
            draws = jnp.stack([jnp.full(num_chains, index), chain], axis=1)
            state = update(state, draws, -draws, True)
            state = update(state, jnp.full((num_chains, 2), jnp.nan), draws, False)  # not collected
        assert state.count == 3 * slots + 5
        assert state.stride == 4
        num_kept = -(-int(state.count) // 4)
        kept = np.asarray(state.draws[: num_kept * rows]).reshape(num_kept, rows, 2)
        np.testing.assert_array_equal(kept[:, :, 0], np.arange(num_kept)[:, None] * 4 * np.ones(rows))
        np.testing.assert_array_equal(state.gradients[: num_kept * rows], -state.draws[: num_kept * rows])
        assert set(kept[:, :, 1].ravel().tolist()) == set(range(num_chains))
        assert fisher.buffer_reset(state).count == 0


def test_pairs_are_the_ratio_of_deviations():
    draws, scales = RNG.normal(size=(50, 4, 3)) ** 3, np.array([1e-15, 1.0, 1e15])
    state = fisher.pair_init(3, jnp.float32)
    update = jax.jit(fisher.pair_update)
    for z in draws:
        state = update(
            state, jnp.asarray(z * scales, jnp.float32), jnp.asarray(-np.tanh(z) / scales, jnp.float32)
        )
    # What is not finite counts as the mean, on both sides.
    broken = jnp.ones((4, 3), jnp.float32).at[0, 0].set(jnp.nan).at[1:, 2].set(jnp.inf)
    state = update(
        update(state, broken, jnp.ones((4, 3), jnp.float32)), jnp.ones((4, 3), jnp.float32), broken
    )
    flat = draws.reshape(-1, 3)
    expected = np.tanh(flat).std(axis=0) / flat.std(axis=0) / scales / scales
    np.testing.assert_allclose(fisher.fit_diagonal(state, jnp.ones(3)).mass, expected, rtol=1e-4)
    still = fisher.fit_diagonal(fisher.pair_init(3, jnp.float32), jnp.full(3, 5.0))
    np.testing.assert_allclose(still.mass, 5.0)


# --- In a warm-up.

COVARIANCE = 0.99 * np.ones((5, 5)) + 0.01 * np.eye(5)
PRECISION = np.linalg.inv(COVARIANCE)
SCALES = np.array([0.05, 0.2, 1.0, 5.0, 20.0])


def correlated(z):
    return -0.5 * (z / SCALES.astype(z.dtype)) @ PRECISION.astype(z.dtype) @ (z / SCALES.astype(z.dtype))


NUTS = nuts(correlated, 0.1)
STARTS = np.asarray(RNG.normal(size=(3, 5)) * SCALES)


def run(**options):
    return sample(
        jax.random.key(0),
        NUTS,
        options.pop("starts", jnp.asarray(STARTS)),
        **({"num_samples": 60, "num_warmup": 300} | options),
    )


def test_low_rank_in_a_warm_up_that_is_killed_and_goes_on(tmp_path, monkeypatch):
    whole = run(adapt_mass="low_rank")
    found = whole.adaptation
    assert isinstance(found.metric, LowRank)
    assert bool(found.is_adapted)
    assert bool(found.has_moved)
    covariance = COVARIANCE * np.outer(SCALES, SCALES)
    assert condition(found.metric, covariance) < 6
    assert np.mean(np.asarray(whole.info.num_integration_steps)) < 10  # a diagonal mass needs some 30
    monkeypatch.setattr("hmcvae.samplers.running.SAVED", 0.0)
    save, calls = Store.save, []

    def killed(self, *arguments):
        save(self, *arguments)
        calls.append(1)
        if len(calls) == 6:  # in the middle of a window
            raise KeyboardInterrupt

    monkeypatch.setattr(Store, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(adapt_mass="low_rank", folder=tmp_path / "run")
    again = run(adapt_mass="low_rank", folder=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(again.position, whole.position)
    jax.tree.map(np.testing.assert_array_equal, again.adaptation.metric, found.metric)


def test_diagonal_fisher_in_a_warm_up():
    starts = jnp.asarray(STARTS, jnp.float32)
    metric = run(adapt_mass="diagonal_fisher", starts=starts, num_samples=1, num_warmup=300).adaptation.metric
    expected = np.sqrt(np.diag(PRECISION) / np.diag(COVARIANCE)) / SCALES**2
    np.testing.assert_allclose(metric.mass / expected, 1, atol=0.35)
    assert metric.mass.dtype == jnp.float32


def test_gradients_need_a_state_that_has_them():
    class Info(tuple):
        acceptance_rate = jnp.ones(3)

    from collections import namedtuple

    state = namedtuple("State", "position")(jnp.ones((3, 2)))
    learned = adapt.adaptation_init(0.1, metrics.identity(), jnp.ones(2), "low_rank")
    report = namedtuple("Info", "acceptance_rate")(jnp.ones(()))
    flags = adapt.Schedule(True, False, False)
    with pytest.raises(ValueError, match="need an algorithm whose state has logdensity_grad, got State"):
        adapt.warmup_transition(
            lambda *a: (a[1], report), jax.random.split(jax.random.key(0), 3), state, learned, flags
        )


# --- Where nothing moves.


@pytest.mark.parametrize("mass", ["diagonal", "low_rank"])
def test_nothing_moves(mass):
    """Starts that differ have a variance of their own, which is none of the posterior's."""
    starts = jnp.array([[0.0, 0.0], [3.0, 1.0], [7.0, -2.0]])
    wall = hmc(lambda z: jnp.where(jnp.any(jnp.all(z[None] == starts, axis=1)), 0.0, jnp.nan), 0.3, 2)
    with pytest.warns(SamplingWarning, match="no chain moved in a warm-up of 60 transitions.*find_start"):
        samples = sample(jax.random.key(0), wall, starts, num_samples=3, num_warmup=60, adapt_mass=mass)
    assert not samples.adaptation.has_moved
    np.testing.assert_array_equal(samples.adaptation.metric.tensor(jnp.zeros(2)), np.eye(2))
    np.testing.assert_allclose(samples.adaptation.step_size, 0.3)


def test_a_window_without_a_move_keeps_the_mass():
    learned = adapt.adaptation_init(0.1, metrics.identity(), jnp.ones(2))
    draws = jnp.asarray(RNG.normal(size=(4, 2)))
    still = adapt.adaptation_update(learned, 0.0, draws, True, True, num_moves=0)
    np.testing.assert_array_equal(still.metric.mass, 1.0)
    assert not still.has_moved
    early = adapt.adaptation_update(learned, 0.9, draws, False, False, num_moves=4)  # before the window
    assert early.has_moved
    late = adapt.adaptation_update(early, 0.0, draws, True, True, num_moves=0)
    np.testing.assert_array_equal(late.metric.mass, 1.0)
    assert late.has_moved
    moved = adapt.adaptation_update(still, 0.9, draws, True, True, num_moves=1)
    assert np.all(moved.metric.mass != 1.0)
    assert moved.has_moved
    assert moved.num_moves == 0


# --- What chains share, and vectors of step sizes.

SHARED = hmc(normal, 0.6, uniform_steps(1, 5, shared=True))


def lengths(samples):
    return np.asarray(samples.info.num_integration_steps)


def test_one_length_for_all_the_chains_of_a_transition():
    starts = jnp.asarray(RNG.normal(size=(5, 3)))
    samples = sample(jax.random.key(0), SHARED, starts, num_samples=100, num_warmup=30)
    found = lengths(samples)
    assert np.all(found == found[:1])
    assert set(found[0].tolist()) == {1, 2, 3, 4, 5}
    few = sample(jax.random.key(0), SHARED, starts[:2], num_samples=100)
    np.testing.assert_array_equal(
        lengths(few)[0], found[0]
    )  # of the key alone, not of the chains or the warm-up
    warming, drawing = (jax.random.key_data(common_key_of(jax.random.key(0), stage)) for stage in (0, 1))
    assert np.any(warming != drawing)
    other = sample(jax.random.key(1), SHARED, starts[:2], num_samples=100)
    assert np.any(lengths(other) != lengths(few))


def test_steps_by_hand_draw_their_own_lengths():
    states = jax.vmap(SHARED.init)(jnp.ones((40, 3)))
    _, info = jax.vmap(SHARED.step)(jax.random.split(jax.random.key(0), 40), states)
    assert len(set(info.num_integration_steps.tolist())) == 5


def test_a_vector_of_step_sizes_is_tuned_by_a_common_factor():
    widths = jnp.array([1e-2, 1.0, 50.0])
    algorithm = hmc(lambda z: -0.5 * jnp.sum((z / widths) ** 2), 1e-3 * widths, uniform_steps(1, 4))
    starts = jnp.asarray(RNG.normal(size=(4, 3))) * widths[None]
    samples = sample(jax.random.key(0), algorithm, starts, num_samples=200, num_warmup=100)
    found = samples.adaptation
    np.testing.assert_allclose(found.step_size / widths, jnp.mean(found.step_size / widths), rtol=1e-6)
    assert 0.3 < float(found.step_size[1]) < 2
    assert isinstance(found.metric, metrics.Identity)
    assert abs(float(samples.counts.acceptance_rate) - 0.8) < 0.1
    with pytest.warns(
        SamplingWarning, match=r"2 transitions has not brought .* target of 0.8, and left the step"
    ):
        sample(jax.random.key(0), algorithm, starts, num_samples=2, num_warmup=2)
    with pytest.raises(ValueError, match=r'shape \(3,\), .* None or "auto" with them, got \'diagonal\''):
        sample(jax.random.key(0), algorithm, starts, num_samples=2, num_warmup=20, adapt_mass="diagonal")
