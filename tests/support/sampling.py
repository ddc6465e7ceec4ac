"""Short runs of chains on a normal density, with one algorithm for most of them."""

import jax
import jax.numpy as jnp
import numpy as np

from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.lengths import uniform_steps
from hmcvae.samplers.sampling import sample
from tests.support.gaussians import normal


def normal_tree(position):
    return normal(position["a"]) + normal(position["b"]["c"])


STARTS = jax.random.normal(jax.random.key(1), (4, 3))
TREE = {"a": STARTS, "b": {"c": jnp.ones(4)}}
# One algorithm for most tests, since its programs are compiled once.
ALGORITHM = hmc(normal, 1.2, uniform_steps(1, 3))
TREE_ALGORITHM = hmc(normal_tree, 0.5, 3)


def draw(seed=0, algorithm=ALGORITHM, starts=STARTS, **options):
    return sample(jax.random.key(seed), algorithm, starts, **({"num_samples": 30} | options))


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def curved_tensor(z):
    return jnp.eye(3) * (1 + z[0] ** 2)
