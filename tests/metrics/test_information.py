"""The Fisher metric: its tensor, its two paths and the table of pairs, what it refuses."""

import importlib
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from hmcvae import metrics
from hmcvae.metrics.information import is_affine
from tests.support.metrics import (
    METRICS,
    PRIOR,
    VECTOR,
    D,
    X,
    Z,
    bernoulli_weight,
    check_geometry,
    gaussian_outputs,
    gaussian_weights,
    logits,
    network,
)

# `hmcvae.metrics.fisher` is a function, so the module is fetched by its name.
information = importlib.import_module("hmcvae.metrics.information")


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
        assert is_affine(lambda z: jax.jit(lambda z: 2 * z)(z) + jnp.where(jnp.arange(3) > 1, 1.0, 0.0), z)

    @pytest.mark.parametrize(
        "step",
        [
            lambda z: lax.stop_gradient(jnp.round(z) - z),
            lambda z: jax.jit(lambda z: lax.stop_gradient(z**2))(z),
            jnp.sign,
            jnp.floor,
            lambda z: jnp.where(z > 0, 1.0, 0.0),
            lambda z: z // 2,
            lambda z: z.astype(int).astype(float),
        ],
    )
    def test_steps_are_not_affine(self, step):
        """Their derivative is nothing, everywhere the same; the weights are those of the whole function."""
        z = jnp.asarray(Z)

        def stepped(z):
            return logits(z + step(z))

        assert not is_affine(stepped, z)
        metric = metrics.fisher(stepped, bernoulli_weight)
        np.testing.assert_allclose(metric.tensor(z), metric.matvec(z, jnp.eye(len(z))), rtol=1e-10)

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
            with pytest.raises(ValueError, match="shaped like the outputs f"):
                call(jnp.asarray(Z))
