"""HMC with hierarchical metrics: Neal's funnel by its exact tail, and the warm-up that finds its masses."""

import functools
import warnings

import arviz
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hmcvae import integrators, metrics
from hmcvae.samplers import adaptation as adapt
from hmcvae.samplers import hierarchical
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.langevin import mmala
from hmcvae.samplers.lengths import uniform_steps
from hmcvae.samplers.sampling import sample
from tests.support import targets
from tests.support.statistics import z_score

NECK = stats.norm.cdf(-5 / 3)  # P(v < -5), v ~ N(0, 3²)


def exact_draws(num_chains, dim, seed=0):
    """Of the funnel."""
    rng = np.random.default_rng(seed)
    v = 3 * rng.normal(size=(num_chains, 1))
    return jnp.asarray(np.concatenate([v, np.exp(v / 2) * rng.normal(size=(num_chains, dim - 1))], axis=1))


def kernel(dim, step_size, most_steps, metric=None):
    if metric is None:
        metric = metrics.hierarchical([0] + [1] * (dim - 1), lambda v: jnp.exp(-v[0]), max(1.0, dim / 2))
    return hmc(
        targets.funnel(dim).logdensity_fn,
        step_size,
        uniform_steps(1, most_steps),
        metric,
        integrator=integrators.hierarchical_leapfrog,
    )


class TestFunnel:
    @pytest.mark.filterwarnings("ignore:.* transitions diverged")
    @pytest.mark.parametrize(
        ("dim", "step_size", "most_steps", "num_chains", "num_draws"),
        [
            (2, 0.5, 8, 32, 1000),
            (10, 0.6, 16, 32, 1000),
            pytest.param(100, 0.5, 30, 64, 600, marks=pytest.mark.slow),
        ],
    )
    def test_the_neck_is_visited_as_often_as_it_should(
        self, dim, step_size, most_steps, num_chains, num_draws
    ):
        """P(v < -5), where plain HMC with any fixed step hardly comes; and E v², in four standard errors."""
        starts = exact_draws(num_chains, dim)
        samples = sample(jax.random.key(2), kernel(dim, step_size, most_steps), starts, num_samples=num_draws)
        v = np.asarray(samples)[..., 0]
        is_neck = (v < -5).astype(float)
        assert float(arviz.ess(is_neck, method="mean")) > 500
        assert abs(z_score(is_neck, NECK)) < 4
        assert abs(z_score(v**2, 9.0)) < 4
        assert 0.7 < float(samples.counts.acceptance_rate) < 0.99
        assert int(samples.counts.num_divergent) < 0.01 * is_neck.size

    def test_positions_that_are_pytrees(self):
        """In single precision, one transition: blocks by the leaves' names."""
        density = targets.funnel(4).logdensity_fn
        position = {"v": jnp.ones((), jnp.float32), "x": jnp.ones(3, jnp.float32)}
        metric = metrics.hierarchical(
            metrics.block_numbers(position, {"v": 0, "x": 1}), lambda v: jnp.exp(-v[0])
        )
        algorithm = hmc(
            lambda p: density(jnp.concatenate([p["v"][None], p["x"]])),
            0.3,
            uniform_steps(1, 4),
            metric,
            integrator=integrators.hierarchical_leapfrog,
        )
        flat = kernel(4, 0.3, 4, metric)
        state, info = jax.jit(algorithm.step)(jax.random.key(0), algorithm.init(position))
        other, _ = jax.jit(flat.step)(jax.random.key(0), flat.init(jnp.ones(4, jnp.float32)))
        assert {leaf.dtype for leaf in jax.tree.leaves((state, info.energy_error))} == {jnp.dtype("float32")}
        assert info.is_accepted
        np.testing.assert_allclose(np.append(state.position["v"], state.position["x"]), other.position)


LEAP = functools.partial(hmc, num_integration_steps=2, integrator=integrators.hierarchical_leapfrog)


