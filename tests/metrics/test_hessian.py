"""SoftAbs: its tensor, its derivatives on the funnel, the default softness."""

from functools import cache, partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import metrics
from hmcvae.metrics import hessian
from tests.support import targets
from tests.support.metrics import FUNNEL, METRICS, Z, differences


class TestSoftAbs:
    def test_tensor_by_numpy(self):
        z, alpha = jnp.asarray(Z), 2.0
        a, V = np.linalg.eigh(-np.asarray(jax.hessian(FUNNEL)(z)))
        assert a.min() < 0 < a.max()
        expected = (V * (a / np.tanh(alpha * a))) @ V.T
        np.testing.assert_allclose(METRICS["softabs"].tensor(z), expected, rtol=1e-10, atol=1e-12)

    def test_bounded_below(self):
        """At a flat place G = I / α."""
        metric = metrics.softabs(lambda z: jnp.sum(z) * 0.0, 4.0)
        np.testing.assert_allclose(metric.tensor(jnp.zeros(3)), np.eye(3) / 4, rtol=1e-13)

    def test_scaled_is_that_of_the_problem_in_these_units(self):
        """G_z = S⁻¹ G_y S⁻¹ with y = S⁻¹ z and the same softness; and the user's scale is checked."""
        s = np.array([0.1, 3.0, 40.0])
        in_units = metrics.softabs(lambda y: FUNNEL(y * s.astype(y.dtype)), 2.0)
        for dtype, rtol in ((jnp.float64, 1e-10), (jnp.float32, 1e-4)):
            z = jnp.asarray(Z, dtype)
            expected = np.asarray(in_units.tensor(jnp.asarray(Z / s)), float) / np.outer(s, s)
            came = metrics.softabs(FUNNEL, 2.0, s).tensor(z)
            assert came.dtype == dtype
            np.testing.assert_allclose(came * np.outer(s, s), expected * np.outer(s, s), rtol=rtol, atol=rtol)
        gaussian, flat = (metrics.softabs(lambda z, p=p: -0.5 * p * z @ z, 3.0, 0.1) for p in (100.0, 0.0))
        np.testing.assert_allclose(gaussian.tensor(jnp.ones(2)), 100 / np.tanh(3) * np.eye(2), rtol=1e-12)
        np.testing.assert_allclose(flat.tensor(jnp.ones(2)), 100 / 3 * np.eye(2), rtol=1e-12)
        with pytest.raises(ValueError, match=r"number or have shape \[d\], got shape \(2, 2\)"):
            metrics.softabs(FUNNEL, 2.0, np.ones((2, 2)))

    # At the origin all but one eigenvalue are equal; on the axis too; elsewhere all but two.
    PLACES: ClassVar = {
        "origin-4": np.zeros(4),
        "origin-11": np.zeros(11),
        "axis-11": np.concatenate([[0.8], np.zeros(10)]),
        "bulk-4": targets.funnel(4).typical,
        "bulk-11": targets.funnel(11).typical,
    }

    @pytest.mark.parametrize("softness", [1.0, 1e6])
    @pytest.mark.parametrize("place", PLACES)
    def test_hamiltonian_of_the_funnel(self, place, softness):
        """∂_z H is finite and that of finite differences, with repeated eigenvalues everywhere."""
        z = self.PLACES[place]
        v = np.linspace(-1.0, 1.3, len(z))
        logdensity_fn, tensor, gradient = funnel_functions(len(z))
        for dtype, rtol in [("float64", 1e-6), ("float32", 2e-3)]:
            came = np.asarray(
                gradient(jnp.asarray(softness, dtype), jnp.asarray(z, dtype), jnp.asarray(v, dtype))
            )
            assert came.dtype == dtype

            def hamiltonian(z):
                G = np.asarray(tensor(jnp.asarray(softness), jnp.asarray(z)))
                kinetic = 0.5 * v @ np.linalg.solve(G, v) + 0.5 * np.linalg.slogdet(G)[1]
                return kinetic - float(logdensity_fn(jnp.asarray(z)))

            expected = differences(hamiltonian, z, 1e-3 if softness < 10 else 1e-4)
            np.testing.assert_allclose(came, expected, atol=rtol * np.abs(expected).max())

    @pytest.mark.parametrize("norm", [1.0, 100.0])
    @pytest.mark.parametrize("dim", [2, 8, 20])
    def test_default_softness_stands_out_from_the_rounding(self, dim, norm):
        """Random spectra of both signs with up to half of the directions flat: in single precision every metric is
        definite, and its log-determinant that of double precision at the same softness."""
        rng, count = np.random.default_rng(0), 200
        turns = np.linalg.qr(rng.normal(size=(count, dim, dim)))[0]
        spectra = norm * rng.choice([-1, 1], (count, dim)) * 10 ** rng.uniform(-2, 0, (count, dim))
        spectra[:, 0] = norm
        spectra[np.arange(dim)[None, :] >= dim - rng.integers(1, 1 + dim // 2, (count, 1))] = 0.0
        hessians = jnp.asarray(np.einsum("nij,nj,nkj->nik", turns, spectra, turns))
        softness = hessian.default_softness(jnp.float32)

        @partial(jax.jit, static_argnums=1)
        @partial(jax.vmap, in_axes=(0, None))
        def log_det(H, given):
            return metrics.softabs(lambda z: -0.5 * z @ H @ z, given).factor(jnp.zeros(dim, H.dtype)).log_det

        single = np.asarray(log_det(hessians.astype(jnp.float32), None))
        exact = np.log(spectra_of(spectra, softness)).sum(1)
        assert single.dtype == np.float32
        assert np.isfinite(single).all()
        np.testing.assert_allclose(single, exact, atol=0.01)
        exact = np.log(spectra_of(spectra, hessian.default_softness(jnp.float64))).sum(1)
        np.testing.assert_allclose(log_det(hessians, None), exact, atol=1e-4)

    @pytest.mark.parametrize("softness", [0.0, -1.0, np.nan, np.inf, True, "1"])
    def test_errors(self, softness):
        with pytest.raises(ValueError, match="softness"):
            metrics.softabs(FUNNEL, softness)


def spectra_of(values, alpha):
    """λ coth(αλ), and 1/α at 0."""
    is_flat = values == 0
    safe = np.where(is_flat, 1.0, values)
    return np.where(is_flat, 1 / alpha, safe / np.tanh(alpha * safe))


@cache
def funnel_functions(dim):
    logdensity_fn = targets.funnel(dim).logdensity_fn

    @jax.jit
    def gradient(softness, z, v):
        """∂_z H, by the metric's own derivatives."""
        geometry, force = metrics.softabs(logdensity_fn, softness).geometry(z)
        potential = -jax.grad(logdensity_fn)(z)
        return potential + 0.5 * geometry.log_det_grad - 0.5 * force(geometry.factor.solve(v))

    tensor = jax.jit(lambda softness, z: metrics.softabs(logdensity_fn, softness).tensor(z))
    return jax.jit(logdensity_fn), tensor, gradient
