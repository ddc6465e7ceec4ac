"""Metrics that depend on the position: the whole contract against NumPy, SciPy and finite differences, over a table."""

from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.support.metrics import METRICS, VECTOR, D, Z, differences

over_metrics = pytest.mark.parametrize("name", METRICS)
DTYPES = ["float32", "float64"]


@dataclass(frozen=True)
class Everything:
    """All that the contract says of a metric at z for vectors v [d] and V [d, k], from one compilation."""

    values: dict

    def __getattr__(self, name):
        return self.values[name]


def compute(metric, z, v, V):
    factor = metric.factor(z)
    geometry, force = metric.geometry(z)
    carried = metric.carried_factor(z, metric.carry(z))
    return {
        "tensor": metric.tensor(z),
        "matvec": metric.matvec(z, v),
        "matmat": metric.matvec(z, V),
        "form": metric.quadratic_form(z, v),
        "forms": metric.quadratic_form(z, V),
        "form_grad": jax.grad(metric.quadratic_form)(z, v),
        "log_det": factor.log_det,
        "solve": factor.solve(v),
        "solve_many": factor.solve(V),
        "sqrt_matvec": factor.sqrt_matvec(v),
        "root": factor.sqrt_matvec(jnp.eye(z.shape[0], dtype=z.dtype)),
        "sqrt_solve": factor.sqrt_solve(v),
        "sqrt_solve_many": factor.sqrt_solve(V),
        "carried_solve": carried.solve(v),
        "carried_log_det": carried.log_det,
        "log_prob": metric.log_prob_momentum(v, z),
        "kinetic": metric.kinetic_energy(v, z),
        "kinetic_grad": jax.grad(metric.kinetic_energy, 1)(v, z),
        "log_det_grad": geometry.log_det_grad,
        "force": force(v),
        "force_again": force(2 * v),
    }


BATCH = np.array([[0.8, 0.1], [-1.1, 0.7], [0.5, -0.4]])


@cache
def everything(name, dtype="float64"):
    arguments = (jnp.asarray(value, dtype) for value in (Z, VECTOR, BATCH))
    return Everything(jax.jit(lambda *a: compute(METRICS[name], *a))(*arguments))


@cache
def tensor_of(name):
    tensor = jax.jit(METRICS[name].tensor)
    return lambda z: np.asarray(tensor(jnp.asarray(z, jnp.float64)))


def tolerance(dtype, single=2e-4, double=1e-10):
    return single if dtype == "float32" else double


