"""Warm-up's parts against their definitions: step sizes, moments, the schedule of windows, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import metrics
from hmcvae.samplers import adaptation as adapt


class TestDualAveraging:
    def test_is_equation_6(self):
        """Against the paper's closed form x_{t+1} = μ - √t/γ · 1/(t + t₀) Σ H_i and its average."""
        target, gamma, t0, kappa, first = 0.65, 0.05, 10.0, 0.75, 0.3
        rates = np.random.default_rng(0).uniform(size=30)
        state = adapt.dual_averaging_init(jnp.asarray(first))
        average = np.log(first)
        for t in range(1, 31):
            state = adapt.dual_averaging_update(state, rates[t - 1], target)
            log_step = np.log(10 * first) - np.sqrt(t) / gamma / (t + t0) * np.sum(target - rates[:t])
            average = t**-kappa * log_step + (1 - t**-kappa) * average
            np.testing.assert_allclose(state.log_step_size, log_step, rtol=1e-10)
            np.testing.assert_allclose(state.log_step_size_average, average, rtol=1e-10)

    @pytest.mark.parametrize("target", [0.6, 0.8, 0.95])
    def test_finds_the_target(self, target):
        """Acceptance exp(-ε) plus noise: the root is ε = -log δ."""
        noise = 0.02 * jax.random.normal(jax.random.key(0), (3000,))

        def body(state, shock):
            rate = jnp.exp(-jnp.exp(state.log_step_size)) + shock
            return adapt.dual_averaging_update(state, rate, target), None

        state, _ = jax.lax.scan(body, adapt.dual_averaging_init(jnp.asarray(10.0)), noise)
        np.testing.assert_allclose(jnp.exp(-jnp.exp(state.log_step_size_average)), target, atol=0.01)

    def test_nan_counts_as_rejection(self):
        state = adapt.dual_averaging_init(jnp.asarray(1.0))
        a, b = (adapt.dual_averaging_update(state, rate, 0.8) for rate in (jnp.nan, 0.0))
        assert a == b

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    def test_dtype(self, dtype):
        state = adapt.dual_averaging_update(
            adapt.dual_averaging_init(0.1, dtype), jnp.float64(0.3), jnp.float32(0.8)
        )
        assert {leaf.dtype for leaf in state if leaf is not state.count} == {jnp.dtype(dtype)}


class TestReasonableStepSize:
    @pytest.mark.parametrize("start", [1e-4, 0.1, 0.6, 1.0, 1e4])
    def test_brackets_one_half(self, start):
        found = float(adapt.reasonable_step_size(lambda epsilon: jnp.exp(-epsilon), start))
        crossing = np.log(2)
        assert (crossing <= found < 2 * crossing) if start < crossing else (crossing / 2 < found <= crossing)

    def test_nan_is_too_large(self):
        found = adapt.reasonable_step_size(lambda epsilon: jnp.where(epsilon > 0.01, jnp.nan, 1.0), 1.0)
        assert 0.005 < found <= 0.01

    @pytest.mark.parametrize("rate", [0.0, 1.0, np.nan])
    def test_ends_where_nothing_changes(self, rate):
        found = adapt.reasonable_step_size(lambda epsilon: jnp.full((), rate), 1.0, max_changes=20)
        assert float(found) == (2.0**20 if rate == 1.0 else 2.0**-20)


