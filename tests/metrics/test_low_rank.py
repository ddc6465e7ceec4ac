"""What `metrics.low_rank` does not compute, and what must not cancel; its contract is with the other metrics'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import metrics
from tests.support.metrics import shapes_in


def test_low_rank_makes_no_matrix():
    """But for `tensor`: at d = 2000, nothing of d × d, and a diagonal of G⁻¹ that does not cancel."""
    d = 2000
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(d, 3)))[0]
    metric = metrics.low_rank(np.ones(d), vectors, np.array([1e-8, 2.0, 1e8]))

    def walk(z):
        factor = metric.factor(z)
        ends = factor.solve(z), factor.sqrt_matvec(z), factor.sqrt_solve(z), factor.diagonals, factor.log_det
        products = metric.matvec(z, z), metric.quadratic_form(z, z)
        return ends, products, metric.kinetic_energy(z, z), metric.sample_momentum(jax.random.key(0), z)

    assert max(np.prod(shape) for shape in shapes_in(walk, jnp.ones(d))) == 3 * d
    metric = metrics.low_rank(np.array([4.0, 9.0]), np.eye(2)[:, :1], np.array([1e-9]))
    G, inverse = metric.factor(jnp.ones(2, jnp.float32)).diagonals
    np.testing.assert_allclose(G, [4e-9, 9.0], rtol=1e-6)
    np.testing.assert_allclose(inverse, [0.25e9, 1 / 9], rtol=1e-6)


@pytest.mark.parametrize("largest", [1.0, 1e6])
def test_single_precision_at_a_condition_of_a_million(largest):
    """Momenta, energies and the tensor are of one matrix, as far as single precision goes: Λ - I cancels at small λ."""
    d = 10
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0].astype(np.float32)
    eigenvalues = np.geomspace(1e-6 * largest, largest, d).astype(np.float32)
    metric = metrics.low_rank(np.geomspace(1e-3, 1e3, d).astype(np.float32), vectors, eigenvalues)
    z, eye = jnp.zeros(d, jnp.float32), jnp.eye(d, dtype=jnp.float32)
    L = metric.factor(z).sqrt_matvec(eye)
    np.testing.assert_allclose(metric.factor(z).sqrt_solve(L), eye, atol=5e-4)
    inverse = np.linalg.inv(np.asarray(L, np.float64))
    whitened = inverse @ np.asarray(metric.tensor(z), np.float64) @ inverse.T
    np.testing.assert_allclose(np.linalg.eigvalsh(whitened), 1.0, atol=0.2)