class TestContract:
    @over_metrics
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_tensor_is_symmetric_positive_definite(self, name, dtype):
        G = np.asarray(everything(name, dtype).tensor, float)
        assert G.shape == (D, D)
        np.testing.assert_allclose(G, G.T, atol=10 * np.finfo(dtype).eps * np.abs(G).max())
        assert np.linalg.eigvalsh(G)[0] > 0

    @over_metrics
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_products(self, name, dtype):
        """In float32 against the float64 tensor, so that the tensors of both agree too."""
        G, of = tensor_of(name)(Z), everything(name, dtype)
        size, rtol = np.abs(G).max(), tolerance(dtype)
        np.testing.assert_allclose(of.tensor, G, atol=rtol * size)
        np.testing.assert_allclose(of.matvec, G @ VECTOR, atol=rtol * size)
        np.testing.assert_allclose(of.matmat, G @ BATCH, atol=rtol * size)
        np.testing.assert_allclose(of.form, VECTOR @ G @ VECTOR, rtol=rtol)
        np.testing.assert_allclose(of.forms, np.trace(BATCH.T @ G @ BATCH), rtol=rtol)

    @over_metrics
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_factor(self, name, dtype):
        G, of = tensor_of(name)(Z), everything(name, dtype)
        rtol = tolerance(dtype) * np.linalg.cond(G) ** 0.5
        root = np.asarray(of.root, float)
        np.testing.assert_allclose(root @ root.T, G, atol=rtol * np.abs(G).max())
        np.testing.assert_allclose(of.sqrt_matvec, root @ VECTOR, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(of.log_det, np.linalg.slogdet(G)[1], rtol=rtol, atol=rtol)
        for came, b in [(of.solve, VECTOR), (of.solve_many, BATCH), (of.carried_solve, VECTOR)]:
            exact = np.linalg.solve(G, b)
            np.testing.assert_allclose(came, exact, atol=rtol * np.abs(exact).max())
        np.testing.assert_allclose(of.sqrt_solve, np.linalg.solve(root, VECTOR), rtol=10 * rtol)
        np.testing.assert_allclose(of.sqrt_solve_many, np.linalg.solve(root, BATCH), rtol=10 * rtol)
        np.testing.assert_allclose(of.carried_log_det, of.log_det, rtol=rtol, atol=rtol)

    @over_metrics
    def test_log_prob_momentum(self, name):
        """Normalised: against a multivariate normal, which sees a wrong share of log |G|."""
        of, G = everything(name), tensor_of(name)(Z)
        expected = stats.multivariate_normal(np.zeros(D), G).logpdf(VECTOR)
        np.testing.assert_allclose(of.log_prob, expected, rtol=1e-10)
        np.testing.assert_allclose(of.kinetic, -expected - 0.5 * D * np.log(2 * np.pi), rtol=1e-9)

    @over_metrics
    def test_sample_momentum(self, name):
        """Mean 0 and covariance G, whitened, within five standard errors."""
        num_draws = 20_000
        keys = jax.random.split(jax.random.key(3), num_draws)
        draws = jax.jit(jax.vmap(METRICS[name].sample_momentum, (0, None)))(keys, jnp.asarray(Z))
        white = np.linalg.solve(np.linalg.cholesky(tensor_of(name)(Z)), np.asarray(draws).T)
        error = 1 / np.sqrt(num_draws)
        assert np.abs(white.mean(axis=1)).max() < 5 * error
        assert np.abs(white @ white.T / num_draws - np.eye(D)).max() < 5 * np.sqrt(2) * error

    @over_metrics
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_derivatives_are_those_of_the_tensor(self, name, dtype):
        """∂ log|G|, ∂ uᵀGu with u held, ∂_z of the kinetic energy, by finite differences of the tensor alone."""
        of, tensor = everything(name, dtype), tensor_of(name)
        log_det = differences(lambda z: np.linalg.slogdet(tensor(z))[1], Z)
        form = differences(lambda z: VECTOR @ tensor(z) @ VECTOR, Z)
        G = tensor(Z)
        u = np.linalg.solve(G, VECTOR)
        kinetic = differences(
            lambda z: (
                0.5 * VECTOR @ np.linalg.solve(tensor(z), VECTOR) + 0.5 * np.linalg.slogdet(tensor(z))[1]
            ),
            Z,
        )
        held = 0.5 * log_det - 0.5 * differences(lambda z: u @ tensor(z) @ u, Z)
        np.testing.assert_allclose(held, kinetic, rtol=1e-6, atol=1e-8)  # the identity of the module
        rtol = tolerance(dtype, 2e-3, 1e-7)
        for came, expected in [
            (of.log_det_grad, log_det),
            (of.force, form),
            (of.force_again, 4 * form),
            (of.form_grad, form),
            (of.kinetic_grad, kinetic),
        ]:
            assert np.abs(expected).max() > 1e-3  # there is something to see
            np.testing.assert_allclose(came, expected, atol=rtol * np.abs(expected).max())

    @pytest.mark.parametrize("name", [name for name in METRICS if name != "softabs-hard"])
    @pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev], ids=["forward", "reverse"])
    def test_second_derivatives(self, name, mode):
        """Those of the log-determinant's gradient and of the force: what a derivative through an integrator takes."""

        def both(z):
            geometry, force = METRICS[name].geometry(z)
            return jnp.stack([geometry.log_det_grad, force(jnp.asarray(VECTOR))])

        first = jax.jit(both)
        came = np.asarray(jax.jit(mode(both))(jnp.asarray(Z)))
        expected = np.moveaxis(differences(lambda z: np.asarray(first(jnp.asarray(z))), Z), 0, -1)
        np.testing.assert_allclose(came, expected, atol=1e-7 * np.abs(expected).max())

    @over_metrics
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_dtype_is_kept(self, name, dtype):
        assert {leaf.dtype for leaf in everything(name, dtype).values.values()} == {jnp.dtype(dtype)}
        carried = jax.eval_shape(METRICS[name].carry, jnp.asarray(Z, dtype))
        assert {leaf.dtype for leaf in jax.tree.leaves(carried)} == {jnp.dtype(dtype)}

    @over_metrics
    def test_pytree_and_vmap(self, name):
        metric = METRICS[name]
        assert metric.is_position_dependent
        leaves, structure = jax.tree.flatten(metric)
        again = jax.tree.unflatten(structure, leaves)
        assert jax.tree.structure(again) == structure
        batch = jnp.asarray([Z, Z + 0.3])
        carried = jax.jit(jax.vmap(lambda m, z: m.carry(z), (None, 0)))(metric, batch)
        np.testing.assert_allclose(carried.log_det_grad[0], everything(name).log_det_grad, rtol=1e-8)
