"""Banded metrics: against dense ones and SciPy where there are many rounds, without a matrix, and what is refused. (The
contract itself is in `test_riemannian_contract`.)"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

import hmcvae
from hmcvae import integrators, metrics
from tests.support.metrics import shapes_in

RNG = np.random.default_rng(3)


def random_bands(rows, d):
    """Of a random positive definite matrix."""
    root = RNG.normal(size=(rows, d)) / rows
    root[0] = 1 + np.abs(root[0])
    dense = sum(np.diag(row[: d - k], -k) for k, row in enumerate(root))
    G = dense @ dense.T
    return np.array([np.append(np.diagonal(G, -k), np.full(k, 7.0)) for k in range(rows)]), G


def path_bands(z):
    """A tridiagonal precision that moves with its neighbours."""
    return jnp.stack([2.5 + z**2, jnp.sin(z + jnp.roll(z, -1))])


@pytest.mark.parametrize(("rows", "d"), [(1, 5), (2, 31), (2, 32), (3, 20), (4, 17)])
def test_constant(rows, d):
    """Numbers of blocks on both sides of 2^p - 1, and blocks that d does not fill."""
    bands, G = random_bands(rows, d)
    metric = metrics.banded(bands)
    z, V = jnp.zeros(d), jnp.asarray(RNG.normal(size=(d, 2)))

    @jax.jit
    def everything(metric, V):
        factor, e = metric.factor(z), jnp.eye(d)
        products = metric.tensor(z), metric.matvec(z, V), metric.quadratic_form(z, V), factor.sqrt_matvec(e)
        solves = factor.solve(V), factor.sqrt_solve(V), factor.inverse_sqrt_matvec(V)
        return products, solves, factor.log_det, factor.inverse

    (tensor, product, form, root), solves, log_det, inverse = everything(metric, V)
    root = np.asarray(root)
    np.testing.assert_allclose(tensor, G, atol=1e-12)
    np.testing.assert_allclose(product, G @ V, atol=1e-12)
    np.testing.assert_allclose(form, np.trace(V.T @ G @ V), rtol=1e-12)
    np.testing.assert_allclose(root @ root.T, G, atol=1e-12)
    np.testing.assert_allclose(solves[0], linalg.solveh_banded(bands, V, lower=True), atol=1e-10)
    np.testing.assert_allclose(root @ solves[1], V, atol=1e-11)
    np.testing.assert_allclose(root.T @ solves[2], V, atol=1e-11)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(G)[1], rtol=1e-12)
    for k, row in enumerate(inverse):
        np.testing.assert_allclose(row[: d - k], np.diagonal(np.linalg.inv(G), -k), atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_long_path_against_scipy_without_a_matrix(dtype):
    """d = 2003: no array of the whole program has two long axes."""
    d = 2003
    metric = metrics.banded(path_bands)
    z, v = (jnp.asarray(RNG.normal(size=d), dtype) for _ in range(2))

    def everything(z):
        geometry, force = metric.geometry(z)
        factor = metric.factor(z)
        return (
            factor.solve(v),
            factor.log_det,
            geometry.log_det_grad,
            force(v),
            metric.kinetic_energy(v, z),
            metric.sample_momentum(jax.random.key(0), z),
            *factor.diagonals,
        )

    found = jax.jit(everything)(z)
    bands = np.asarray(path_bands(z.astype(float)))
    lower = linalg.cholesky_banded(bands, lower=True)
    eps = 30 * np.finfo(dtype).eps
    exact = linalg.cho_solve_banded((lower, True), np.asarray(v, float))
    np.testing.assert_allclose(found[0], exact, atol=eps * np.abs(exact).max())
    np.testing.assert_allclose(found[1], 2 * np.log(lower[0]).sum(), rtol=eps)
    assert all(x.dtype == dtype for x in found)
    assert all(sum(size >= d // 2 for size in shape) < 2 for shape in shapes_in(everything, z))


def test_trajectories_are_those_of_the_dense_metric():
    def logdensity_fn(z):
        return -0.5 * jnp.sum(z**2) - 0.1 * jnp.sum(z**4)

    z, v = jnp.asarray(0.5 * RNG.normal(size=6)), jnp.asarray(RNG.normal(size=6))
    ends = []
    for metric in (metrics.banded(path_bands), metrics.from_tensor(metrics.banded(path_bands).tensor)):
        state = integrators.init(logdensity_fn, metric, z, v)
        step = integrators.generalized_leapfrog(logdensity_fn, metric)
        end, info = jax.jit(lambda s, step=step: integrators.integrate(step, s, 0.2, 3))(state)
        assert info.converged
        ends.append(jnp.concatenate([end.position, end.momentum]))
    np.testing.assert_allclose(*ends, rtol=1e-8, atol=1e-8)


@pytest.mark.filterwarnings("ignore::hmcvae.SamplingWarning")
@pytest.mark.parametrize("kind", ["constant", pytest.param("of the position", marks=pytest.mark.slow)])
def test_sampling(kind):
    """A correlated Gaussian with its own precision as mass: the variances come out, and a constant metric is kept."""
    d = 6
    bands = np.stack([np.full(d, 2.5), np.full(d, -1.0)])
    constant = metrics.banded(bands)
    precision = constant.tensor(jnp.zeros(d))

    def logdensity_fn(z):
        return -0.5 * jnp.dot(z, precision @ z)

    if kind == "constant":
        algorithm = hmcvae.hmc(logdensity_fn, 0.5, hmcvae.uniform_steps(1, 5), constant)
    else:
        metric = metrics.banded(lambda z: jnp.asarray(bands) + jnp.stack([0.1 * jnp.tanh(z) ** 2, 0 * z]))
        algorithm = hmcvae.rmhmc(logdensity_fn, 0.5, hmcvae.uniform_steps(1, 5), metric)
    samples = hmcvae.sample(jax.random.key(0), algorithm, jnp.zeros((16, d)), num_samples=300, num_warmup=100)
    assert samples.counts.acceptance_rate > 0.6
    variances = np.asarray(samples.position).reshape(-1, d).var(axis=0)
    np.testing.assert_allclose(variances, np.diag(np.linalg.inv(precision)), rtol=0.15)


def test_traced_bands():
    """Bands may be parameters: ∂ log |G| with respect to them is the selected inverse, twice below the diagonal."""
    bands, G = random_bands(3, 9)

    def log_det(bands):
        return metrics.banded(bands).factor(jnp.zeros(9)).log_det

    gradient = jax.jit(jax.grad(log_det))(jnp.asarray(bands))
    for k in range(3):
        expected = np.append((1 + (k > 0)) * np.diagonal(np.linalg.inv(G), -k), np.zeros(k))
        np.testing.assert_allclose(gradient[k], expected, atol=1e-9)


def test_refusals():
    with pytest.raises(ValueError, match=r"bands must have shape \[b \+ 1, d\] with b < d, got shape \(3,\)"):
        metrics.banded(np.ones(3))
    with pytest.raises(ValueError, match="with b < d, got shape"):
        metrics.banded(np.ones((4, 3)))
    with pytest.raises(ValueError, match="bands must be finite"):
        metrics.banded(np.array([[1.0, np.nan], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="bands must be those of a positive definite matrix"):
        metrics.banded(np.array([[1.0, 1.0], [2.0, 0.0]]))
    with pytest.raises(ValueError, match="bands must be float32 or float64"):
        metrics.banded(jnp.ones((2, 3), jnp.float16))
    with pytest.raises(ValueError, match=r"bands must have shape \[b \+ 1, 3\] with b < 3, got shape \(3,\)"):
        metrics.banded(lambda z: z).factor(jnp.ones(3))
    nowhere = metrics.banded(lambda z: jnp.stack([z, 0 * z]))
    with pytest.raises(ValueError, match="finite and positive definite at the position"):
        hmcvae.rmhmc(lambda z: -jnp.sum(z**2), 0.1, 1, nowhere).init(jnp.array([1.0, -1.0]))
    assert np.isnan(nowhere.factor(jnp.array([1.0, -1.0])).log_det)
