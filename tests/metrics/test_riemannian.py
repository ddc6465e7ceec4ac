"""The metrics of a gradient and of a function of one's own, and what is refused where a chain starts."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import integrators, metrics
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.riemannian import rmhmc
from tests.support.metrics import (
    METRICS,
    SKEWED,
    VECTOR,
    D,
    Z,
    check_geometry,
    masses,
    matrix,
    shapes_in,
    whole_geometry,
)


class TestMonge:
    def test_closed_forms(self):
        z = jnp.asarray(Z)
        g = np.asarray(jax.grad(SKEWED)(z))
        np.testing.assert_allclose(METRICS["monge"].tensor(z), np.eye(D) + 0.64 * np.outer(g, g), rtol=1e-13)

    def test_at_a_mode_it_is_the_identity(self):
        metric = metrics.monge(lambda z: -0.5 * jnp.sum(z**2))
        factor = metric.factor(jnp.zeros(2))
        assert factor.log_det == 0
        np.testing.assert_array_equal(factor.solve(jnp.ones(2)), 1.0)
        geometry, force = metric.geometry(jnp.zeros(2))
        np.testing.assert_array_equal(geometry.log_det_grad, 0.0)
        np.testing.assert_array_equal(force(jnp.ones(2)), 0.0)

    def test_builds_no_matrix(self):
        dim = 17
        metric = metrics.monge(lambda z: -jnp.sum(jnp.cosh(z)))
        assert (dim, dim) not in shapes_in(whole_geometry(metric), jnp.ones(dim))

    @pytest.mark.parametrize("alpha", [0.0, -1.0, np.nan, np.inf])
    def test_errors(self, alpha):
        with pytest.raises(ValueError, match="alpha"):
            metrics.monge(SKEWED, alpha)


class TestFromTensor:
    def test_diagonal_is_its_matrix(self):
        dense = metrics.from_tensor(lambda z: jnp.diag(masses(z)))
        z, u = jnp.asarray(Z), jnp.asarray(VECTOR)
        check_geometry(METRICS["from-tensor-diagonal"], dense, z, u)

    def test_diagonal_never_builds_a_matrix(self):
        dim = 17
        assert (dim, dim) not in shapes_in(whole_geometry(metrics.from_tensor(masses)), jnp.ones(dim))
        as_matrix = metrics.from_tensor(lambda z: jnp.diag(masses(z)))
        assert (dim, dim) in shapes_in(whole_geometry(as_matrix), jnp.ones(dim))  # the walk sees them

    @pytest.mark.parametrize("dense", [True, False])
    def test_not_positive_definite_is_nan(self, dense):
        metric = metrics.from_tensor((lambda z: jnp.diag(z)) if dense else (lambda z: z))
        factor = metric.factor(jnp.array([1.0, -1.0]))
        assert np.isnan(factor.log_det)
        assert np.isnan(metric.kinetic_energy(jnp.ones(2), jnp.array([1.0, -1.0])))
        assert np.isnan(metric.geometry(jnp.array([1.0, 0.0]))[0].factor.solve(jnp.ones(2))).any()

    def test_derivatives_in_a_parameter_of_the_tensor(self):
        """Closures carry gradients: d/dp of log|p G| is d / p."""

        def log_det(p):
            return metrics.from_tensor(lambda z: p * matrix(z)).factor(jnp.asarray(Z)).log_det

        np.testing.assert_allclose(jax.grad(log_det)(2.0), D / 2, rtol=1e-12)


class TestErrors:
    """`integrators.init`, `hmc(…).init` and `rmhmc(…).init` look at the metric where the chain starts."""

    BAD: ClassVar = {
        "positive definite": lambda z: jnp.diag(jnp.array([1.0, -0.1])),
        "symmetric": lambda z: jnp.array([[1.0, 0.5], [0.0, 1.0]]),
        "finite": lambda z: jnp.diag(z / 0),
    }

    @pytest.mark.parametrize("reason", BAD)
    def test_not_a_metric(self, reason):
        metric = metrics.from_tensor(self.BAD[reason])
        z = jnp.ones(2)
        for start in self.starts(metric):
            with pytest.raises(ValueError, match=reason):
                start(z)

    def starts(self, metric):
        def normal(z):
            return -0.5 * jnp.sum(z**2)

        yield lambda z: integrators.init(normal, metric, z, jnp.ones(2))
        yield rmhmc(normal, 0.1, 2, metric).init
        yield hmc(normal, 0.1, 2, metric, integrator=integrators.implicit_midpoint).init

    def test_wrong_shape(self):
        for tensor_fn in (lambda z: jnp.eye(3), lambda z: jnp.ones(3)):
            # In the tests jaxtyping's check of `tensor` comes first, with a TypeError.
            for start in self.starts(metrics.from_tensor(tensor_fn)):
                with pytest.raises((ValueError, TypeError), match=r"shape \(2, 2\)|d = 2|d=2"):
                    start(jnp.ones(2))

    def test_negative_diagonal(self):
        for start in self.starts(metrics.from_tensor(lambda z: -(z**2))):
            with pytest.raises(ValueError, match="positive definite"):
                start(jnp.ones(2))

    def test_design_matrix_of_another_dimension(self):
        for start in self.starts(METRICS["fisher-linear"]):
            with pytest.raises((ValueError, TypeError)):
                start(jnp.ones(2))

    def test_weight_of_another_shape(self):
        bad = metrics.fisher(lambda z: z * 2, lambda f: f[:1])
        for start in self.starts(bad):
            with pytest.raises(ValueError, match="shaped like the outputs f"):
                start(jnp.ones(2))

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_position_not_finite(self, bad):
        for start in self.starts(metrics.from_tensor(lambda z: jnp.eye(2))):
            with pytest.raises(ValueError, match="position must be finite"):
                start(jnp.array([1.0, bad]))

    def test_traced_positions_pass(self):
        metric = metrics.from_tensor(self.BAD["positive definite"])
        for start in self.starts(metric):
            state = jax.jit(start)(jnp.ones(2))
            assert np.isnan(jax.tree.leaves(state.geometry)[0]).any()

    def test_rounding_is_not_asymmetry(self):
        def nearly(z):
            return jnp.eye(2, dtype=z.dtype) + jnp.asarray([[0, 1e-7], [0, 0]], z.dtype)

        integrators.init(
            lambda z: -0.5 * jnp.sum(z**2),
            metrics.from_tensor(nearly),
            jnp.ones(2, jnp.float32),
            jnp.ones(2, jnp.float32),
        )
