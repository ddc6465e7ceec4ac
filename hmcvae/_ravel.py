"""A pytree as one vector and back, past its empty arrays."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree as _ravel_pytree

from hmcvae.types import PyTree, Vector


def ravel_pytree(tree: PyTree) -> tuple[Vector, Callable[[Vector], PyTree]]:
    """`jax.flatten_util.ravel_pytree`, with arrays that hold no number left out of the vector and made anew.

    Cutting an empty piece out of a vector makes XLA's CPU compiler abort the process (jax and jaxlib 0.10.2):

        jax.jit(jax.vmap(lambda a, b: jnp.concatenate([a, b])[2:]))(jnp.ones((4, 2)), jnp.ones((4, 0)))
    """
    leaves, structure = jax.tree.flatten(tree)
    shapes = [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
    if all(jnp.size(leaf) for leaf in leaves):
        return _ravel_pytree(tree)
    vector, unravel_full = _ravel_pytree([leaf for leaf in leaves if jnp.size(leaf)])

    def unravel(vector: Vector) -> PyTree:
        full = iter(unravel_full(vector))
        made = [jnp.zeros(shape, dtype) if 0 in shape else next(full) for shape, dtype in shapes]
        return jax.tree.unflatten(structure, made)

    return vector, unravel
