"""The whole Metric contract, for every Euclidean metric, against plain NumPy and SciPy formulas."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis.extra import numpy as hnp
from scipy import stats

from hmcvae import metrics
from hmcvae.types import Factor, Metric

DIM = 4
KINDS = ["identity", "diagonal", "dense", "low_rank"]
DTYPES = [np.float32, np.float64]


def mass_matrix(kind: str, dim: int = DIM) -> np.ndarray:
    """A mass matrix of that kind, far from the identity: log-determinant and traces are not special."""
    rng = np.random.default_rng(dim)
    if kind == "identity":
        return np.eye(dim)
    if kind == "diagonal":
        return np.diag(np.geomspace(0.2, 7.0, dim))
    root = rng.normal(size=(dim, dim))
    if kind == "low_rank":
        scale, vectors = np.geomspace(0.4, 3.0, dim), np.linalg.qr(root[:, :2])[0]
        return (np.eye(dim) + (vectors * np.array([5.0, -0.9])) @ vectors.T) * np.outer(scale, scale)
    return root @ root.T + 0.5 * np.eye(dim)


def low_rank(mass: jax.Array) -> Metric:
    """Of a full matrix, with as many directions as there are coordinates but one."""
    scale = jnp.sqrt(jnp.diagonal(mass))
    values, vectors = jnp.linalg.eigh(mass / jnp.outer(scale, scale))
    # G = D^{1/2} (V diag(values) Vᵀ) D^{1/2}: what one value is goes into D, and its direction out of U.
    return metrics.low_rank(
        jnp.diagonal(mass) * values[1], vectors[:, [0, 2, 3]], values[jnp.array([0, 2, 3])] / values[1]
    )


def build(kind: str, mass: jax.Array) -> Metric:
    """The metric of that kind from a full matrix."""
    return {
        "identity": lambda: metrics.identity(),
        "diagonal": lambda: metrics.diagonal(jnp.diagonal(mass)),
        "dense": lambda: metrics.dense(mass),
        "low_rank": lambda: low_rank(mass),
    }[kind]()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=DTYPES, ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.fixture
def case(kind: str, dtype: type) -> tuple[Metric, np.ndarray, jax.Array, jax.Array]:
    """A metric, its matrix G, a position and a momentum."""
    rng = np.random.default_rng(7)
    G = mass_matrix(kind)
    return (
        build(kind, jnp.asarray(G, dtype)),
        G,
        *(jnp.asarray(rng.normal(size=DIM), dtype) for _ in range(2)),
    )


def close(actual: jax.Array, expected: np.ndarray, scale: float = 1.0) -> None:
    """Equal to a few hundred roundings, and of a dtype that the caller's float64 did not widen."""
    tolerance = 200 * scale * float(jnp.finfo(actual.dtype).eps)
    np.testing.assert_allclose(np.asarray(actual, float), expected, rtol=tolerance, atol=tolerance)


def test_is_a_metric(case):
    metric, _, z, _ = case
    assert isinstance(metric, Metric)
    assert isinstance(metric.factor(z), Factor)
    assert metric.is_position_dependent is False


def test_tensor_matvec_quadratic_form(case, dtype):
    metric, G, z, v = case
    V = jnp.stack([v, z, v - 2 * z], axis=1)
    close(metric.tensor(z), G)
    close(metric.matvec(z, v), G @ np.asarray(v, float))
    close(metric.matvec(z, V), G @ np.asarray(V, float))
    close(metric.quadratic_form(z, v), np.asarray(v, float) @ G @ np.asarray(v, float))
    close(metric.quadratic_form(z, V), np.trace(np.asarray(V, float).T @ G @ np.asarray(V, float)))
    results = [metric.tensor(z), metric.matvec(z, v), metric.matvec(z, V), metric.quadratic_form(z, V)]
    assert {result.dtype for result in results} == {np.dtype(dtype)}
    # G is constant, so its quadratic form has no slope in z.
    assert not np.any(jax.grad(metric.quadratic_form)(z, V))


