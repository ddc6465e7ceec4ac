"""The trees of the no-U-turn sampler: trajectories doubled until they turn back, and a point drawn from each.

Iterative, with the memory of a few points for each level (`turning.Memory`). Chains that are vmapped build their
trees in step (`_lockstep`): all that still grow are at the same point of the same doubling, so the counters of the
loops, and with them the rows of that memory, are shared, and the loops end with the longest tree.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, UInt32

from hmcvae._random import uniform_at
from hmcvae._sharding import vary_as
from hmcvae.integrators import IntegratorState
from hmcvae.samplers.turning import Point, Span, empty_memory, has_turned, remember, turns
from hmcvae.solvers import SolverInfo, combine_info, exact_info
from hmcvae.types import Scalar, Vector

# How a tree stands: it grows; or what ended it.
GROWS, TURNED, DIVERGED, IRREVERSIBLE, UNCONVERGED = range(5)
# What the numbers drawn from one seed are for.
_FOR_LEAVES, _FOR_DOUBLINGS = range(2)


class Leaf(NamedTuple):
    """What one integrator step comes to.

    state: the point.  velocity: v♯ = G(z)⁻¹ v.  energy: H.  is_sound: whether position and gradient are finite.
    solver: of its implicit solves; None where there are none.  way_back: (error, is it reversible) of the step taken
        back; None where it is not.
    """

    state: IntegratorState
    velocity: Vector
    energy: Scalar
    is_sound: Bool[Array, ""]
    solver: SolverInfo | None
    way_back: tuple[Scalar, Bool[Array, ""]] | None


class Candidate(NamedTuple):
    """A point that the chain may move to.  error: its ΔH."""

    position: Vector
    logdensity: Scalar
    logdensity_grad: Vector
    geometry: Any
    error: Scalar


class Tally(NamedTuple):
    """Over the steps of a transition.  acceptance: Σ min(1, exp(-ΔH)).  num_steps: of them.  max_error: max ΔH."""

    acceptance: Scalar
    num_steps: Int[Array, ""]
    max_error: Scalar
    solver: SolverInfo | None
    reversibility_error: Scalar | None


class End(NamedTuple):
    """Of a trajectory."""

    state: IntegratorState
    velocity: Vector


class Tree(NamedTuple):
    """A trajectory.

    past, future: its ends.  rho: Σ v.  candidate: drawn from its points.  log_weight: log Σ exp(-ΔH) of them.
    has_moved: whether the candidate is another point than the start.  depth: doublings so far.  number: uniform, that
    draws between it and the next branch.
    """

    past: End
    future: End
    rho: Vector
    candidate: Candidate
    log_weight: Scalar
    has_moved: Bool[Array, ""]
    depth: Int[Array, ""]
    status: Int[Array, ""]
    tally: Tally
    number: Scalar


class Branch(NamedTuple):
    """The other half of a tree, while it is being built: its last point; the rest as for a tree, whose tally goes
    on.

    error: ΔH of the last point.  is_drawn: whether the candidate moves there, which the next step does.  number: for
    the draw of the next point. All three are passed from step to step because XLA, left to itself, puts what a draw
    needs, random number and all, anew into the kernel of each array of the candidate, for each of its entries.
    """

    end: End
    rho: Vector
    candidate: Candidate
    log_weight: Scalar
    status: Int[Array, ""]
    tally: Tally
    error: Scalar
    is_drawn: Bool[Array, ""]
    number: Scalar

    def drawn(self) -> Candidate:
        """The candidate, moved."""
        return _select(self.is_drawn, _candidate(self.end.state, self.error), self.candidate)


class Lane(NamedTuple):
    """What the tree of one chain is made from.

    start: the point that it grows from.  energy: H there.  directions: bit j says which way doubling j goes.
    seed: of the other random numbers.
    """

    start: End
    energy: Scalar
    directions: UInt32[Array, ""]
    seed: UInt32[Array, " 2"]

    def goes_ahead(self, depth: Int[Array, ""]) -> Bool[Array, ""]:
        return (self.directions >> depth.astype(jnp.uint32)) & 1 == 1


class Growth(NamedTuple):
    """How trees grow.

    leap: `(shared, state, sign) -> Leaf`, a step ahead or back, or none at sign 0.  solves, checks: whether its leaves
    have a report of solves, and of the way back.  max_depth: doublings at most.  threshold: ΔH above which a point is
    divergent.
    """

    leap: Callable
    solves: bool
    checks: bool
    max_depth: int
    threshold: Any

    def plant(self, lane: Lane) -> Tree:
        """The tree of one point."""
        state, dtype = lane.start.state, lane.energy.dtype
        zero, count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        solver, error = exact_info(dtype) if self.solves else None, zero if self.checks else None
        tally = Tally(zero, count, jnp.full((), -jnp.inf, dtype), solver, error)
        candidate = _candidate(state, zero)
        no = jnp.asarray(False)
        number = uniform_at(lane.seed, _FOR_DOUBLINGS, count, dtype)
        status, start = count + GROWS, lane.start
        return Tree(start, start, state.momentum, candidate, zero, no, count, status, tally, number)

    def sprout(self, tree: Tree, lane: Lane, depth: Int[Array, ""]) -> Branch:
        """The branch of the next doubling, before its first point."""
        end, dtype = _select(lane.goes_ahead(depth), tree.future, tree.past), lane.energy.dtype
        nothing, zero, no = jnp.full((), -jnp.inf, dtype), jnp.zeros((), dtype), jnp.asarray(False)
        number = uniform_at(lane.seed, _FOR_LEAVES, 1 << depth, dtype)
        return Branch(
            end, jnp.zeros_like(tree.rho), tree.candidate, nothing, tree.status, tree.tally, zero, no, number
        )

    def extend(
        self, shared: Any, branch: Branch, lane: Lane, depth: Int[Array, ""], index: Int[Array, ""]
    ) -> Branch:
        """The branch with one point more."""
        grew, dtype = branch.status == GROWS, lane.energy.dtype
        # A tree that has ended takes steps of size 0, whose equations are solved at once.
        sign = jnp.where(grew, jnp.where(lane.goes_ahead(depth), 1, -1), 0).astype(dtype)
        leaf = self.leap(shared, branch.end.state, sign)
        error = leaf.energy - lane.energy
        status = jnp.where(grew, self.judge(leaf, error), branch.status)
        grows = status == GROWS
        log_weight = jnp.where(grows, jnp.logaddexp(branch.log_weight, -error), branch.log_weight)
        is_drawn = grows & (branch.number < jnp.exp(-error - log_weight))
        number = uniform_at(lane.seed, _FOR_LEAVES, (1 << depth) + index + 1, dtype)
        tally = _select(grew, _count(branch.tally, leaf, error, grows), branch.tally)
        end = _select(grows, End(leaf.state, leaf.velocity), branch.end)
        rho = branch.rho + end.state.momentum
        return Branch(end, rho, branch.drawn(), log_weight, status, tally, error, is_drawn, number)

    def judge(self, leaf: Leaf, error: Scalar) -> Int[Array, ""]:
        """Whether a point ends the tree, and by what: the first of the three failures."""
        fits = leaf.is_sound & jnp.isfinite(error) & (error <= self.threshold)
        status = GROWS if leaf.way_back is None else jnp.where(leaf.way_back[1], GROWS, IRREVERSIBLE)
        status = jnp.where(fits, status, DIVERGED)
        status = status if leaf.solver is None else jnp.where(leaf.solver.converged, status, UNCONVERGED)
        return status.astype(jnp.int32)

    def graft(self, tree: Tree, branch: Branch, first: Point, lane: Lane, depth: Int[Array, ""]) -> Tree:
        """The tree after a doubling: with its new branch, that begins with `first`, if it is whole, and as it was if
        not."""
        ahead, is_whole = lane.goes_ahead(depth), branch.status == GROWS
        near, far = _select(ahead, tree.future, tree.past), _select(ahead, tree.past, tree.future)
        old, new = Span(_point(far), _point(near), tree.rho), Span(first, _point(branch.end), branch.rho)
        # Biased progressive sampling: the newer half is preferred.
        is_drawn = is_whole & (tree.number < jnp.exp(jnp.minimum(branch.log_weight - tree.log_weight, 0)))
        total = jnp.logaddexp(tree.log_weight, branch.log_weight)
        return Tree(
            past=_select(is_whole & ~ahead, branch.end, tree.past),
            future=_select(is_whole & ahead, branch.end, tree.future),
            rho=jnp.where(is_whole, tree.rho + new.rho, tree.rho),
            candidate=_select(is_drawn, branch.drawn(), tree.candidate),
            log_weight=jnp.where(is_whole, total, tree.log_weight),
            has_moved=tree.has_moved | is_drawn,
            depth=tree.depth + is_whole.astype(jnp.int32),
            status=jnp.where(is_whole & turns(old, new), TURNED, branch.status),
            tally=branch.tally,
            number=uniform_at(lane.seed, _FOR_DOUBLINGS, depth + 1, lane.energy.dtype),
        )


def _candidate(state: IntegratorState, error: Scalar) -> Candidate:
    return Candidate(state.position, state.logdensity, state.logdensity_grad, state.geometry, error)


def _point(end: End) -> Point:
    return Point(end.state.momentum, end.velocity)


def _select(which: Bool[Array, ""], yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), yes, no)


def _combine(function: Callable, so_far: Any, new: Any) -> Any:
    """Of what both have, or neither."""
    return None if so_far is None else function(so_far, new)


def _count(tally: Tally, leaf: Leaf, error: Scalar, is_valid: Bool[Array, ""]) -> Tally:
    return Tally(
        tally.acceptance + jnp.where(is_valid, jnp.exp(jnp.minimum(-error, 0)), 0),
        tally.num_steps + 1,
        jnp.maximum(tally.max_error, error),  # entry by entry: keeps NaN
        _combine(combine_info, tally.solver, leaf.solver),
        _combine(jnp.maximum, tally.reversibility_error, leaf.way_back and leaf.way_back[0]),
    )


def grow(growth: Growth, shared: Any, lanes: Lane, axes: Any) -> Tree:
    """The whole tree of one chain (axes None), or of many; `axes` are then those of the arrays that they share."""

    def over(function: Callable, *in_axes: Any) -> Callable:
        return function if axes is None else jax.vmap(function, in_axes)

    zero = jnp.zeros((), jnp.int32)
    # Inside `shard_map` what the loops carry must vary over the same axes from the start.
    trees = vary_as(over(growth.plant, 0)(lanes), shared, lanes)
    memory = vary_as(empty_memory(growth.max_depth, lanes.start.velocity), trees)

    def double(carry: tuple) -> tuple:
        depth, trees, memory = carry

        def extend(inner: tuple) -> tuple:
            index, branches, memory = inner
            before = branches.rho
            branches = over(growth.extend, axes, 0, 0, None, None)(shared, branches, lanes, depth, index)
            memory = remember(memory, _point(branches.end), before, index)
            turned = has_turned(memory, _point(branches.end), branches.rho, index, over)
            ended = (branches.status == GROWS) & turned
            return index + 1, branches._replace(status=jnp.where(ended, TURNED, branches.status)), memory

        branches = vary_as(over(growth.sprout, 0, 0, None)(trees, lanes, depth), trees)
        _, branches, memory = lax.while_loop(
            lambda inner: (inner[0] < (1 << depth)) & (inner[1].status == GROWS).any(),
            extend,
            (zero, branches, memory),
        )
        first = jax.tree.map(lambda rows: rows[0], memory.begins)
        return depth + 1, over(growth.graft, 0, 0, 0, 0, None)(trees, branches, first, lanes, depth), memory

    return lax.while_loop(
        lambda carry: (carry[0] < growth.max_depth) & (carry[1].status == GROWS).any(),
        double,
        (zero, trees, memory),
    )[1]
