"""The no-U-turn sampler: the law it leaves invariant, what it reports, and where it fits in."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import hmcvae
from hmcvae import integrators, metrics
from hmcvae.samplers.nuts import nuts
from hmcvae.solvers import exact_info
from tests.support.gaussians import COVARIANCE, MEAN, METRICS, gaussian, normal
from tests.support.kernels import BENT
from tests.support.problems import BANANA
from tests.support.statistics import NUM_CHAINS, assert_moments, log_gamma, run, z_score

NUM_DRAWS = 1500
rnuts = partial(nuts, integrator=integrators.generalized_leapfrog)


def funnel(z):
    return -0.5 * z[0] ** 2 * jnp.exp(-z[1]) - 0.5 * z[1] - z[1] ** 2 / 18


class TestInvariance:
    @pytest.mark.parametrize("name", ["identity", "dense"])
    def test_correlated_gaussian(self, name):
        metric, step_size = METRICS[name]
        draws, info = run(nuts(gaussian, step_size, metric), jnp.tile(MEAN, (NUM_CHAINS, 1)), NUM_DRAWS)
        assert 0.5 < float(info.acceptance_rate.mean()) < 0.95
        assert_moments(draws, MEAN, COVARIANCE)

    def test_skewed_target(self):
        draws, _ = run(nuts(log_gamma, 1.3), jnp.zeros((NUM_CHAINS, 1)), NUM_DRAWS)
        assert_moments(draws, [special.digamma(2.0)], [[special.polygamma(1, 2.0)]])
        tail = stats.loggamma(2.0).ppf(0.05)
        assert abs(z_score(draws[..., 0] < tail, 0.05)) < 4

    @pytest.mark.slow
    def test_banana_on_its_manifold(self):
        """Steps so long that some fail to be solved or retraced: those trees end, and nothing else changes."""
        algorithm = rnuts(BANANA.logdensity_fn, 0.9, metrics.fisher(bend_of_banana, jnp.ones_like, 0.2))
        draws, info = run(algorithm, jnp.tile(BANANA.typical, (NUM_CHAINS, 1)), 4000)
        failed = ~info.solver.converged | ~info.is_reversible
        assert 0.005 < float(failed.mean()) < 0.5
        assert bool((failed & info.is_accepted).any()), "the last whole tree is drawn from"
        assert_moments(draws, BANANA.mean, BANANA.covariance)

    def test_geweke_joint_distribution(self):
        """Geweke (2004): θ ~ N(0, ¼), y | θ ~ Poisson(exp θ), drawn from each other in turn; flat and Riemannian, with
        the Fisher metric of θ, G = 4 + exp θ. (With a wider prior y has too long a tail for these standard errors.)"""

        def make(y, kind):
            def density(t):
                return jnp.sum(-2 * t**2 + y * t - jnp.exp(t))

            if kind == "flat":
                return nuts(density, 0.7, max_depth=3)
            metric = metrics.fisher(lambda t: t, jnp.exp, 4.0)
            return rnuts(density, 0.9, metric, max_depth=2)

        def sweep(kind, carry, rng_key):
            theta, _ = carry
            key_data, key_chain = jax.random.split(rng_key)
            y = jax.random.poisson(key_data, jnp.exp(theta)).astype(theta.dtype)
            algorithm = make(y, kind)
            state, info = algorithm.step(key_chain, algorithm.init(theta))
            return (state.position, y), (state.position, y, info.acceptance_rate)

        def chain(kind, rng_key):
            start = (0.5 * jax.random.normal(rng_key, (1,)), jnp.zeros(1))
            return jax.lax.scan(partial(sweep, kind), start, jax.random.split(rng_key, 2500))[1]

        for kind in ("flat", "riemannian"):
            keys = jax.random.split(jax.random.key(5), NUM_CHAINS)
            theta, y, rate = (x.squeeze() for x in jax.jit(jax.vmap(partial(chain, kind)))(keys))
            assert 0.5 < float(rate.mean()) < 0.99
            moments = [(theta, 0.0), (theta**2, 0.25), (theta**3, 0.0), (y, np.exp(0.125))]
            moments.append((theta * y, 0.25 * np.exp(0.125)))
            scores = [z_score(draws, expected) for draws, expected in moments]
            assert np.max(np.abs(scores)) < 4, (kind, scores)


def bend_of_banana(z):
    return jnp.stack([z[0] / 1.5, z[1] - 0.5 * (z[0] ** 2 - 2.25)])


class TestAgainstOthers:
    """The same posterior, by effective draws of both."""

    def test_blackjax(self):
        blackjax = pytest.importorskip("blackjax")
        starts = jnp.zeros((NUM_CHAINS, 1))
        ours, info = run(nuts(log_gamma, 0.5), starts, NUM_DRAWS)
        theirs, peer = run(blackjax.nuts(log_gamma, 0.5, jnp.ones(1)), starts, NUM_DRAWS)
        for f in (lambda z: z, lambda z: z**2, lambda z: z < -1.0):
            a, b = (np.asarray(f(np.asarray(draws[..., 0])), np.float64) for draws in (ours, theirs))
            middle = 0.5 * (a.mean() + b.mean())
            assert abs(z_score(a, middle) - z_score(b, middle)) < 4 * np.sqrt(2)
        # The acceptance statistic is a mean over the tree in both.
        np.testing.assert_allclose(info.acceptance_rate.mean(), peer.acceptance_rate.mean(), atol=0.02)

    def test_numpyro(self):
        pytest.importorskip("numpyro", reason="NumPyro is not installed")
        from numpyro.infer import MCMC, NUTS

        sampler = NUTS(potential_fn=lambda z: -log_gamma(z), step_size=0.5, adapt_step_size=False)
        chains = MCMC(sampler, num_warmup=0, num_samples=4000, progress_bar=False)
        chains.run(jax.random.key(0), init_params=jnp.zeros(1))
        draws = np.asarray(chains.get_samples())[None, :, 0]
        assert abs(z_score(draws, special.digamma(2.0))) < 4


class TestReports:
    def test_depth_is_counted_and_said(self):
        algorithm = nuts(normal, 0.05, max_depth=2)
        starts = jnp.ones((4, 2))
        with pytest.warns(hmcvae.SamplingWarning, match="1.. of 120 trees were cut off .* max_depth larger"):
            samples = hmcvae.sample(jax.random.key(0), algorithm, starts, num_samples=30)
        cut_off = int(samples.counts.num_max_depth)
        assert cut_off > 100
        info = samples.info
        assert int(info.reached_max_depth.sum()) == cut_off
        assert (info.is_turning != info.reached_max_depth).all()
        assert (info.num_integration_steps[info.reached_max_depth] == 3).all()
        assert (info.tree_depth[info.reached_max_depth] == 2).all()
        arviz_stats = hmcvae.to_arviz(samples).sample_stats
        names = {
            "tree_depth",
            "reached_max_treedepth",
            "diverging",
            "energy",
            "lp",
            "acceptance_rate",
            "n_steps",
        }
        assert names | {"step_size", "max_energy_error"} <= set(arviz_stats.data_vars)
        assert int(arviz_stats["reached_max_treedepth"].sum()) == cut_off
        assert float(arviz_stats["step_size"].max()) == 0.05
        assert hmcvae.diagnose(samples).num_max_depth == cut_off

    def test_divergences_end_the_tree_and_are_counted(self):
        """A wall: beyond it the density is nothing."""

        def walled(z):
            return jnp.where(z[0] < 1.0, normal(z), -jnp.inf)

        draws, info = run(nuts(walled, 0.3), jnp.zeros((NUM_CHAINS, 1)), NUM_DRAWS)
        diverged = np.asarray(info.is_divergent)
        assert 0.05 < diverged.mean() < 0.95
        assert not (diverged & np.asarray(info.is_turning)).any()
        assert np.isfinite(info.energy).all()
        assert np.isinf(np.asarray(info.max_energy_error)[diverged]).all()
        truncated = stats.truncnorm(-np.inf, 1.0)
        assert_moments(draws, [truncated.mean()], [[truncated.var()]])

    @pytest.mark.slow
    def test_failed_solves_end_the_tree_and_are_counted(self):
        metric = metrics.softabs(funnel, 1.0)
        algorithm = rnuts(funnel, 1.5, metric, max_depth=3)
        starts = jnp.array([[0.1, -1.0], [0.5, 0.3], [1.0, 1.0], [0.0, -3.0]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            samples = hmcvae.sample(jax.random.key(0), algorithm, starts, num_samples=40)
        info, counts = samples.info, samples.counts
        failed = ~np.asarray(info.solver.converged)
        assert int(counts.num_unconverged) == failed.sum() > 10
        assert not (failed & (np.asarray(info.is_divergent | info.is_turning | info.reached_max_depth))).any()
        assert not (failed & ~np.asarray(info.is_reversible)).any()
        assert int(counts.num_irreversible) == int((~info.is_reversible).sum())
        assert (failed & np.asarray(info.is_accepted)).any()
        # The step that failed is one of those that were made, and counts 0.
        ends_at_once = failed & (np.asarray(info.num_integration_steps) == 1)
        assert ends_at_once.any()
        assert (np.asarray(info.acceptance_rate)[ends_at_once] == 0).all()
        assert not np.asarray(info.is_accepted)[ends_at_once].any()

    def test_steps_that_cannot_be_retraced_end_the_tree(self):
        """Symplectic Euler kicks first, there and back, and so does not come back."""

        def euler(logdensity_fn, metric):
            def step(state, step_size):
                momentum = state.momentum + step_size * state.logdensity_grad
                position = state.position + step_size * momentum
                return integrators.init(logdensity_fn, metric, position, momentum), exact_info(position.dtype)

            return step

        algorithm = nuts(gaussian, 0.5, integrator=euler, check_reversibility=True)
        draws, info = run(algorithm, jnp.tile(MEAN + 1.0, (4, 1)), 20)
        assert not info.is_reversible.any()
        assert not (info.is_divergent | info.is_turning | info.reached_max_depth | info.is_accepted).any()
        assert (info.num_integration_steps == 1).all()
        assert (info.reversibility_error > 1e-3).all()
        assert float(jnp.ptp(draws, axis=1).max()) == 0


class TestWhereItFits:
    def test_warm_up(self):
        algorithm = nuts(gaussian, 1.0)
        starts = MEAN[None] + jax.random.normal(jax.random.key(0), (4, 2))
        samples = hmcvae.sample(jax.random.key(1), algorithm, starts, num_samples=1000, num_warmup=300)
        assert bool(samples.adaptation.is_adapted)
        assert 0.7 < float(samples.counts.acceptance_rate) < 0.92
        assert_moments(samples.position, MEAN, COVARIANCE)
        mass = np.asarray(samples.adaptation.metric.mass)
        np.testing.assert_allclose(mass, 1 / np.diag(COVARIANCE), rtol=0.5)

    def test_chains_side_by_side_are_those_alone(self):
        """Also with what chains do not share: densities and step sizes of their own, two axes of chains."""

        def transition(key, scale, step_size):
            algorithm = nuts(lambda z: gaussian(z * scale), step_size, max_depth=6)
            return algorithm.step(key, algorithm.init(jnp.asarray(MEAN)))

        keys = jax.random.split(jax.random.key(2), 6)
        scales, step_sizes = jnp.linspace(0.5, 2.0, 6), jnp.linspace(0.1, 0.9, 6)
        arguments = keys, scales, step_sizes
        alone = [jax.jit(transition)(*(a[i] for a in arguments)) for i in range(6)]
        alone = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
        together = jax.jit(jax.vmap(transition))(*arguments)
        squares = jax.jit(jax.vmap(jax.vmap(transition)))(*(a.reshape(2, 3) for a in arguments))
        squares = jax.tree.map(lambda leaf: leaf.reshape(6, *leaf.shape[2:]), squares)
        assert len(set(np.asarray(alone[1].tree_depth))) > 1
        for other in (together, squares):
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9), other, alone)

    def test_same_key_same_draw_and_other_key_another(self):
        algorithm = nuts(gaussian, 0.5)
        step, state = jax.jit(algorithm.step), algorithm.init(jnp.asarray(MEAN))
        one, two, other = (step(jax.random.key(seed), state)[0].position for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, two)
        assert (one != other).all()

    def test_pytree_position_in_single_precision(self):
        def density(position):
            return log_gamma(position["skewed"]) + normal(position["normal"][0])

        start = {"skewed": jnp.float32(0.5), "normal": (jnp.ones(2, jnp.float32),)}
        algorithm = nuts(density, 0.7, max_depth=4)
        state = algorithm.init(start)
        new, info = jax.jit(algorithm.step)(jax.random.key(0), state)
        assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
        floats = [leaf for leaf in jax.tree.leaves((new, info)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert {str(leaf.dtype) for leaf in floats} == {"float32"}

    def test_a_constant_metric_is_the_dense_one(self):
        """Written as a function of the position, and integrated implicitly: the same trees."""
        matrix = jnp.array([[2.0, 0.5], [0.5, 1.0]])
        flat = nuts(gaussian, 0.4, metrics.dense(matrix))
        bent = rnuts(gaussian, 0.4, metrics.from_tensor(lambda z: matrix + 0 * z[0]))
        found = [run(algorithm, jnp.tile(MEAN, (3, 1)), 20) for algorithm in (flat, bent)]
        for draws, info in found[1:]:
            np.testing.assert_allclose(draws, found[0][0], rtol=1e-6)
            np.testing.assert_array_equal(info.tree_depth, found[0][1].tree_depth)
            np.testing.assert_allclose(info.energy, found[0][1].energy - 0.0, rtol=1e-6)
        assert int(found[1][1].solver.num_iterations.max()) > 0

    def test_what_is_known_of_a_position_is_carried(self):
        """The state after a transition is the one that `init` makes there."""
        algorithm = rnuts(BANANA.logdensity_fn, 0.3, BENT, max_depth=3)
        state, info = jax.jit(algorithm.step)(jax.random.key(1), algorithm.init(jnp.asarray(BANANA.typical)))
        assert bool(info.is_accepted)
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-9), state, algorithm.init(state.position)
        )


def test_a_small_divergence_threshold_is_warned_of():
    """It is measured from the start, so that which points end a tree depends on where it began."""
    with pytest.warns(
        hmcvae.SamplingWarning, match="divergence_threshold of 2, below 10, does not leave the target"
    ):
        nuts(normal, 0.1, divergence_threshold=2)
    nuts(normal, 0.1, divergence_threshold=10)
    jax.jit(lambda threshold: nuts(normal, 0.1, divergence_threshold=threshold).init(jnp.ones(2)))(2.0)


def test_bad_inputs():
    with pytest.raises(ValueError, match="max_depth must be a whole number of at least 1 .*, got 0"):
        nuts(normal, 0.1, max_depth=0)
    with pytest.raises(ValueError, match="max_depth must be .* at most 30, got 31"):
        nuts(normal, 0.1, max_depth=31)
    with pytest.raises(ValueError, match="step_size must be"):
        nuts(normal, -0.1)
    with pytest.raises(ValueError, match="leapfrog needs a Euclidean metric"):
        nuts(normal, 0.1, BENT)
    with pytest.raises(ValueError, match="step_size must be a number or have shape"):
        nuts(normal, jnp.ones(3)).init(jnp.ones(2))
    integers = jnp.ones(2, int)
    with pytest.raises(ValueError, match="floating-point"):
        nuts(normal, 0.1).init(integers)
