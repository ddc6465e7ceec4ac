"""Metrics that depend on the position: the whole contract against NumPy, SciPy and finite differences, over a table."""

import importlib
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache, partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hmcvae import integrators, metrics
from hmcvae.metrics import hessian
from hmcvae.metrics.information import is_affine
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.riemannian import rmhmc
from tests.support import targets

# `hmcvae.metrics.fisher` is a function, so the module is fetched by its name.
information = importlib.import_module("hmcvae.metrics.information")

RNG = np.random.default_rng(7)
D = 3
Z = np.array([0.4, -0.7, 0.9])
X = RNG.normal(size=(7, D))
W1, W2 = RNG.normal(size=(4, D)), RNG.normal(size=(5, 4))
ROOT = RNG.normal(size=(D, D))
PRIOR = ROOT @ ROOT.T + np.eye(D)


def bernoulli_weight(f):
    return jax.nn.sigmoid(f) * jax.nn.sigmoid(-f)


def logits(z):
    return jnp.asarray(X, z.dtype) @ z + jnp.asarray(0.3, z.dtype)


def network(z):
    return jnp.asarray(W2, z.dtype) @ jnp.tanh(jnp.asarray(W1, z.dtype) @ z)


def gaussian_outputs(z):
    """(mean, log_scale) of unequal sizes, in a pytree."""
    hidden = jnp.tanh(jnp.asarray(W1, z.dtype) @ z)
    return {"mean": hidden[:3], "log_scale": (0.5 * hidden[3:], jnp.sum(z) * 0.1)}


def gaussian_weights(f):
    scale = f["log_scale"][0]
    return {
        "mean": jnp.broadcast_to(jnp.exp(-2 * scale), (3,)),
        "log_scale": (jnp.full_like(scale, 2.0), jnp.full_like(f["log_scale"][1], 2.0)),
    }


def matrix(z):
    """Symmetric positive definite, all entries moving."""
    root = jnp.outer(jnp.sin(z), jnp.cos(z)) + jnp.diag(1 + z**2)
    return root @ root.T + 0.5 * jnp.eye(z.shape[0], dtype=z.dtype)


def masses(z):
    return jnp.exp(jnp.roll(z, 1)) + z**2 + 0.2


FUNNEL = targets.funnel(D).logdensity_fn
SKEWED = targets.skewed().logdensity_fn
METRICS = {
    "fisher-linear": metrics.fisher(logits, bernoulli_weight),
    "fisher-linear-diagonal": metrics.fisher(logits, bernoulli_weight, np.array([0.3, 1.0, 2.0])),
    "fisher-linear-dense": metrics.fisher(logits, bernoulli_weight, PRIOR),
    "fisher-network": metrics.fisher(network, bernoulli_weight, 0.5),
    "fisher-network-diagonal": metrics.fisher(network, bernoulli_weight, np.array([0.3, 1.0, 2.0])),
    "fisher-network-dense": metrics.fisher(network, bernoulli_weight, PRIOR),
    "fisher-pytree": metrics.fisher(gaussian_outputs, gaussian_weights),
    "softabs": metrics.softabs(FUNNEL, 2.0),
    "softabs-hard": metrics.softabs(FUNNEL, 1e6),
    "monge": metrics.monge(SKEWED, 0.8),
    "from-tensor": metrics.from_tensor(matrix),
    "from-tensor-diagonal": metrics.from_tensor(masses),
}
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


VECTOR = np.array([0.8, -1.1, 0.5])
BATCH = np.array([[0.8, 0.1], [-1.1, 0.7], [0.5, -0.4]])


@cache
def everything(name, dtype="float64"):
    arguments = (jnp.asarray(value, dtype) for value in (Z, VECTOR, BATCH))
    return Everything(jax.jit(lambda *a: compute(METRICS[name], *a))(*arguments))


@cache
def tensor_of(name):
    tensor = jax.jit(METRICS[name].tensor)
    return lambda z: np.asarray(tensor(jnp.asarray(z, jnp.float64)))


def differences(function, z, h=1e-4):
    """∂function/∂z_i [d] by the central rule of order 4."""
    gradient = []
    for e in np.eye(len(z)):
        one = (function(z + h * e) - function(z - h * e)) / (2 * h)
        two = (function(z + 2 * h * e) - function(z - 2 * h * e)) / (4 * h)
        gradient.append((4 * one - two) / 3)
    return np.array(gradient)


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

    @over_metrics
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


def check_geometry(metric, other, z, u, rtol=1e-10):
    """Two metrics that must be one: factor, log-determinant, its gradient, the force."""
    for value, expected in zip(
        *(
            (lambda geometry, force: (geometry.factor.solve(u), geometry.log_det_grad, force(u)))(
                *m.geometry(z)
            )
            for m in (metric, other)
        ),
        strict=True,
    ):
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol)


