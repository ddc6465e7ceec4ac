"""Hierarchical metrics: how blocks are given, what is refused, and masses that are no numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import integrators, metrics
from hmcvae.samplers.hamiltonian import hmc
from tests.support import targets

FUNNEL = targets.funnel(3)


def narrow(v):
    return jnp.exp(-v[0])


class TestBlocks:
    def test_numbers_and_indices_are_the_same(self):
        z = jnp.array([0.4, -0.7, 0.9])
        by_number = metrics.hierarchical(np.array([1, 0, 1]), narrow)
        by_index = metrics.hierarchical([[1], [0, 2]], narrow)
        assert by_number.blocks == by_index.blocks == ((1,), (0, 2))
        np.testing.assert_allclose(by_number.masses(z), [np.exp(0.7), 1, np.exp(0.7)])
        np.testing.assert_array_equal(by_index.join(by_index.split(z)), z)

    def test_order_within_a_block_is_kept(self):
        metric = metrics.hierarchical([[2, 0], [1]], lambda z: 1 + z[0] ** 2, [3.0, 5.0])
        np.testing.assert_allclose(metric.masses(jnp.array([1.0, 9.0, 2.0])), [5.0, 5.0, 3.0])

    def test_numbers_of_a_pytree(self):
        position = {"v": jnp.zeros(()), "w": jnp.zeros(2), "x": {"a": jnp.zeros((2, 2)), "b": jnp.zeros(1)}}
        numbers = metrics.block_numbers(position, {"v": 0, "w": 2, "x": 1})
        np.testing.assert_array_equal(numbers, [0, 2, 2, 1, 1, 1, 1, 1])
        one_each = {"v": 0, "w": 1, "x": {"a": 1, "b": 0}}
        np.testing.assert_array_equal(metrics.block_numbers(position, one_each), [0, 1, 1, 1, 1, 1, 1, 0])

    @pytest.mark.parametrize(
        ("blocks", "words"),
        [
            ([0, 0, 2], "none be empty"),
            ([[0, 1], [1, 2]], "once and none be empty"),
            ([[0], [2]], "once and none be empty"),
            ([[0, 1], []], "whole numbers all"),
            ([-1, -2], "once and none be empty"),
            ([0, -1], "once and none be empty"),
            ([0.0, 1.0], "whole numbers all"),
            ([True, False], "whole numbers all"),
            ([], "whole numbers all"),
            (3, "blocks must be"),
            ([[[0]], [[1]]], "blocks must be"),
            ([0, 0, 0], "two blocks at least, got 1"),
        ],
    )
    def test_bad_blocks_are_refused(self, blocks, words):
        with pytest.raises(ValueError, match=words):
            metrics.hierarchical(blocks, narrow)

    def test_blocks_that_are_traced_are_refused(self):
        with pytest.raises(ValueError, match="known when the metric is made"):
            jax.jit(lambda blocks: metrics.hierarchical(blocks, narrow).masses(jnp.ones(2)))(
                jnp.array([0, 1])
            )


class TestMasses:
    def test_number_of_functions(self):
        with pytest.raises(ValueError, match="each of the 3 blocks but the first, got 1"):
            metrics.hierarchical([0, 1, 2], narrow)
        assert metrics.hierarchical([0, 1, 2]).masses(jnp.ones(3)).tolist() == [1, 1, 1]

    def test_shapes(self):
        with pytest.raises(ValueError, match=r"first_mass must be a number or of shape \(1,\), got \(2,\)"):
            metrics.hierarchical([0, 1, 1], narrow, [1.0, 2.0])
        wide = metrics.hierarchical([0, 1, 1], lambda v: jnp.ones(3))
        with pytest.raises(
            ValueError, match=r"masses of block 1, a scalar or of shape \(2,\), got shape \(3,\)"
        ):
            wide.masses(jnp.ones(3))
        good = metrics.hierarchical([0, 1, 1], narrow)
        with pytest.raises(ValueError, match="the blocks hold 3 coordinates, got a position of shape"):
            good.masses(jnp.ones(4))
        algorithm = hmc(FUNNEL.logdensity_fn, 0.1, 2, wide, integrator=integrators.hierarchical_leapfrog)
        with pytest.raises(
            ValueError, match="metric must fit the position's dimension d = 3.*scalar or of shape"
        ):
            algorithm.init(jnp.ones(3))

    def test_log_linear(self):
        masses = metrics.log_linear([0.5, -1.0], [[1.0, 2.0], [0.0, -3.0]])
        a, b = jnp.array([0.3]), jnp.array([-0.2])
        np.testing.assert_allclose(masses(a, b), np.exp([0.5 + 0.3 - 0.4, -1 + 0.6]))
        assert masses(jnp.ones(2, jnp.float32)).dtype == jnp.float32
        with pytest.raises(ValueError, match="slopes must be finite"):
            metrics.log_linear([0.0], [[np.nan]])

    def test_arrays_of_a_mass_function_are_traced(self):
        """Those of pytrees; a plain function is a static part."""
        z = jnp.array([0.4, -0.7])
        learned = metrics.hierarchical([0, 1], jax.tree_util.Partial(lambda w, v: jnp.exp(w * v[0]), 2.0))
        gradient = jax.grad(lambda metric: metric.factor(z).log_det, allow_int=True)(learned)
        np.testing.assert_allclose(gradient.mass_fns[0].args[0], 0.4)
        np.testing.assert_allclose(gradient.first_mass, 1.0)
        assert len(jax.tree.leaves(metrics.hierarchical([0, 1], narrow))) == 1

    @pytest.mark.parametrize("bad", [np.nan, -1.0])
    def test_masses_that_are_not_positive_are_seen(self, bad):
        """At the start an error, on the way a divergence, and the chain stays where it was."""

        def broken(v):
            return jnp.where(v[0] > 0.6, bad, jnp.exp(-v[0]))

        algorithm = hmc(
            FUNNEL.logdensity_fn,
            0.3,
            6,
            metrics.hierarchical([0, 1, 1], broken),
            integrator=integrators.hierarchical_leapfrog,
        )
        with pytest.raises(ValueError, match="the metric must be finite"):
            algorithm.init(jnp.array([0.7, 0.1, 0.2]))
        state = jax.jit(algorithm.init)(jnp.array([0.55, 0.1, 0.2]))
        new, info = jax.jit(jax.vmap(algorithm.step, (0, None)))(
            jax.random.split(jax.random.key(0), 50), state
        )
        is_over = np.asarray(info.is_divergent)
        assert is_over.any()
        assert not np.asarray(info.is_accepted)[is_over].any()
        assert np.isfinite(new.position).all()
        assert (new.position[:, 0] <= 0.6).all()
