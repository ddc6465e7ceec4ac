"""Pytrees that must be one."""

import jax
import numpy as np


def assert_same(restored, expected):
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    for new, old in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        assert new.dtype == old.dtype
        np.testing.assert_array_equal(new, old)