def test_factor(case, dtype, kind):
    metric, G, z, v = case
    factor = metric.factor(z)
    # Any square root will do; Cholesky's is that of all the others.
    L = np.asarray(factor.sqrt_matvec(jnp.eye(DIM, dtype=dtype)), float)
    close(jnp.asarray(L @ L.T, dtype), G)
    if kind != "low_rank":
        close(jnp.asarray(L, dtype), np.linalg.cholesky(G))
    close(factor.log_det, np.linalg.slogdet(G)[1])
    assert factor.log_det.dtype == dtype
    for b in (v, jnp.stack([v, z, v - 2 * z], axis=1)):
        reference = np.asarray(b, float)
        close(factor.solve(b), np.linalg.solve(G, reference), scale=np.linalg.cond(G))
        close(factor.sqrt_matvec(b), L @ reference)
        close(factor.sqrt_solve(b), np.linalg.solve(L, reference), scale=np.linalg.cond(L))
        assert {factor.solve(b).dtype, factor.sqrt_matvec(b).dtype, factor.sqrt_solve(b).dtype} == {b.dtype}


def test_log_prob_momentum_is_normalised(case, dtype):
    metric, G, z, v = case
    expected = stats.multivariate_normal.logpdf(np.asarray(v, float), np.zeros(DIM), G)
    close(metric.log_prob_momentum(v, z), expected)
    reference = jax.scipy.stats.multivariate_normal.logpdf(v, jnp.zeros(DIM, dtype), metric.tensor(z))
    close(metric.log_prob_momentum(v, z), np.asarray(reference, float))
    assert metric.log_prob_momentum(v, z).dtype == dtype


def test_kinetic_energy_constant(case, dtype):
    """K = -log N(v; 0, G) - d/2 log 2π: the ½ log|G| is in it, once."""
    metric, G, z, v = case
    w = np.asarray(v, float)
    expected = 0.5 * w @ np.linalg.solve(G, w) + 0.5 * np.linalg.slogdet(G)[1]
    close(metric.kinetic_energy(v, z), expected, scale=np.linalg.cond(G))
    close(metric.kinetic_energy(jnp.zeros_like(v), z), 0.5 * np.linalg.slogdet(G)[1])
    gap = -metric.log_prob_momentum(v, z) - metric.kinetic_energy(v, z)
    close(gap, np.asarray(0.5 * DIM * np.log(2 * np.pi)))
    # The velocity of the integrators is the derivative of this energy.
    close(jax.grad(metric.kinetic_energy)(v, z), np.linalg.solve(G, w), scale=np.linalg.cond(G))
    assert metric.kinetic_energy(v, z).dtype == dtype


def test_sample_momentum_covariance(case, dtype, rng_key):
    """Draws, whitened by the true G, have unit covariance; 5 standard errors of its entries."""
    metric, G, z, _ = case
    num_draws = 20_000
    v = jax.jit(jax.vmap(metric.sample_momentum, (0, None)))(jax.random.split(rng_key, num_draws), z)
    assert v.dtype == dtype
    white = np.linalg.solve(np.linalg.cholesky(G), np.asarray(v, float).T)
    np.testing.assert_allclose(white.mean(axis=1), 0, atol=5 / np.sqrt(num_draws))
    np.testing.assert_allclose(white @ white.T / num_draws, np.eye(DIM), atol=5 * np.sqrt(2 / num_draws))


@hypothesis.settings(max_examples=30, deadline=None, derandomize=True)
@hypothesis.given(
    root=hnp.arrays(float, (3, 3), elements=st.floats(-3, 3)),
    vector=hnp.arrays(float, 3, elements=st.floats(-100, 100)),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
)
def test_factor_inverts_for_any_mass(root: np.ndarray, vector: np.ndarray, scale: float):
    G = scale * (root @ root.T + 0.3 * np.eye(3))
    condition = np.linalg.cond(G)
    z, v = jnp.zeros(3), jnp.asarray(vector)
    for metric in (metrics.dense(G), metrics.diagonal(np.diag(G))):
        factor = metric.factor(z)
        bound = 1e-14 * condition * (1 + np.abs(vector).max())
        np.testing.assert_allclose(factor.solve(metric.matvec(z, v)), v, atol=bound)
        np.testing.assert_allclose(factor.sqrt_solve(factor.sqrt_matvec(v)), v, atol=bound)
        w = factor.sqrt_solve(v)
        np.testing.assert_allclose(jnp.dot(w, w), jnp.dot(v, factor.solve(v)), rtol=1e-13 * condition)
        np.testing.assert_allclose(
            factor.log_det, np.linalg.slogdet(metric.tensor(z))[1], rtol=1e-12, atol=1e-12 * condition
        )


