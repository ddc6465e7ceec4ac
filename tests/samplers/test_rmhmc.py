"""The Riemannian kernels: the law they leave invariant, and where they fit in.

Statistical tolerances are four standard errors, each from the effective sample size of the very draws.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

from hmcvae import integrators, metrics, sample, solvers
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.langevin import mmala
from hmcvae.samplers.lengths import uniform_steps
from hmcvae.samplers.riemannian import rmhmc
from tests.support.gaussians import normal
from tests.support.kernels import BENT, REGRESSION, midpoint
from tests.support.problems import BANANA, LOGISTIC
from tests.support.statistics import assert_moments, log_gamma, run, z_score

NUM_CHAINS, NUM_DRAWS = 8, 2000
# Of the skewed density a z - exp z: its Fisher information, and a floor.
SKEWED = metrics.from_tensor(lambda z: jnp.exp(z) + 0.5)


def banana_moments():
    """(mean, covariance) by quadrature: the closed forms of the target are checked on the way."""
    grid = np.linspace(-12, 12, 401), np.linspace(-14, 50, 1201)
    first, second = np.meshgrid(*grid, indexing="ij")
    bent = second - 0.5 * (first**2 - 2.25)
    density = np.exp(-0.5 * first**2 / 2.25 - 0.5 * bent**2)

    def mean(values):
        inner = integrate.simpson(values * density, x=grid[1], axis=1)
        return integrate.simpson(inner, x=grid[0])

    norm = mean(np.ones_like(density))
    means = np.array([mean(first), mean(second)]) / norm
    products = [[mean(a * b) / norm for b in (first, second)] for a in (first, second)]
    return means, np.array(products) - np.outer(means, means)


class TestInvariance:
    KERNELS = ("rmhmc", "unchecked", "mmala", "midpoint")

    @staticmethod
    def kernel(name, logdensity_fn, metric, step_size, langevin_step):
        if name == "mmala":
            return mmala(logdensity_fn, langevin_step, metric)
        make = midpoint if name == "midpoint" else rmhmc
        # At half the step nearly every solve converges, and the chain is right to these errors without the check.
        check, size = (False, 0.4 * step_size) if name == "unchecked" else (True, step_size)
        return make(logdensity_fn, size, uniform_steps(1, 3), metric, check_reversibility=check)

    @pytest.mark.parametrize("name", KERNELS)
    def test_banana(self, name):
        mean, covariance = banana_moments()
        np.testing.assert_allclose(mean, BANANA.mean, atol=1e-6)
        np.testing.assert_allclose(covariance, BANANA.covariance, atol=1e-5)
        algorithm = self.kernel(name, BANANA.logdensity_fn, BENT, 0.6, 0.8)
        start = jnp.tile(BANANA.typical, (NUM_CHAINS, 1))
        draws, info = run(algorithm, start, NUM_DRAWS)
        assert 0.4 < float(info.acceptance_rate.mean()) < 0.995
        assert_moments(draws[:, 50:], mean, covariance)

    @pytest.mark.parametrize("name", KERNELS)
    def test_skewed(self, name):
        algorithm = self.kernel(name, log_gamma, SKEWED, 1.0, 1.2)
        draws, info = run(algorithm, jnp.zeros((NUM_CHAINS, 1)), NUM_DRAWS)
        assert 0.5 < float(info.acceptance_rate.mean()) < 0.995
        assert_moments(draws[:, 50:], [special.digamma(2.0)], [[special.polygamma(1, 2.0)]])

    @pytest.mark.slow
    def test_curved_target_with_the_defaults(self):
        """-z₀²/2 - (z₁ - z₀²)² / 0.18 from exact draws, E z₀² = E z₁ = 1: right with what comes by default, and with
        plain iterations, a fifth of which fail; without the way back those are wrong by many standard errors."""

        def logdensity(z):
            return -0.5 * z[0] ** 2 - 0.5 * (z[1] - z[0] ** 2) ** 2 / 0.09

        def tensor(z):
            bend = -2 * z[0] / 0.09
            return jnp.stack(
                [jnp.stack([1 + 4 * z[0] ** 2 / 0.09, bend]), jnp.stack([bend, 1 / 0.09 + 0 * bend])]
            )

        noise = jax.random.normal(jax.random.key(1), (200, 2))
        start = jnp.stack([noise[:, 0], noise[:, 0] ** 2 + 0.3 * noise[:, 1]], axis=1)

        def score(**options):
            algorithm = rmhmc(logdensity, 0.1, uniform_steps(1, 10), metrics.from_tensor(tensor), **options)
            draws, info = run(algorithm, start, 600)
            of_chains = np.stack([draws[..., 0] ** 2, draws[..., 1]], axis=-1).mean(axis=1) - 1
            return of_chains.mean(0) / (of_chains.std(0) / np.sqrt(200)), 1 - float(
                info.solver.converged.mean()
            )

        scores, failed = score()
        assert np.abs(scores).max() < 3
        assert failed < 0.01
        plain = solvers.fixed_point()
        scores, failed = score(solver=plain)
        assert np.abs(scores).max() < 3
        assert 0.1 < failed < 0.4
        assert np.abs(score(solver=plain, check_reversibility=False)[0]).max() > 5

    def test_wrong_determinant_would_be_seen(self):
        """With half of log |G| in the energy the chain has another law, and the test above fails."""

        class Wrong(metrics.DiagonalFactor):
            @property
            def log_det(self):
                return 0.5 * jnp.sum(jnp.log(self.mass))

        jax.tree_util.register_dataclass(Wrong, ["mass"], [])

        class Broken(type(SKEWED)):
            def geometry(self, z):
                geometry, force = super().geometry(z)
                return geometry._replace(factor=Wrong(geometry.factor.mass)), force

        jax.tree_util.register_dataclass(Broken, [], ["tensor_fn"])
        broken = Broken(SKEWED.tensor_fn)
        algorithm = rmhmc(log_gamma, 1.0, uniform_steps(1, 3), broken, check_reversibility=True)
        draws, _ = run(algorithm, jnp.zeros((NUM_CHAINS, 1)), NUM_DRAWS)
        assert abs(z_score(draws[:, 50:, 0], special.digamma(2.0))) > 6

    def test_pytree_position(self):
        """Two blocks: a skewed number and a banana."""

        def logdensity(position):
            return log_gamma(position["skewed"]) + BANANA.logdensity_fn(position["bent"][0])

        def tensor(z):  # ravelled in the order of the keys: bent, skewed
            G = jnp.zeros((3, 3), z.dtype).at[2, 2].set(jnp.exp(z[2]) + 0.5)
            return G.at[:2, :2].set(BENT.tensor(z[:2]))

        start = {"skewed": jnp.zeros(NUM_CHAINS), "bent": (jnp.tile(BANANA.typical, (NUM_CHAINS, 1)),)}
        metric = metrics.from_tensor(tensor)
        algorithm = rmhmc(logdensity, 0.5, uniform_steps(1, 4), metric, check_reversibility=True)
        draws, _ = run(algorithm, start, NUM_DRAWS)
        assert draws["skewed"].shape == (NUM_CHAINS, NUM_DRAWS)
        assert_moments(draws["bent"][0][:, 50:], BANANA.mean, BANANA.covariance)
        assert_moments(draws["skewed"][:, 50:, None], [special.digamma(2.0)], [[special.polygamma(1, 2.0)]])

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [*KERNELS, "hmc"])
    def test_geweke_joint_distribution(self, name):
        """θ ~ N(0, 1), y | θ ~ Poisson(exp θ): data given θ and θ given data, in turn, leave the joint law."""

        def sweep(carry, rng_key):
            theta, _ = carry
            key_data, key_chain = jax.random.split(rng_key)
            y = jax.random.poisson(key_data, jnp.exp(theta[0])).astype(theta.dtype)

            def logdensity(t):
                return -0.5 * t[0] ** 2 + y * t[0] - jnp.exp(t[0])

            metric = metrics.from_tensor(lambda t: 1 + jnp.exp(t))
            if name == "hmc":
                algorithm = hmc(logdensity, 0.9, uniform_steps(1, 2))
            else:
                algorithm = self.kernel(name, logdensity, metric, 1.0, 1.2)
            state, info = algorithm.step(key_chain, algorithm.init(theta))
            return (state.position, y), (state.position[0], y, info.acceptance_rate)

        def chain(rng_key):
            start = (jax.random.normal(rng_key, (1,)), jnp.zeros(()))
            return jax.lax.scan(sweep, start, jax.random.split(rng_key, 4000))[1]

        theta, y, rate = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(5), NUM_CHAINS))
        assert 0.5 < float(rate.mean()) < 0.995
        moments = [(theta, 0.0), (theta**2, 1.0), (theta**3, 0.0), (y, np.exp(0.5)), (theta * y, np.exp(0.5))]
        scores = [z_score(draws, expected) for draws, expected in moments]
        assert np.max(np.abs(scores)) < 4, scores


class TestFit:
    @pytest.mark.parametrize("start_scale", [1e-3])
    def test_cold_start_on_logistic_regression(self, start_scale):
        """From near nothing and a step size that is far off, warm-up finds one and the chains find the mode."""
        algorithm = rmhmc(LOGISTIC.logdensity_fn, 1e-3, uniform_steps(1, 4), REGRESSION)
        positions = jnp.full((4, 3), start_scale)
        samples = sample(jax.random.key(0), algorithm, positions, num_samples=200, num_warmup=150)
        assert samples.position.shape == (4, 200, 3)
        assert 0.1 < float(samples.adaptation.step_size) < 5
        assert 0.6 < float(samples.counts.acceptance_rate) < 0.99
        assert int(samples.counts.num_unconverged) < 0.05 * 800
        assert np.asarray(samples.position).std(axis=1).min() > 0.05
        # Another kernel agrees: the same posterior mean by plain HMC.
        plain = hmc(LOGISTIC.logdensity_fn, LOGISTIC.step_size * 2, uniform_steps(3, 10))
        draws, _ = run(plain, jnp.tile(LOGISTIC.typical, (8, 1)), 1500)
        draws = np.asarray(draws)
        error = np.asarray(samples.position).std(axis=(0, 1)) / np.sqrt(800 / 8)
        assert (
            np.abs(np.asarray(samples.position).mean(axis=(0, 1)) - draws.mean(axis=(0, 1))) < 4 * error
        ).all()

    def test_blackjax_drives_it(self, rng_key):
        util = pytest.importorskip("blackjax.util")
        for algorithm in (
            rmhmc(BANANA.logdensity_fn, 0.5, uniform_steps(1, 3), BENT),
            mmala(BANANA.logdensity_fn, 0.8, BENT),
        ):
            final, (states, infos) = util.run_inference_algorithm(
                rng_key, algorithm, num_steps=50, initial_position=jnp.asarray(BANANA.typical)
            )
            assert states.position.shape == (50, 2)
            assert infos.acceptance_rate.shape == (50,)
            np.testing.assert_array_equal(final.position, states.position[-1])

    def test_it_is_hmc_with_another_integrator(self, rng_key):
        one = rmhmc(BANANA.logdensity_fn, 0.5, 3, BENT)
        other = hmc(BANANA.logdensity_fn, 0.5, 3, BENT, integrator=integrators.generalized_leapfrog)
        state = one.init(jnp.asarray(BANANA.typical))
        came, expected = (jax.jit(algorithm.step)(rng_key, state) for algorithm in (one, other))
        jax.tree.map(np.testing.assert_array_equal, came, expected)

    def test_euclidean_metric_is_plain_hmc(self, rng_key):
        metric = metrics.diagonal(jnp.array([1.0, 2.0]))
        one, other = (make(BANANA.logdensity_fn, 0.3, 4, metric) for make in (rmhmc, hmc))
        state = one.init(jnp.asarray(BANANA.typical))
        came, expected = (jax.jit(algorithm.step)(rng_key, state) for algorithm in (one, other))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), came, expected)

    def test_vmap_equals_loop(self):
        algorithm = rmhmc(BANANA.logdensity_fn, 0.5, uniform_steps(1, 4), BENT)
        positions = jnp.asarray(BANANA.typical)[None, :] + jax.random.normal(jax.random.key(1), (3, 2))
        keys = jax.random.split(jax.random.key(2), 3)

        def transition(key, z):
            return algorithm.step(key, algorithm.init(z))

        together, single = jax.jit(jax.vmap(transition))(keys, positions), jax.jit(transition)
        for i in range(3):
            chosen = jax.tree.map(lambda leaf: leaf[i], together)  # noqa: B023
            alone = single(keys[i], positions[i])
            np.testing.assert_allclose(chosen[0].position, alone[0].position, rtol=1e-9)
            assert chosen[1].num_integration_steps == alone[1].num_integration_steps

    def test_errors(self):
        with pytest.raises(ValueError, match="step_size"):
            rmhmc(normal, -0.1, 3, BENT)
        with pytest.raises(ValueError, match="step_size"):
            mmala(normal, 0.0, BENT)
        with pytest.raises(ValueError, match="num_integration_steps"):
            rmhmc(normal, 0.1, 0, BENT)
        with pytest.raises(ValueError, match="reversibility_tolerance"):
            rmhmc(normal, 0.1, 3, BENT, reversibility_tolerance=-1.0)
        for make in (partial(rmhmc, num_integration_steps=3), mmala):
            algorithm = make(normal, step_size=0.1, metric=REGRESSION)
            with pytest.raises(ValueError, match="d = 2"):
                algorithm.init(jnp.ones(2))
            with pytest.raises(ValueError, match="initial position must be finite"):
                algorithm.init(jnp.array([1.0, jnp.nan, 0.0]))
