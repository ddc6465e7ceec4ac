"""The trees of the no-U-turn sampler: trajectories doubled until they turn back, and a point drawn from them.

Iterative, with the memory of one sub-tree for each level (`turning.add_point`). Chains that are vmapped build their trees
in step: all that still grow are at the same point of the same doubling, so the counters of the loops, and with them the
rows of the stacks, are shared by all (`_lockstep`), and the loops run as long as the longest tree.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from hmcvae.integrators import IntegratorState
from hmcvae.samplers.turning import Span, add_point, pack, point, turns, unpack
from hmcvae.solvers import SolverInfo, combine_info, exact_info
from hmcvae.types import PRNGKey, Scalar, Vector


class Leaf(NamedTuple):
    """What one integrator step comes to.

    state: the point.  velocity: G(z)⁻¹ v.  energy: H.  is_sound: whether all its numbers are finite.
    solver: of its implicit solves.  reversibility_error, is_reversible: of the step taken back.
    """

    state: IntegratorState
    velocity: Vector
    energy: Scalar
    is_sound: Bool[Array, ""]
    solver: SolverInfo
    reversibility_error: Scalar
    is_reversible: Bool[Array, ""]


class Candidate(NamedTuple):
    """A point that may be moved to, among those with its momenta summed out: position, density, gradient, geometry.

    error: ΔH.  log_weight: log Σ exp(-ΔH) of the points that it was drawn from.
    """

    position: Vector
    logdensity: Scalar
    logdensity_grad: Vector
    geometry: Any
    error: Scalar
    log_weight: Scalar


class Tally(NamedTuple):
    """What the steps of a transition came to.

    acceptance: Σ min(1, exp(-ΔH)).  num_steps: points made.  max_error: max ΔH.
    is_turning, is_divergent, is_reversible: how the last of them ended the tree; solver.converged False likewise.
    """

    acceptance: Scalar
    num_steps: Int[Array, ""]
    max_error: Scalar
    is_turning: Bool[Array, ""]
    is_divergent: Bool[Array, ""]
    solver: SolverInfo
    reversibility_error: Scalar
    is_reversible: Bool[Array, ""]


class Branch(NamedTuple):
    """A sub-tree that is being built: its last point, the candidate of its points, whether it grows, and the tally."""

    state: IntegratorState
    velocity: Vector
    candidate: Candidate
    grows: Bool[Array, ""]
    tally: Tally


class End(NamedTuple):
    state: IntegratorState
    velocity: Vector


class Tree(NamedTuple):
    """A trajectory.  past, future: its ends.  rho: Σ v.  depth: doublings so far.  has_moved: whether the candidate is
    another point than the start."""

    past: End
    future: End
    rho: Vector
    candidate: Candidate
    has_moved: Bool[Array, ""]
    depth: Int[Array, ""]
    grows: Bool[Array, ""]
    tally: Tally


class Randomness(NamedTuple):
    """directions: bit j says whether doubling j goes to the future.  joins: uniform numbers, one a doubling.
    key: of the leaves."""

    directions: UInt32[Array, ""]
    joins: Float[Array, " depth"]
    key: PRNGKey


def draw_randomness(rng_key: PRNGKey, max_depth: int, dtype: Any) -> Randomness:
    key_directions, key_joins, key_leaves = jax.random.split(rng_key, 3)
    joins = jax.random.uniform(key_joins, (max_depth,), dtype)
    return Randomness(jax.random.bits(key_directions, (), jnp.uint32), joins, key_leaves)


def select(which: Any, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), yes, no)


class Lane(NamedTuple):
    """What a chain's tree is made from.  start: the point that it grows from, with its energy."""

    start: IntegratorState
    velocity: Vector
    energy: Scalar
    randomness: Randomness