def everything(metric: Metric, z: jax.Array, v: jax.Array) -> dict[str, jax.Array]:
    """All that a metric offers, in one pytree."""
    factor = metric.factor(z)
    return {
        "tensor": metric.tensor(z),
        "matvec": metric.matvec(z, v),
        "quadratic_form": metric.quadratic_form(z, v),
        "solve": factor.solve(v),
        "sqrt_matvec": factor.sqrt_matvec(v),
        "sqrt_solve": factor.sqrt_solve(v),
        "log_det": factor.log_det,
        "kinetic_energy": metric.kinetic_energy(v, z),
        "log_prob_momentum": metric.log_prob_momentum(v, z),
    }


def test_float32_stays_float32_under_a_float64_mass(kind):
    """Masses may be kept in another precision than the positions; the position's decides."""
    metric = build(kind, jnp.asarray(mass_matrix(kind)))
    z = jnp.ones(DIM, jnp.float32)
    for name, value in everything(metric, z, z).items():
        assert value.dtype == jnp.float32, name
    assert metric.sample_momentum(jax.random.key(0), z).dtype == jnp.float32


def test_jit_and_vmap_through_masses(kind):
    """A batch of metrics, built inside the transformed function, equals a loop over them."""
    rng = np.random.default_rng(3)
    masses = jnp.stack([scale * jnp.asarray(mass_matrix(kind)) for scale in (0.5, 1.0, 3.0)])
    z, v = (jnp.asarray(rng.normal(size=(3, DIM))) for _ in range(2))

    def evaluate(mass, z, v):
        return everything(build(kind, mass), z, v)

    batched = jax.jit(jax.vmap(evaluate))(masses, z, v)
    looped = [evaluate(masses[i], z[i], v[i]) for i in range(3)]
    chex.assert_trees_all_close(batched, jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped), rtol=1e-12)


def test_vmap_over_a_batch_of_metrics(kind):
    """A metric is a pytree: one can be stacked, mapped over and handed through jit."""
    masses = [jnp.asarray(scale * mass_matrix(kind)) for scale in (0.5, 2.0)]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(build(kind, mass) for mass in masses))
    z = jnp.asarray(np.linspace(-1, 1, DIM))
    in_axes = None if kind == "identity" else 0
    energies = jax.jit(jax.vmap(lambda metric: metric.kinetic_energy(z, z), in_axes, axis_size=2))(stack)
    chex.assert_trees_all_close(energies, jnp.stack([build(kind, m).kinetic_energy(z, z) for m in masses]))


@pytest.mark.parametrize("kind", ["diagonal", "dense", "low_rank"])
def test_gradients_through_masses(kind):
    """Reverse mode through everything against central differences, along random symmetric directions."""
    rng = np.random.default_rng(5)
    z, v = (jnp.asarray(rng.normal(size=DIM)) for _ in range(2))
    weights = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), everything(build(kind, jnp.eye(DIM)), z, v)
    )

    @jax.jit
    def loss(mass):
        return sum(
            jnp.sum(w * x)
            for w, x in zip(
                jax.tree.leaves(weights), jax.tree.leaves(everything(build(kind, mass), z, v)), strict=True
            )
        )

    mass = jnp.asarray(mass_matrix(kind))
    gradient = jax.grad(loss)(mass)
    for _ in range(3):
        direction = rng.normal(size=(DIM, DIM))
        direction = jnp.asarray(direction + direction.T)
        step = 1e-5
        difference = (loss(mass + step * direction) - loss(mass - step * direction)) / (2 * step)
        np.testing.assert_allclose(jnp.sum(gradient * direction), difference, rtol=1e-6)


