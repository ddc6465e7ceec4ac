"""What the kernels refuse: step sizes, counts, metrics, integrators, solvers, starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import integrators, metrics, solvers
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.langevin import mmala
from hmcvae.samplers.lengths import uniform_steps
from tests.support.gaussians import normal


class TestErrors:
    @pytest.mark.parametrize("value", [True, None, 1j, "0.1", [0.1, [0.2]], [], np.bool_(True), [0.1, -0.2]])
    def test_what_is_no_step_size(self, value):
        with pytest.raises(ValueError, match="step_size must be"):
            hmc(normal, value, 3)

    def test_what_is_a_step_size(self):
        for value in (1, np.float32(0.1), np.int64(1), [0.1, 0.2], (0.1, 0.2), jnp.array([0.1, 0.2])):
            algorithm = hmc(normal, value, np.int64(3))
            assert algorithm.step(jax.random.key(0), algorithm.init(jnp.ones(2)))[1].acceptance_rate > 0.5

    @pytest.mark.parametrize("name", ["divergence_threshold", "reversibility_tolerance"])
    def test_one_number_each(self, name):
        for value in (True, 1j, [1.0], jnp.ones(2), np.nan):
            with pytest.raises(ValueError, match=name):
                hmc(normal, 0.1, 3, **{name: value})

    @pytest.mark.parametrize(
        ("metric", "advice"),
        [
            (np.eye(2), "metrics.dense"),
            (jnp.ones(2), "metrics.diagonal"),
            (lambda z: jnp.eye(2), "metrics.from_tensor"),
            (metrics.identity, "the function identity"),
            (None, "got None"),
        ],
    )
    def test_what_is_no_metric(self, metric, advice):
        state = integrators.init(normal, metrics.identity(), jnp.ones(2), jnp.ones(2))
        for make in (
            lambda: hmc(normal, 0.1, 3, metric),
            lambda: mmala(normal, 0.1, metric),
            lambda: integrators.init(normal, metric, state.position, state.momentum),
            lambda: integrators.leapfrog(normal, metric),
            lambda: integrators.generalized_leapfrog(normal, metric),
            lambda: integrators.implicit_midpoint(normal, metric),
        ):
            with pytest.raises(ValueError, match=f"metric must be one of hmcvae.metrics.*{advice}"):
                make()

    def test_a_metric_written_for_the_pytree(self):
        metric = metrics.from_tensor(lambda p: jnp.diag(1 + p["a"] ** 2))
        algorithm = hmc(lambda p: normal(p["a"]), 0.1, 3, metric, integrator=integrators.generalized_leapfrog)
        with pytest.raises(ValueError, match="a metric takes the ravelled position"):
            algorithm.init({"a": jnp.ones(2)})

    def test_a_step_in_place_of_an_integrator(self):
        step = integrators.leapfrog(normal, metrics.identity())
        for wrong, came in ((step, "a step"), (None, "None")):
            with pytest.raises(ValueError, match=f"integrator must build a step.*got {came}"):
                hmc(normal, 0.1, 3, integrator=wrong)

    def test_a_solver_that_was_not_made(self):
        metric = metrics.from_tensor(lambda z: 1 + z**2)
        for make in (integrators.generalized_leapfrog, integrators.implicit_midpoint):
            for wrong in (solvers.newton, solvers.fixed_point, None):
                with pytest.raises(ValueError, match="solver must be one that is made"):
                    make(normal, metric, wrong)

    @pytest.mark.parametrize("step_size", [0.0, -0.1, np.nan, np.inf, "a", jnp.array([0.1, -0.1])])
    def test_step_size(self, step_size):
        with pytest.raises(ValueError, match="step_size"):
            hmc(normal, step_size, 3)

    @pytest.mark.parametrize("count", [0, -1, 2.5, None, True])
    def test_num_integration_steps(self, count):
        with pytest.raises(ValueError, match="num_integration_steps"):
            hmc(normal, 0.1, count)

    @pytest.mark.parametrize(("low", "high"), [(0, 3), (-1, 3), (4, 3), (1.5, 3)])
    def test_uniform_steps(self, low, high):
        with pytest.raises(ValueError, match=r"low|high"):
            uniform_steps(low, high)

    @pytest.mark.parametrize("name", ["divergence_threshold", "reversibility_tolerance"])
    def test_tolerances(self, name):
        with pytest.raises(ValueError, match=name):
            hmc(normal, 0.1, 3, **{name: -1.0})

    @pytest.mark.parametrize(
        "position", [jnp.arange(3), {"a": jnp.ones(2), "b": jnp.array(True)}, 1j, {}, jnp.ones(0)]
    )
    def test_position_type(self, position):
        with pytest.raises(ValueError, match="floating-point"):
            hmc(lambda p: jnp.zeros(()), 0.1, 3).init(position)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_position_not_finite(self, bad):
        with pytest.raises(ValueError, match="initial position must be finite"):
            hmc(normal, 0.1, 3).init(jnp.array([1.0, bad]))

    def test_a_constant_start_inside_jit(self):
        """The start is concrete and what is computed from it is not: the check must not stage itself."""
        for start in (jnp.ones(2), np.ones(2), {"a": jnp.ones(2), "b": jnp.zeros(())}):
            for make in (lambda f: hmc(f, 0.1, 3), lambda f: mmala(f, 0.1, metrics.identity())):
                algorithm = make(lambda p: sum(normal(leaf) for leaf in jax.tree.leaves(p)))
                state, _ = jax.jit(lambda key: algorithm.step(key, algorithm.init(start)))(jax.random.key(0))  # noqa: B023
                assert np.isfinite(state.logdensity)
        bad = jnp.array([1.0, jnp.nan])
        with pytest.raises(ValueError, match="initial position must be finite"):
            jax.jit(lambda: hmc(normal, 0.1, 3).init(bad))()

    def test_density_not_finite(self):
        with pytest.raises(ValueError, match="logdensity at the initial position"):
            hmc(lambda z: jnp.log(z[0]), 0.1, 3).init(jnp.array([-1.0]))
        with pytest.raises(ValueError, match="gradient"):
            hmc(lambda z: jnp.sqrt(z[0]), 0.1, 3).init(jnp.zeros(1))

    @pytest.mark.parametrize(
        "bad_fn", [lambda z: z, lambda z: z[:1], lambda z: (z[0], z[0]), lambda z: z[0] * 1j, lambda z: None]
    )
    def test_density_not_a_scalar(self, bad_fn):
        with pytest.raises(ValueError, match="real scalar"):
            hmc(bad_fn, 0.1, 3).init(jnp.ones(2))

    @pytest.mark.parametrize(
        "metric", [metrics.diagonal(jnp.ones(3)), metrics.dense(jnp.eye(3)), metrics.diagonal(jnp.ones(1))]
    )
    def test_metric_dimension(self, metric, rng_key):
        algorithm = hmc(normal, 0.1, 3, metric)
        with pytest.raises(ValueError, match="d = 2"):
            algorithm.init(jnp.ones(2))
        state = hmc(normal, 0.1, 3).init(jnp.ones(2))
        with pytest.raises(ValueError, match="d = 2"):
            jax.jit(algorithm.step)(rng_key, state)

    def test_step_size_dimension(self):
        with pytest.raises(ValueError, match="step_size"):
            hmc(normal, jnp.full(3, 0.1), 3).init(jnp.ones(2))

    def test_traced_arguments_pass(self):
        """What cannot be looked at is not refused: step sizes and starts may be traced."""

        def final(step_size, start):
            algorithm = hmc(normal, step_size, 3)
            return algorithm.step(jax.random.key(0), algorithm.init(start))[0].position

        assert jnp.isfinite(jax.jit(final)(0.1, jnp.ones(2))).all()