@pytest.mark.parametrize("kernel", [LEAP, mmala], ids=["hmc", "mmala"])
def test_a_metric_that_is_put_in_is_the_one_that_counts(kernel):
    """From the starts on: what the kept geometry says of them is that of the new metric. mMALA's states keep none."""

    def make(metric):
        return kernel(targets.funnel(3).logdensity_fn, step_size=0.3, metric=metric)

    old = metrics.hierarchical([0, 1, 1], metrics.log_linear(np.zeros(2), np.zeros((2, 1))))
    new = metrics.hierarchical([0, 1, 1], metrics.log_linear(np.zeros(2), -np.ones((2, 1))))
    starts = exact_draws(6, 3)
    replaced = sample(jax.random.key(0), make(old)._replace(metric=new), starts, num_samples=8)
    fresh = sample(jax.random.key(0), make(new), starts, num_samples=8)
    chex.assert_trees_all_close(replaced.info, fresh.info, rtol=1e-12)  # of hmc the energy, too
    np.testing.assert_allclose(replaced.position, fresh.position, rtol=1e-12)
    assert fresh.info.is_accepted.any()


class TestMasses:
    """The regression of `samplers.hierarchical`."""

    METRIC = metrics.hierarchical([[3], [0, 4], [1, 2]])

    def draws(self, num_draws, dtype=np.float64, scale=1.0):
        """Positions, gradients with log variances a + B z, and these a and B, block by block."""
        rng = np.random.default_rng(1)
        z = rng.normal(size=(num_draws, 5)) * np.array([2.0, 1.0, 1.0, 3.0, 0.5]) * scale + 7 * scale
        second = np.array([[-1.0], [0.4]]) / scale, np.array([0.3, -2.0])
        third = np.array([[0.2, 0.0, 1.0], [-0.3, 0.5, 0.0]]) / scale, np.array([1.0, 0.0])
        logs = np.empty((num_draws, 5))
        logs[:, [3]] = np.log(4.0)
        logs[:, [0, 4]] = z[:, [3]] @ second[0].T + second[1]
        logs[:, [1, 2]] = z[:, [3, 0, 4]] @ third[0].T + third[1]
        g = np.exp(0.5 * logs) * rng.normal(size=(num_draws, 5))
        return jnp.asarray(z, dtype), jnp.asarray(g, dtype), second, third

    def fitted(self, z, g, batch=20):
        state = hierarchical.moments_init(self.METRIC, z.dtype)
        update = jax.jit(lambda state, z, g: hierarchical.moments_update(state, self.METRIC, z, g))
        for start in range(0, len(z), batch):
            state = update(state, z[start : start + batch], g[start : start + batch])
        return hierarchical.fit(state, self.METRIC)

    @pytest.mark.parametrize("scale", [1.0, 1e-15])
    def test_finds_what_the_gradients_were_drawn_from(self, scale):
        """Within four standard errors, π/√2 each of log g², at any scale of the positions; in single precision."""
        n = 4000
        z, g, second, third = self.draws(n, np.float32, scale)
        found = self.fitted(z, g)
        np.testing.assert_allclose(np.log(found.first_mass), np.log(4), atol=4 * np.sqrt(np.pi**2 / 2 / n))
        for function, (slopes, intercept), columns in zip(
            found.mass_fns, (second, third), ([3], [3, 0, 4]), strict=True
        ):
            x = np.concatenate([np.ones((n, 1)), np.asarray(z[:, columns], float)], axis=1)
            errors = np.sqrt(np.pi**2 / 2 * np.diag(np.linalg.inv(x.T @ x)))
            assert (np.abs(np.asarray(function.slopes) - slopes) < 4 * errors[None, 1:]).all()
            assert (np.abs(np.asarray(function.intercept) - intercept) < 4 * errors[0]).all()

    def test_is_the_regression_of_all_draws_at_once(self):
        z, g, _, _ = self.draws(60)
        found = self.fitted(z, g).mass_fns[1]
        x, y = np.asarray(z)[:, [3, 0, 4]], np.log(np.asarray(g)[:, [1, 2]] ** 2)
        x, means = x - x.mean(0), x.mean(0)
        system = x.T @ x + np.pi**2 / 2 * np.diag(x.var(0))
        slopes = np.linalg.solve(system, x.T @ (y - y.mean(0))).T
        np.testing.assert_allclose(found.slopes, slopes, rtol=1e-8)
        level = y.mean(0) + np.euler_gamma + np.log(2)
        np.testing.assert_allclose(found.intercept, level - slopes @ means, rtol=1e-8)

    def test_gradients_that_say_nothing(self):
        """A coordinate that stands still has no slope; gradients of 0 give no infinities."""
        z, g, _, _ = self.draws(40)
        found = self.fitted(z.at[:, 3].set(1.0), g.at[:, 1].set(0.0))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
        np.testing.assert_allclose(found.mass_fns[0].slopes, 0, atol=1e-14)


