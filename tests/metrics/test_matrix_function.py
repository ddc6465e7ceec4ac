"""The matrix function of SoftAbs, its divided differences and derivatives, against sixty digits and NumPy's eigh."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae.metrics import hessian
from tests.support.metrics import RNG


def exact_g(a: Decimal) -> Decimal:
    """a coth a with sixty digits."""
    if abs(a) < Decimal("1e-40"):
        return 1 + a * a / 3
    t = (-2 * abs(a)).exp()
    return abs(a) * (1 + t) / (1 - t)


def exact_divided(points, order):
    """g[a, b] or g[a, b, c]; equal arguments are parted by 1e-25, which moves the value by as much."""
    with localcontext() as context:
        context.prec = 120
        step = Decimal("1e-25")
        x = [Decimal(float(p)) + i * step for i, p in enumerate(sorted(points))]
        table = [exact_g(value) for value in x]
        for k in range(1, order + 1):
            table = [(table[i + 1] - table[i]) / (x[i + k] - x[i]) for i in range(len(table) - 1)]
        return float(table[0])


SPECIAL = [
    0.0,
    1e-300,
    1e-8,
    -1e-8,
    1e-3,
    0.2,
    0.349,
    0.351,
    0.5,
    1.0,
    1.0 + 1e-9,
    1.3,
    5.0,
    20.0,
    21.0,
    1e3,
    1e8,
]
POINTS = np.array(SPECIAL + [-value for value in SPECIAL[4:]])


class TestDividedDifferences:
    def test_function(self):
        with localcontext() as context:
            context.prec = 60
            exact = [float(exact_g(Decimal(float(a)))) for a in POINTS]
        np.testing.assert_allclose(hessian.soft_absolute(jnp.asarray(POINTS)), exact, rtol=1e-14)

    def test_first(self):
        a, b = (grid.ravel() for grid in np.meshgrid(POINTS, POINTS))
        exact = np.array([exact_divided(pair, 1) for pair in zip(a, b, strict=True)])
        came = np.asarray(hessian.divided_difference(jnp.asarray(a), jnp.asarray(b)))
        # Absolute: |Φ| ≤ 1, and what it multiplies is not divided by it.
        np.testing.assert_allclose(came, exact, rtol=1e-13, atol=1e-14)

    def test_first_in_float32(self):
        points = POINTS[np.abs(POINTS) > 1e-30].astype(np.float32)
        a, b = (grid.ravel() for grid in np.meshgrid(points, points))
        exact = np.array([exact_divided(pair, 1) for pair in zip(a, b, strict=True)])
        came = hessian.divided_difference(jnp.asarray(a), jnp.asarray(b))
        assert came.dtype == jnp.float32
        np.testing.assert_allclose(came, exact, rtol=3e-6, atol=3e-6)

    def test_confluent(self):
        points = jnp.asarray(POINTS)
        np.testing.assert_allclose(
            hessian.divided_difference(points, points), hessian.slope(points), rtol=1e-12, atol=1e-14
        )
        np.testing.assert_allclose(
            hessian.second_divided_difference(points, points, points),
            hessian.curvature(points) / 2,
            rtol=1e-12,
            atol=1e-14,
        )

    def test_second(self):
        few = POINTS[
            np.isin(np.abs(POINTS), [0.0, 1e-8, 1e-3, 0.349, 0.5, 1.0, 1.0 + 1e-9, 1.3, 21.0, 1e3, 1e8])
        ]
        a, b, c = (grid.ravel() for grid in np.meshgrid(few, few, few))
        exact = np.array([exact_divided(three, 2) for three in zip(a, b, c, strict=True)])
        came = np.asarray(hessian.second_divided_difference(*map(jnp.asarray, (a, b, c))))
        assert np.isfinite(came).all()
        np.testing.assert_allclose(came, exact, rtol=1e-11, atol=3e-14)

    def test_second_is_symmetric(self):
        a, b, c = jnp.asarray(RNG.normal(size=(3, 50)))
        one = hessian.second_divided_difference(a, b, c)
        np.testing.assert_allclose(hessian.second_divided_difference(c, a, b), one, rtol=1e-12)
        np.testing.assert_allclose(hessian.second_divided_difference(b, a, c), one, rtol=1e-12)


def symmetric(spectrum, seed=1):
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum),) * 2))
    matrix = (rotation * np.asarray(spectrum)) @ rotation.T
    return 0.5 * (matrix + matrix.T)


SPECTRA = {
    "apart": [-2.0, 0.1, 1.5, 4.0],
    "double": [1.0, 1.0, -0.5, 3.0],
    "all-equal": [0.7, 0.7, 0.7, 0.7],
    "zero": [0.0, 0.0, 0.0, 0.0],
    "mirrored": [2.0, -2.0, 1.0, -1.0],
    "near": [1.0, 1.0 + 1e-7, 1.0 - 1e-5, 0.3],
}


class TestMatrixFunction:
    """With direction matrices E, D symmetric; the finite differences are of the function by NumPy's eigh."""

    E, D = (0.5 * (M + M.T) for M in np.random.default_rng(3).normal(size=(2, 4, 4)))

    @staticmethod
    def by_numpy(A):
        a, V = np.linalg.eigh(A)
        safe = np.where(a == 0, 1, a)
        return (V * np.where(a == 0, 1.0, safe / np.tanh(safe))) @ V.T

    @pytest.mark.parametrize("name", SPECTRA)
    def test_value_and_derivatives(self, name):
        A = symmetric(SPECTRA[name])
        F = jax.jit(hessian.matrix_function)
        np.testing.assert_allclose(F(jnp.asarray(A)), self.by_numpy(A), atol=1e-12)

        def along(t):
            return self.by_numpy(A + t * self.E)

        h = 1e-3
        expected = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)

        @jax.jit
        def derivatives(A, E, D):
            def first(A):
                return jax.jvp(hessian.matrix_function, (A,), (E,))[1]

            cotangent = jnp.asarray(self.D)
            backward = jax.vjp(hessian.matrix_function, A)[1](cotangent)[0]
            twice = jax.grad(lambda A: jnp.sum(cotangent * first(A)))(A)
            return first(A), jax.jvp(first, (A,), (D,))[1], backward, twice

        first, second, backward, twice = derivatives(*map(jnp.asarray, (A, self.E, self.D)))
        np.testing.assert_allclose(first, expected, atol=1e-9)
        np.testing.assert_allclose(np.sum(backward * self.E), np.sum(self.D * expected), rtol=1e-8, atol=1e-8)

        def mixed(s, t):
            return self.by_numpy(A + s * self.E + t * self.D)

        def slope(t, h=2e-3):
            one, two = mixed(h, t) - mixed(-h, t), mixed(2 * h, t) - mixed(-2 * h, t)
            return (8 * one - two) / (12 * h)

        expected = (8 * (slope(h) - slope(-h)) - (slope(2 * h) - slope(-2 * h))) / (12 * h)
        np.testing.assert_allclose(second, expected, atol=1e-7)
        np.testing.assert_allclose(np.sum(twice * self.D), np.sum(self.D * expected), rtol=1e-6, atol=1e-7)

    def test_a_third_derivative_is_refused(self):
        def second(t):
            A = jnp.diag(jnp.array([1.0, 2.0])) * t
            first = jax.grad(lambda t: hessian.matrix_function(A + t * jnp.ones((2, 2)))[0, 1])
            return jax.grad(first)(0.0)

        assert np.isfinite(second(1.0))
        with pytest.raises(NotImplementedError, match="two derivatives"):
            jax.grad(second)(1.0)

    def test_derivative_of_the_pull_back(self):
        """The derivative of the reverse-mode derivative, which is what `geometry` leaves to an integrator."""
        A, E, D = (jnp.asarray(M) for M in (symmetric(SPECTRA["apart"]), self.E, self.D))

        def pulled(A):
            return jnp.sum(E * jax.vjp(hessian.matrix_function, A)[1](D)[0])

        def pushed(A):  # the same number by forward mode
            return jnp.sum(D * jax.jvp(hessian.matrix_function, (A,), (E,))[1])

        np.testing.assert_allclose(pulled(A), pushed(A), rtol=1e-12)
        np.testing.assert_allclose(jax.grad(pulled)(A), jax.grad(pushed)(A), rtol=1e-8, atol=1e-10)

    def test_jax_alone_is_nan_there(self):
        """The trap that this avoids: if `jax.grad` through `eigh` ever works, the rule can go."""

        def naive(A):
            a, V = jnp.linalg.eigh(A)
            return jnp.sum(jnp.asarray(self.D) * ((V * (a / jnp.tanh(a))[None, :]) @ V.T))

        A = jnp.diag(jnp.array([1.0, 1.0, 2.0, 3.0]))
        assert np.isnan(jax.grad(naive)(A)).any()

    def test_float32(self):
        A = jnp.asarray(symmetric(SPECTRA["double"]), jnp.float32)
        E = jnp.asarray(self.E, jnp.float32)
        value, tangent = jax.jvp(hessian.matrix_function, (A,), (E,))
        assert value.dtype == tangent.dtype == jnp.float32
        exact = jax.jvp(hessian.matrix_function, (A.astype(float),), (E.astype(float),))
        np.testing.assert_allclose(value, exact[0], atol=1e-5)
        np.testing.assert_allclose(tangent, exact[1], atol=1e-5)