def test_pytree_registration(kind):
    """Leaves are the arrays; flattening and back gives an equal metric of the same class."""
    metric = build(kind, jnp.asarray(mass_matrix(kind)))
    leaves, treedef = jax.tree.flatten(metric)
    assert len(leaves) == {"identity": 0, "diagonal": 1, "dense": 3, "low_rank": 3}[kind]
    again = jax.tree.unflatten(treedef, leaves)
    assert type(again) is type(metric)
    chex.assert_trees_all_equal(again, metric)
    factor = metric.factor(jnp.ones(DIM))
    chex.assert_trees_all_equal(jax.jit(lambda factor: factor)(factor), factor)
    with pytest.raises(AttributeError):
        metric.mass = 1  # frozen


def test_whole_numbers_are_masses():
    np.testing.assert_array_equal(
        metrics.diagonal(np.array([1, 4])).tensor(jnp.zeros(2)), np.diag([1.0, 4.0])
    )
    np.testing.assert_array_equal(
        metrics.dense(np.array([[2, 1], [1, 2]])).tensor(jnp.zeros(2)), [[2, 1], [1, 2]]
    )


@pytest.mark.parametrize(
    ("constructor", "mass", "message"),
    [
        (metrics.diagonal, np.float64(1.0), r"shape \[d\], got shape \(\)"),
        (metrics.diagonal, np.eye(2), r"shape \[d\], got shape \(2, 2\); use dense"),
        (metrics.diagonal, np.array([1.0, 0.0]), "greater than 0"),
        (metrics.diagonal, np.array([1.0, -1.0]), "greater than 0"),
        (metrics.diagonal, np.array([1.0, np.nan]), "must be finite"),
        (metrics.diagonal, np.array([1.0, np.inf]), "must be finite"),
        (metrics.diagonal, np.array([1.0 + 1j, 1.0]), r"real numbers, got .*complex128"),
        (metrics.dense, np.ones(2), r"shape \[d, d\], got shape \(2,\)"),
        (metrics.dense, np.ones((2, 3)), r"shape \[d, d\], got shape \(2, 3\)"),
        (metrics.dense, np.array([[1.0, 0.5], [0.2, 1.0]]), "symmetric, got entries that differ .* 0.3"),
        (metrics.dense, np.array([[1.0, 2.0], [2.0, 1.0]]), "positive definite, got smallest eigenvalue -1"),
        (metrics.dense, np.zeros((2, 2)), "positive definite"),
        (metrics.dense, np.array([[1.0, np.nan], [np.nan, 1.0]]), "must be finite"),
        (
            lambda mass: metrics.low_rank(mass, np.ones((2, 1)), np.ones(1)),
            np.ones(2),
            "orthonormal .* off by 1",
        ),
        (lambda mass: metrics.low_rank(mass, np.full((2, 1), np.nan), np.ones(1)), np.ones(2), "orthonormal"),
        (
            lambda mass: metrics.low_rank(np.ones(2), np.eye(2), mass),
            np.array([1.0, 0.0]),
            "eigenvalues .* greater",
        ),
        (
            lambda mass: metrics.low_rank(np.ones(2), np.eye(2), mass),
            np.ones(1),
            r"shape \(2,\), got shape \(1,\)",
        ),
        (
            lambda mass: metrics.low_rank(mass, np.eye(2), np.ones(2)),
            np.ones(1),
            r"\[1, k\], k ≤ 1, got .*\(2, 2\)",
        ),
        (
            lambda mass: metrics.low_rank(mass, np.eye(2), np.ones(2)),
            np.eye(2),
            r"shape \[d\], got shape \(2, 2\)",
        ),
        (metrics.dense, np.array([[True, False], [False, True]]), r"real numbers, got (?s:.*)bool"),
    ],
)
def test_bad_masses(constructor, mass, message):
    with pytest.raises(ValueError, match=message):
        constructor(mass)


def test_bad_shape_is_seen_while_tracing():
    with pytest.raises(ValueError, match=r"got shape \(2, 3\)"):
        jax.eval_shape(metrics.dense, jnp.ones((2, 3)))


@pytest.mark.parametrize("kind", ["diagonal", "dense", "low_rank"])
def test_a_mass_of_another_dimension_is_an_error(kind):
    metric = build(kind, jnp.asarray(mass_matrix(kind)))
    z = jnp.ones(DIM + 1)
    with pytest.raises((ValueError, TypeError)):
        metric.kinetic_energy(z, z)
