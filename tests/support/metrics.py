"""A table of metrics that depend on the position, and what two of them must share."""

import jax
import jax.numpy as jnp
import numpy as np

from hmcvae import metrics
from tests.support import targets

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


def one_block(z1):
    """A scalar, for all coordinates of the next block."""
    return jnp.exp(-z1[0]) + 0.3


def two_blocks(z1, z2):
    return jnp.exp(0.5 * z1 - z2) + z2**2


def bands(z):
    """Of a tridiagonal matrix, diagonally dominant; the corner is not used."""
    below = jnp.sin(z) * jnp.roll(jnp.cos(z), -1)
    return jnp.stack([1.5 + z**2 + jnp.roll(z, 1) ** 2, below])


def wide_bands(z):
    """Of a matrix with no zeros, in blocks of two."""
    diagonal = 2 + z**2 + jnp.exp(jnp.roll(z, 1))
    return jnp.stack([diagonal, jnp.sin(z), 0.5 * jnp.cos(z + jnp.roll(z, 1))])


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
    "banded": metrics.banded(bands),
    "banded-wide": metrics.banded(wide_bands),
    "hierarchical": metrics.hierarchical([1, 0, 1], one_block, 1.7),
    "hierarchical-nested": metrics.hierarchical(
        [[2], [0], [1]], [metrics.log_linear([0.3], [[0.8]]), two_blocks], [0.6]
    ),
}
VECTOR = np.array([0.8, -1.1, 0.5])


def differences(function, z, h=1e-4):
    """∂function/∂z_i [d] by the central rule of order 4."""
    gradient = []
    for e in np.eye(len(z)):
        one = (function(z + h * e) - function(z - h * e)) / (2 * h)
        two = (function(z + 2 * h * e) - function(z - 2 * h * e)) / (4 * h)
        gradient.append((4 * one - two) / 3)
    return np.array(gradient)


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
