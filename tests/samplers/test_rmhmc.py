"""The Riemannian kernels: the law they leave invariant, what they do with solves that fail, and where they fit in.

Statistical tolerances are four standard errors, each from the effective sample size of the very draws.
"""

from functools import cache, partial

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
from tests.support import targets
from tests.support.statistics import assert_moments, log_gamma, run, z_score

NUM_CHAINS, NUM_DRAWS = 8, 2000
BANANA = targets.banana()
LOGISTIC = targets.logistic(30, 3)
COVARIATES, _ = targets.logistic_data(30, 3, 0)


def bend(z):
    """The banana's log density is -½ |f|² of these two, so JᵀJ is its Gauss-Newton metric."""
    return jnp.stack([z[0] / 1.5, z[1] - 0.5 * (z[0] ** 2 - 2.25)])


def bernoulli_weight(f):
    return jax.nn.sigmoid(f) * jax.nn.sigmoid(-f)


BENT = metrics.fisher(bend, jnp.ones_like, 0.2)
# Of the skewed density a z - exp z: its Fisher information, and a floor.
SKEWED = metrics.from_tensor(lambda z: jnp.exp(z) + 0.5)
REGRESSION = metrics.fisher(lambda z: jnp.asarray(COVARIATES, z.dtype) @ z, bernoulli_weight, 0.25)


def midpoint(logdensity_fn, step_size, num_integration_steps, metric, **kwargs):
    return hmc(
        logdensity_fn,
        step_size,
        num_integration_steps,
        metric,
        integrator=integrators.implicit_midpoint,
        **kwargs,
    )


def normal(z):
    return -0.5 * jnp.sum(z**2)


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