class TestWelford:
    @pytest.mark.parametrize("batch", [1, 5])
    @pytest.mark.parametrize("mass", ["diagonal", "dense"])
    def test_equals_numpy(self, mass, batch):
        draws = (
            np.random.default_rng(1).normal(size=(60, 3)) @ np.array([[1, 2, 0], [0, 1, 5], [0, 0, 0.1]])
            + 1e4
        )
        state = adapt.welford_init(3, mass, jnp.float64)
        for piece in draws.reshape(-1, batch, 3):
            state = jax.jit(adapt.welford_update)(state, jnp.asarray(piece))
        expected = np.cov(draws.T)
        if mass == "diagonal":
            expected = np.diag(expected)
        assert state.count == 60
        np.testing.assert_allclose(state.mean, draws.mean(axis=0))
        np.testing.assert_allclose(
            adapt.welford_covariance(state, regularise=False), expected, rtol=1e-7, atol=1e-6
        )
        target = np.minimum(np.var(draws, axis=0, ddof=1), 1)
        shrunk = 60 / 65 * expected + 1e-3 * 5 / 65 * (np.diag(target) if mass == "dense" else target)
        np.testing.assert_allclose(adapt.welford_covariance(state), shrunk, rtol=1e-7, atol=1e-6)

    @pytest.mark.parametrize("mass", ["diagonal", "dense"])
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    def test_moments_of_any_size(self, mass, dtype):
        """Sums of squares would overflow in float32 from 1e17 on and underflow below 1e-19; those in units do not."""
        noise = np.random.default_rng(1).normal(size=(40, 50, 3)) + np.array([0.0, 3.0, -30.0])
        noise[0] *= 1e-6  # the first draws are of another size
        expected = np.cov(noise.reshape(-1, 3).T)
        expected = np.diag(expected) if mass == "diagonal" else expected
        for scale in (1e-18, 1.0, 1e18):
            state = adapt.welford_init(3, mass, dtype)
            for draws in noise:
                state = jax.jit(adapt.welford_update)(state, jnp.asarray(draws * scale, dtype))
            covariance = np.asarray(adapt.welford_covariance(state, regularise=False), np.float64)
            assert state.scatter.dtype == dtype
            np.testing.assert_allclose(covariance / scale / scale, expected, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("mass", ["diagonal", "dense"])
    def test_small_scales_are_not_made_large(self, mass):
        """A shrinkage in absolute units makes some of 1e-6 a thousand times as large."""
        noise = jax.random.normal(jax.random.key(0), (200, 3))
        scales = jnp.array([[1.0, 1e-4, 1e-8]])
        state = adapt.welford_update(adapt.welford_init(3, mass, jnp.float64), noise * scales)
        found = adapt.welford_covariance(state)
        variances = jnp.diagonal(found) if mass == "dense" else found
        np.testing.assert_allclose(variances / scales[0] ** 2, jnp.var(noise, axis=0), rtol=0.05)

    def test_one_draw_is_finite(self):
        state = adapt.welford_update(adapt.welford_init(2, "dense"), jnp.ones((1, 2)))
        assert jnp.isfinite(adapt.welford_covariance(state)).all()


def test_mass_is_the_inverse_covariance():
    covariance = jnp.array([[4.0, 1.2], [1.2, 1.0]])
    z = jnp.zeros(2)
    dense = adapt.metric_from_covariance(covariance)
    np.testing.assert_allclose(dense.tensor(z), np.linalg.inv(covariance))
    np.testing.assert_allclose(dense.factor(z).solve(z + 1), covariance @ (z + 1))
    np.testing.assert_allclose(dense.factor(z).sqrt_matvec(dense.factor(z).sqrt_solve(z + 1)), z + 1)
    diagonal = adapt.metric_from_covariance(jnp.diagonal(covariance))
    np.testing.assert_allclose(diagonal.tensor(z), np.diag([0.25, 1.0]))


class TestSchedule:
    def test_stans_thousand(self):
        schedule = adapt.window_schedule(1000)
        assert (np.flatnonzero(schedule.ends_window) + 1).tolist() == [100, 150, 250, 450, 950]
        assert np.flatnonzero(schedule.restarts).tolist() == [0, 100, 150, 250, 450, 950]
        assert np.flatnonzero(schedule.collects).tolist() == list(range(75, 950))

    @pytest.mark.parametrize(
        ("num_warmup", "ends"),
        [(700, [100, 150, 250, 650]), (899, [100, 150, 250, 849]), (900, [100, 150, 250, 450, 850])],
    )
    def test_window_is_stretched_when_the_next_would_not_fit(self, num_warmup, ends):
        assert (np.flatnonzero(adapt.window_schedule(num_warmup).ends_window) + 1).tolist() == ends

    def test_step_size_alone(self):
        collects, ends, restarts = adapt.step_size_schedule(50)
        assert not collects.any()
        assert not ends.any()
        assert np.flatnonzero(restarts).tolist() == [0]

    def test_the_last_stage_is_never_too_short_for_a_step_size(self):
        for num_warmup in range(20, 150):
            ends = np.flatnonzero(adapt.window_schedule(num_warmup).ends_window)
            assert num_warmup - 1 - ends[-1] >= 10

    def test_short(self):
        schedule = adapt.window_schedule(100)
        assert (np.flatnonzero(schedule.ends_window) + 1).tolist() == [90]
        assert np.flatnonzero(schedule.collects).tolist() == list(range(15, 90))

    @pytest.mark.parametrize("num_warmup", [0, 1, 19])
    def test_too_short_for_a_mass(self, num_warmup):
        schedule = adapt.window_schedule(num_warmup)
        assert not schedule.collects.any()
        assert not schedule.ends_window.any()
        assert schedule.restarts.sum() == min(num_warmup, 1)

    def test_every_length(self):
        for num_warmup in range(20, 2200, 7):
            collects, ends, restarts = adapt.window_schedule(num_warmup)
            assert len(collects) == len(ends) == len(restarts) == num_warmup
            assert ends.any()
            assert np.flatnonzero(ends)[-1] == np.flatnonzero(collects)[-1] < num_warmup - 1
            assert (np.flatnonzero(ends) + 1).tolist() == np.flatnonzero(restarts)[1:].tolist()


class Riemannian(metrics.Identity):
    is_position_dependent = True


class TestErrors:
    def test_mass(self):
        with pytest.raises(ValueError, match="diagonal"):
            adapt.adaptation_init(0.1, metrics.identity(), jnp.ones(2), "full")
        with pytest.raises(ValueError, match="depends on the position"):
            adapt.adaptation_init(0.1, Riemannian(), jnp.ones(2), "dense")
        assert adapt.adaptation_init(0.1, Riemannian(), jnp.ones(2), None).moments is None

    @pytest.mark.parametrize(
        ("call", "name"),
        [
            (lambda: adapt.dual_averaging_init(0.0), "step_size"),
            (lambda: adapt.dual_averaging_init([0.1, 0.2]), "step_size"),
            (lambda: adapt.dual_averaging_init(1j), "step_size"),
            (lambda: adapt.dual_averaging_update(adapt.dual_averaging_init(0.1), 0.5, 1.5), "target"),
            (lambda: adapt.dual_averaging_update(adapt.dual_averaging_init(0.1), 0.5, gamma=0), "gamma"),
            (lambda: adapt.dual_averaging_update(adapt.dual_averaging_init(0.1), 0.5, kappa=True), "kappa"),
            (lambda: adapt.reasonable_step_size(jnp.exp, None), "step_size"),
            (lambda: adapt.reasonable_step_size(jnp.exp, 0.1, threshold=2), "threshold"),
            (lambda: adapt.reasonable_step_size(jnp.exp, 0.1, max_changes=-1), "max_changes"),
            (lambda: adapt.welford_init(0), "dimension"),
            (lambda: adapt.welford_init(True), "dimension"),
            (lambda: adapt.welford_init(2, None), "moments"),
            (lambda: adapt.step_size_schedule(2.5), "num_warmup"),
            (lambda: adapt.window_schedule(-1), "num_warmup"),
            (lambda: adapt.window_schedule(100, window=0), "window"),
        ],
    )
    def test_numbers(self, call, name):
        with pytest.raises(ValueError, match=name):
            call()

    def test_numpys_numbers_are_numbers(self):
        assert len(adapt.window_schedule(np.int64(30)).collects) == 30
        assert adapt.welford_init(np.int32(3)).mean.shape == (3,)
        assert jnp.isfinite(adapt.dual_averaging_init(np.float32(0.1)).log_center)

    def test_degenerate_draws_keep_the_metric(self):
        """A covariance without a factor in float32 must not poison the chains."""
        learned = adapt.adaptation_init(0.1, metrics.identity(), jnp.ones(2), "dense")
        broken = jnp.full((4, 2), jnp.inf)
        after = adapt.adaptation_update(learned, 0.5, broken, True, True)
        np.testing.assert_array_equal(after.metric.tensor(jnp.ones(2)), np.eye(2))
        assert after.moments.count == 0