class TestFisher:
    PRIORS: ClassVar = {"number": 0.7, "diagonal": np.array([0.3, 1.0, 2.0]), "dense": PRIOR}

    @pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS.keys())
    @pytest.mark.parametrize("kind", ["linear", "network", "pytree"])
    def test_tensor_is_jacobian_weights_jacobian_and_prior(self, kind, prior):
        predict, weight = {
            "linear": (logits, bernoulli_weight),
            "network": (network, bernoulli_weight),
            "pytree": (gaussian_outputs, gaussian_weights),
        }[kind]
        z = jnp.asarray(Z)
        G = np.diag(np.broadcast_to(prior, (D,))) if np.ndim(prior) < 2 else prior.copy()
        # In the order of the leaves, each with its own weight.
        for J, w in zip(
            jax.tree.leaves(jax.jacfwd(predict)(z)), jax.tree.leaves(weight(predict(z))), strict=True
        ):
            J = np.asarray(J).reshape(-1, D)
            G = G + J.T @ np.diag(np.ravel(w)) @ J
        metric = metrics.fisher(predict, weight, prior)
        np.testing.assert_allclose(metric.tensor(z), G, rtol=1e-12)

    @pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS.keys())
    @pytest.mark.parametrize("table", [True, False], ids=["table", "no-table"])
    def test_linear_and_general_path_agree(self, prior, table, monkeypatch):
        if not table:
            monkeypatch.setattr(information, "MAX_TABLE_BYTES", 0)
        z, u = jnp.asarray(Z), jnp.asarray(VECTOR)
        linear, general, found = (
            metrics.fisher(logits, bernoulli_weight, prior, linear=flag) for flag in (True, False, None)
        )
        rows = linear._jacobian(z)[1]
        assert (information._pair_table(rows) is not None) == table
        np.testing.assert_allclose(linear.tensor(z), general.tensor(z), rtol=1e-12)
        check_geometry(linear, general, z, u)
        check_geometry(found, general, z, u)

    def test_pair_table(self):
        rows, w = jnp.asarray(X.T), np.linspace(0.1, 1.0, 7)
        table = information._pair_table(rows)
        np.testing.assert_allclose(table.assemble(jnp.asarray(w)), X.T @ np.diag(w) @ X, rtol=1e-13)
        np.testing.assert_allclose(
            table.quadratic_forms(jnp.asarray(PRIOR)), np.einsum("ni,ij,nj->n", X, PRIOR, X), rtol=1e-13
        )

    def test_a_traced_design_matrix(self):
        """Made inside a jitted function of X: no table, and derivatives in X."""
        z, u = jnp.asarray(Z), jnp.asarray(VECTOR)

        @jax.jit
        def log_det_grad(covariates):
            metric = metrics.fisher(lambda z: covariates @ z + 0.3, bernoulli_weight)
            geometry, force = metric.geometry(z)
            return geometry.log_det_grad, force(u)

        came = log_det_grad(jnp.asarray(X))
        geometry, force = METRICS["fisher-linear"].geometry(z)
        np.testing.assert_allclose(came[0], geometry.log_det_grad, rtol=1e-10)
        np.testing.assert_allclose(came[1], force(u), rtol=1e-10)
        gradient = jax.grad(lambda x: log_det_grad(x)[0].sum())(jnp.asarray(X))
        h = 1e-6
        moved = [log_det_grad(jnp.asarray(X).at[2, 1].add(s * h))[0].sum() for s in (1, -1)]
        np.testing.assert_allclose(gradient[2, 1], (moved[0] - moved[1]) / (2 * h), rtol=1e-6)

    def test_is_affine(self):
        z = jnp.asarray(Z)
        assert is_affine(logits, z)
        assert is_affine(lambda z: z[:2] * 3 - 1, z)
        assert is_affine(lambda z: jnp.concatenate([z, logits(z)]), z)
        for function in (network, lambda z: z**2, lambda z: z * z[0], lambda z: jnp.abs(z)):
            assert not is_affine(function, z)

    def test_wrong_flag_would_be_seen(self):
        """`linear=True` on a network freezes its Jacobian: the comparison of the paths above has teeth."""
        wrong = metrics.fisher(network, bernoulli_weight, linear=True)
        right = metrics.fisher(network, bernoulli_weight)
        assert np.abs(wrong.tensor(jnp.asarray(Z)) - right.tensor(jnp.asarray(Z))).max() > 0.1

    def test_errors(self):
        for bad in (np.ones((2, 2, 2)), np.ones((2, 3)), -1.0, np.nan, np.array([1.0, np.inf]), np.tri(3)):
            with pytest.raises(ValueError, match="prior_precision"):
                metrics.fisher(logits, bernoulli_weight, bad)
        for functions in ((None, bernoulli_weight), (logits, 1.0)):
            with pytest.raises((ValueError, TypeError)):  # the latter from the type checks of the tests
                metrics.fisher(*functions)

    def test_weight_of_another_shape(self):
        metric = metrics.fisher(logits, lambda f: f[:2])
        for call in (metric.tensor, metric.carry, lambda z: metric.matvec(z, z)):
            with pytest.raises(ValueError, match="shaped like f"):
                call(jnp.asarray(Z))


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


def whole_geometry(metric):
    def compute(z):
        geometry, force = metric.geometry(z)
        factor = metric.factor(z)
        ends = factor.solve(z), factor.sqrt_matvec(z), factor.sqrt_solve(z), factor.log_det
        products = metric.matvec(z, z), metric.quadratic_form(z, z)
        return geometry, force(z), ends, products, metric.kinetic_energy(z, z)

    return compute


def shapes_in(function, z):
    """The shapes of all arrays in the program of function(z)."""
    found = set()

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            found.update(getattr(v.aval, "shape", ()) for v in [*equation.invars, *equation.outvars])
        for inner in inner_programs(jaxpr):
            walk(inner)

    walk(jax.make_jaxpr(function)(z).jaxpr)
    return found


def inner_programs(jaxpr):
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield inner


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
            with pytest.raises(ValueError, match="shaped like f"):
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