class TestReport:
    def test_what_is_checked_by_default(self, rng_key):
        """Implicit integrators, whatever the metric; no explicit one. A step of the user's own: by its metric."""

        def own(logdensity_fn, metric):
            step = integrators.generalized_leapfrog(logdensity_fn, metric)
            return lambda state, step_size: step(state, step_size)

        implicit, flat = integrators.implicit_midpoint, metrics.identity()
        cases = [
            (rmhmc(BANANA.logdensity_fn, 0.3, 2, BENT), True),
            (midpoint(BANANA.logdensity_fn, 0.3, 2, BENT), True),
            (hmc(BANANA.logdensity_fn, 0.3, 2, flat, integrator=implicit), True),
            (hmc(BANANA.logdensity_fn, 0.3, 2, BENT, integrator=own), True),
            (hmc(BANANA.logdensity_fn, 0.3, 2), False),
            (rmhmc(BANANA.logdensity_fn, 0.3, 2, flat), False),
            (rmhmc(BANANA.logdensity_fn, 0.3, 2, BENT, check_reversibility=False), False),
        ]
        for algorithm, is_checked in cases:
            _, info = jax.jit(algorithm.step)(rng_key, algorithm.init(jnp.asarray(BANANA.typical)))
            assert (float(info.reversibility_error) > 0) == is_checked
            assert info.is_reversible

    def test_failures_do_not_depend_on_the_number_of_chains(self):
        """The metric is not definite beyond |z| = 1, and its factor NaN: as many chains fail there in a batch of 16,000
        as among the first 500 of them, with the same keys."""
        algorithm = rmhmc(normal, 0.3, 2, metrics.from_tensor(lambda z: 1 - z**2))
        keys = jax.random.split(jax.random.key(0), 16_000)
        step = jax.jit(jax.vmap(lambda key, z: algorithm.step(key, algorithm.init(z))[1]))
        few, many = (step(keys[:n], jnp.full((n, 3), 0.3)).solver.converged for n in (500, 16_000))
        np.testing.assert_array_equal(few, many[:500])
        assert 0.1 < 1 - many.mean() < 0.9

    def test_creutz_equality(self):
        """E exp(-ΔH) = 1 in equilibrium (Creutz 1988): volume, reversal and energy at once, from exact draws."""
        z0 = 1.5 * jax.random.normal(jax.random.key(1), (20_000,))
        z1 = 0.5 * (z0**2 - 2.25) + jax.random.normal(jax.random.key(2), (20_000,))
        algorithm = rmhmc(BANANA.logdensity_fn, 0.2, 4, BENT)
        keys = jax.random.split(jax.random.key(3), 20_000)
        _, info = jax.jit(jax.vmap(lambda key, z: algorithm.step(key, algorithm.init(z))))(
            keys, jnp.stack([z0, z1], axis=1)
        )
        ratio = np.where(info.solver.converged, np.exp(-np.asarray(info.energy_error)), 0.0)
        failed = 1 - float(info.solver.converged.mean())
        assert failed < 0.01
        assert np.std(ratio) > 0.01
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(ratio)) + failed

    def test_state_carries_what_is_fresh(self, rng_key):
        algorithm = rmhmc(BANANA.logdensity_fn, 0.5, 3, BENT)
        init, step = jax.jit(algorithm.init), jax.jit(algorithm.step)
        state = algorithm.init(jnp.asarray(BANANA.typical))
        for key in jax.random.split(rng_key, 3):
            state, info = step(key, state)
            assert info.num_integration_steps == 3
            for came, fresh in zip(
                jax.tree.leaves(state), jax.tree.leaves(init(state.position)), strict=True
            ):
                np.testing.assert_allclose(came, fresh, rtol=1e-10, atol=1e-12)
        assert info.solver.num_iterations > 6
        assert info.energy > -state.logdensity - 5

    @pytest.mark.parametrize("check", [False, True])
    def test_failed_solves_are_rejected_and_counted(self, check):
        """Two iterations are not enough: every transition fails by its solver, and by nothing else."""
        solver = solvers.fixed_point(max_iterations=2)
        algorithm = rmhmc(BANANA.logdensity_fn, 0.8, 2, BENT, solver=solver, check_reversibility=check)
        start = jnp.tile(BANANA.typical, (4, 1))
        draws, info = run(algorithm, start, 20)
        assert not info.solver.converged.any()
        np.testing.assert_array_equal(draws, jnp.broadcast_to(start[:, None], draws.shape))
        assert (info.acceptance_rate == 0).all()
        assert not info.is_accepted.any()
        assert not info.is_divergent.any()
        assert info.is_reversible.all()
        assert (info.solver.num_iterations == 8).all()
        assert (info.solver.residual > 1e-11).all()

    def test_divergence_is_told_apart(self):
        """Solves that converge and an energy that has gone: a metric that is constant, and too long a step."""
        algorithm = rmhmc(normal, 30.0, 5, metrics.from_tensor(lambda z: jnp.eye(2)))
        draws, info = run(algorithm, jnp.ones((4, 2)), 20)
        assert info.solver.converged.all()
        assert info.is_divergent.all()
        assert not info.is_accepted.any()
        np.testing.assert_array_equal(draws, jnp.ones_like(draws))

    def test_irreversibility_is_told_apart(self):
        """A loose tolerance: the solver is content, the way back is not the way there."""
        loose = solvers.fixed_point(0.3, accelerate=False)
        algorithm = rmhmc(BANANA.logdensity_fn, 0.8, 2, BENT, solver=loose, check_reversibility=True)
        start = jnp.tile(BANANA.typical, (4, 1))
        _, info = run(algorithm, start, 50)
        failed = np.asarray(~info.is_reversible)
        assert failed.mean() > 0.2
        assert info.solver.converged[failed].all()
        assert not info.is_divergent[failed].any()
        assert (info.acceptance_rate[failed] == 0).all()
        assert not (info.reversibility_error[failed] <= 1e-8).any()  # NaN where the way back ran off

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_a_proper_trajectory_is_reversible(self, rng_key, dtype):
        algorithm = rmhmc(BANANA.logdensity_fn, 0.4, 5, BENT, check_reversibility=True)
        state = algorithm.init(jnp.asarray(BANANA.typical, dtype))
        after, info = jax.jit(algorithm.step)(rng_key, state)
        # The square root of eps is 3e-4 in float32 and 1e-8 in float64.
        assert info.is_reversible
        assert 0 < info.reversibility_error < 100 * float(jnp.finfo(dtype).eps) ** 0.75
        for leaf in jax.tree.leaves((state, after)):
            assert leaf.dtype == dtype
        assert info.energy.dtype == info.solver.residual.dtype == dtype

    @pytest.mark.parametrize("step_size", [1e3, 1e30])
    @pytest.mark.parametrize("make", [rmhmc, midpoint, mmala])
    def test_absurd_step_sizes(self, make, step_size):
        """Finite positions and acceptance 0; nothing is accepted by accident."""
        arguments = (step_size, REGRESSION) if make is mmala else (step_size, 3, REGRESSION)
        draws, info = run(make(LOGISTIC.logdensity_fn, *arguments), jnp.tile(LOGISTIC.typical, (4, 1)), 20)
        assert np.isfinite(draws).all()
        assert info.acceptance_rate.max() < 1e-6
        assert not info.is_accepted.any()

    def test_leaving_the_metric_is_no_way_out(self):
        """G is positive definite for |z| < 1 alone: the chain stays there."""
        metric = metrics.from_tensor(lambda z: 1 - z**2)
        draws, info = run(rmhmc(normal, 0.6, 3, metric), jnp.full((4, 1), 0.5), 200)
        assert np.abs(draws).max() < 1
        assert 0 < info.is_accepted.mean() < 1
        assert not info.solver.converged.all()
        # The mmala kernel as well.
        draws, info = run(mmala(normal, 0.8, metric), jnp.full((4, 1), 0.5), 200)
        assert np.abs(draws).max() < 1
        assert bool(info.is_divergent.any())