class Growth(NamedTuple):
    """leap: (shared, state, step size) -> Leaf.  threshold: ΔH above which a point is divergent."""

    leap: Callable
    max_depth: int
    threshold: Any

    def plant(self, lane: Lane) -> Tree:
        z, dtype = lane.start, lane.start.position.dtype
        zero, yes, no = jnp.zeros((), dtype), jnp.asarray(True), jnp.asarray(False)
        count = jnp.zeros((), jnp.int32)
        candidate = Candidate(z.position, z.logdensity, z.logdensity_grad, z.geometry, zero, zero)
        end = End(z, lane.velocity)
        tally = Tally(zero, count, zero - jnp.inf, no, no, exact_info(dtype), zero, yes)
        return Tree(end, end, z.momentum, candidate, no, count, yes, tally)

    def sprout(self, tree: Tree, lane: Lane, depth: Int[Array, ""]) -> Branch:
        """The sub-tree of the next doubling, before its first point."""
        state, velocity = select(_goes_ahead(lane, depth), tree.future, tree.past)
        empty = tree.candidate._replace(log_weight=jnp.full_like(tree.candidate.log_weight, -jnp.inf))
        return Branch(state, velocity, empty, tree.grows, tree.tally)

    def extend(
        self, shared: Any, branch: Branch, lane: Lane, depth: Int[Array, ""], index: Int[Array, ""]
    ) -> tuple[Branch, Array]:
        """One point more, and the span of it."""
        ahead = _goes_ahead(lane, depth)
        # A tree that has ended stands still, at no cost of solves.
        sign = jnp.where(branch.grows, jnp.where(ahead, 1.0, -1.0), 0.0).astype(lane.velocity.dtype)
        leaf = self.leap(shared, branch.state, sign)
        error = leaf.energy - lane.energy
        fits = leaf.is_sound & jnp.isfinite(error) & (error <= self.threshold)
        is_valid = leaf.solver.converged & leaf.is_reversible & fits
        grows = branch.grows & is_valid
        rate = jnp.where(is_valid, jnp.exp(jnp.minimum(-error, 0)), 0)
        log_weight = jnp.where(
            grows, jnp.logaddexp(branch.candidate.log_weight, -error), branch.candidate.log_weight
        )
        number = jax.random.uniform(
            jax.random.fold_in(lane.randomness.key, (1 << depth) + index), (), error.dtype
        )
        takes = grows & (number < jnp.exp(-error - log_weight))
        z = leaf.state
        new = Candidate(z.position, z.logdensity, z.logdensity_grad, z.geometry, error, log_weight)
        candidate = select(takes, new, branch.candidate)._replace(log_weight=log_weight)
        old = branch.tally
        diverges = leaf.solver.converged & ~fits
        tally = Tally(
            old.acceptance + jnp.where(branch.grows, rate, 0),
            old.num_steps + branch.grows.astype(jnp.int32),
            jnp.where(branch.grows, jnp.maximum(old.max_error, error), old.max_error),
            old.is_turning,
            old.is_divergent | (branch.grows & diverges),
            select(branch.grows, combine_info(old.solver, leaf.solver), old.solver),
            jnp.where(
                branch.grows,
                jnp.maximum(old.reversibility_error, leaf.reversibility_error),
                old.reversibility_error,
            ),
            old.is_reversible & (leaf.is_reversible | ~branch.grows | ~leaf.solver.converged | diverges),
        )
        state, velocity = select(grows, End(leaf.state, leaf.velocity), End(branch.state, branch.velocity))
        return Branch(state, velocity, candidate, grows, tally), pack(point(state.momentum, velocity))

    def graft(self, tree: Tree, branch: Branch, rows: Array, lane: Lane, depth: Int[Array, ""]) -> Tree:
        """The tree with a sub-tree that is complete."""
        ahead = _goes_ahead(lane, depth)
        near, far = select(ahead, tree.future, tree.past), select(ahead, tree.past, tree.future)
        old = Span((far.state.momentum, far.velocity), (near.state.momentum, near.velocity), tree.rho)
        new = unpack(rows)
        turned = turns(old, new)
        grown = branch.grows
        ratio = branch.candidate.log_weight - tree.candidate.log_weight
        number = lax.dynamic_index_in_dim(lane.randomness.joins, depth, keepdims=False)
        moves = grown & (number < jnp.exp(jnp.minimum(ratio, 0)))
        log_weight = jnp.logaddexp(tree.candidate.log_weight, branch.candidate.log_weight)
        log_weight = jnp.where(grown, log_weight, tree.candidate.log_weight)
        candidate = select(moves, branch.candidate, tree.candidate)._replace(log_weight=log_weight)
        end = End(branch.state, branch.velocity)
        tally = branch.tally
        return Tree(
            past=select(grown & ~ahead, end, tree.past),
            future=select(grown & ahead, end, tree.future),
            rho=jnp.where(grown, tree.rho + new.rho, tree.rho),
            candidate=candidate,
            has_moved=tree.has_moved | moves,
            depth=tree.depth + grown.astype(jnp.int32),
            grows=grown & ~turned,
            tally=tally._replace(is_turning=tally.is_turning | (grown & turned)),
        )


def _goes_ahead(lane: Lane, depth: Int[Array, ""]) -> Bool[Array, ""]:
    return (lane.randomness.directions >> depth.astype(jnp.uint32)) & 1 == 1


def grow(growth: Growth, shared: Any, lanes: Lane, axes: Any) -> Tree:
    """The whole tree of one chain (axes None), or the trees of many; `axes` are then those of what they share."""

    def over(function: Callable, *in_axes: Any) -> Callable:
        return function if axes is None else jax.vmap(function, in_axes)

    def per_lane(function: Callable) -> Callable:
        return function if axes is None else jax.vmap(function)

    max_depth = growth.max_depth
    trees = per_lane(growth.plant)(lanes)
    stack = jnp.zeros(
        (max_depth, *per_lane(lambda v: jnp.stack([v] * 5))(lanes.velocity).shape), lanes.velocity.dtype
    )

    def double(carry: tuple) -> tuple:
        depth, trees, stack = carry
        branches = over(growth.sprout, 0, 0, None)(trees, lanes, depth)

        def extend(inner: tuple) -> tuple:
            index, branches, stack = inner
            branches, rows = over(growth.extend, axes, 0, 0, None, None)(
                shared, branches, lanes, depth, index
            )
            stack, turned = add_point(stack, rows, index, per_lane)
            turned = turned & branches.grows
            tally = branches.tally._replace(is_turning=branches.tally.is_turning | turned)
            return index + 1, branches._replace(grows=branches.grows & ~turned, tally=tally), stack

        _, branches, stack = lax.while_loop(
            lambda inner: (inner[0] < (1 << depth)) & jnp.any(inner[1].grows),
            extend,
            (jnp.zeros((), jnp.int32), branches, stack),
        )
        rows = lax.dynamic_index_in_dim(stack, depth, keepdims=False)
        trees = over(growth.graft, 0, 0, 0, 0, None)(trees, branches, rows, lanes, depth)
        return depth + 1, trees, stack

    carry = lax.while_loop(
        lambda carry: (carry[0] < max_depth) & jnp.any(carry[1].grows),
        double,
        (jnp.zeros((), jnp.int32), trees, stack),
    )
    return carry[1]