@pytest.fixture(scope="module")
def samples():
    """Started where nothing is known of the neck, with unit masses."""
    starts = jax.random.normal(jax.random.key(0), (16, 6))
    algorithm = kernel(6, 0.1, 10, metrics.hierarchical([0] + [1] * 5))
    settings = {"num_samples": 800, "num_warmup": 600, "target_acceptance": 0.9}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a few divergences
        return sample(jax.random.key(1), algorithm, starts, adapt_mass="hierarchical", **settings)


class TestWarmup:
    def test_finds_the_masses_of_the_funnel(self, samples):
        """m = exp(-v), from 300 draws of 16 chains in the last window, which are not independent."""
        masses = samples.adaptation.metric.mass_fns[0]
        np.testing.assert_allclose(masses.slopes, -1, atol=0.1)
        np.testing.assert_allclose(masses.intercept, 0, atol=0.25)
        assert 1 < float(samples.adaptation.metric.first_mass[0]) < 5

    def test_and_then_draws_from_it(self, samples):
        v = np.asarray(samples)[:, 50:, 0]
        assert abs(z_score((v < -5).astype(float), NECK)) < 4
        assert bool(samples.adaptation.is_adapted)
        assert float(samples.adaptation.step_size) > 0.3

    def test_states_keep_what_is_of_the_new_metric(self):
        """A window that ends changes the metric: the states' geometry follows, in positions' own precision."""
        metric = metrics.hierarchical([0, 1, 1])
        algorithm = kernel(3, 0.2, 2, metric)
        states = jax.vmap(algorithm.init)(exact_draws(6, 3).astype(jnp.float32))
        learned = adapt.adaptation_init(0.2, metric, states.position[0], "hierarchical")
        flags = adapt.Schedule(*map(np.asarray, (True, True, False)))
        keys = jax.random.split(jax.random.key(0), 6)
        step = jax.jit(lambda *arguments: adapt.warmup_transition(algorithm.kernel, *arguments))
        (states, learned), _ = step(keys, states, learned, flags)
        assert np.abs(learned.metric.mass_fns[0].slopes).min() > 1e-4
        fresh = jax.vmap(learned.metric.carry)(states.position)
        for came, expected in zip(jax.tree.leaves(states.geometry), jax.tree.leaves(fresh), strict=True):
            np.testing.assert_allclose(came, expected, rtol=1e-5, atol=1e-6)
            assert came.dtype == jnp.float32

    def test_other_metrics_are_refused(self):
        for metric in (metrics.identity(), metrics.hierarchical([0, 1, 1], lambda v: jnp.exp(-v[0]))):
            with pytest.raises(ValueError, match="tuned where all mass functions are log-linear"):
                adapt.check_mass("hierarchical", metric)
        with pytest.raises(ValueError, match="has no mass to adapt, got 'diagonal' for Hierarchical"):
            adapt.check_mass("diagonal", metrics.hierarchical([0, 1]))