@cache
def moved_transitions(dtype):
    """(keys, positions, shift, units) -> info of a transition of the banana at shift + units * z, with its metric moved
    along; one program for every shift and unit."""

    @jax.jit
    def run(keys, positions, shift, units):
        def home(z):
            return (z - shift) / units

        def tensor(z):
            return BENT.tensor(home(z)) / (units[:, None] * units[None, :])

        algorithm = rmhmc(lambda z: BANANA.logdensity_fn(home(z)), 0.35, 6, metrics.from_tensor(tensor))
        return jax.vmap(lambda key, z: algorithm.step(key, algorithm.init(shift + units * z))[1])(
            keys, positions
        )

    keys = jax.random.split(jax.random.key(7), 500)
    first = 1.5 * jax.random.normal(jax.random.key(8), (500,))
    second = 0.5 * (first**2 - 2.25) + jax.random.normal(jax.random.key(9), (500,))
    positions = jnp.stack([first, second], axis=1).astype(dtype)
    return lambda shift, units: run(keys, positions, jnp.asarray(shift, dtype), jnp.asarray(units, dtype))


class TestMovedDensity:
    """A density does not change when it is moved, nor when its coordinates are given other units."""

    HOME = (np.zeros(2), np.ones(2))
    SHIFT, UNITS = np.array([1024.0, -512.0]), 2.0 ** np.array([10, -10])

    @pytest.mark.parametrize(("shift", "units"), [(SHIFT, HOME[1]), (HOME[0], UNITS), (SHIFT * UNITS, UNITS)])
    def test_nearly_the_same_trajectories(self, shift, units):
        at_home, moved = moved_transitions("float64")(*self.HOME), moved_transitions("float64")(shift, units)
        agree = at_home.solver.converged == moved.solver.converged
        assert agree.mean() > 0.995
        np.testing.assert_array_equal(at_home.is_reversible[agree], moved.is_reversible[agree])
        both = np.asarray(agree & at_home.solver.converged & at_home.is_reversible)
        assert 0.5 < both.mean() < 1
        np.testing.assert_allclose(moved.energy_error[both], at_home.energy_error[both], rtol=1e-5, atol=1e-8)
        iterations = [info.solver.num_iterations[both].mean() for info in (at_home, moved)]
        np.testing.assert_allclose(*iterations, rtol=0.01)
        assert moved.reversibility_error[both].max() < 1e-8

    @pytest.mark.parametrize(("shift", "units"), [(SHIFT, HOME[1]), (HOME[0], UNITS), (SHIFT * UNITS, UNITS)])
    def test_in_single_precision(self, shift, units):
        """As many are accepted and as many solved; the way back misses by some roundings of the position."""
        at_home, moved = moved_transitions("float32")(*self.HOME), moved_transitions("float32")(shift, units)
        for name in ("is_accepted", "is_reversible"):
            shares = [float(getattr(info, name).mean()) for info in (at_home, moved)]
            assert abs(shares[0] - shares[1]) < 0.02, name
        shares = [float(info.solver.converged.mean()) for info in (at_home, moved)]
        assert abs(shares[0] - shares[1]) < 0.02
        ulp = float(jnp.finfo("float32").eps) * max(np.abs(shift / units).max(), 10)
        good = np.asarray(moved.solver.converged & moved.is_reversible)
        assert np.quantile(moved.reversibility_error[good], 0.99) < 50 * ulp


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
