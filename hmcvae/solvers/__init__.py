"""Solvers of the implicit equations x = g(x) inside an integrator step, what they report, and their derivatives.

A solver is called as `solver(map_fn, start, scale, floor) -> (x, SolverInfo)`. It stops when the last correction of
every coordinate is small,

    |g(x) - x|_i ≤ tolerance · scale_i + floor_i + 4 eps |g(x)_i|,

with `scale` the size of what is solved for and `floor` what rounding inside g leaves, both given by the caller, as
numbers or per coordinate, so that neither a shift of the problem nor other units of a coordinate change the outcome.
The last term is the rounding of x itself: a tolerance below it could never be met, and under `vmap` every lane would
wait.

Derivatives of a solve to tolerance are implicit: at the solution dx = (I - ∂g)⁻¹ dg, from one more linear solve, so the
memory does not depend on how many iterations there were. Those of a fixed count of iterations
are of the iterations themselves, unless asked otherwise.
"""

from hmcvae.solvers.base import MapFn, Solver, SolverInfo, collect_info, combine_info, exact_info
from hmcvae.solvers.methods import DEFAULT, FixedPoint, Newton, Switching, fixed_point, newton, switching

__all__ = [
    "DEFAULT",
    "FixedPoint",
    "MapFn",
    "Newton",
    "Solver",
    "SolverInfo",
    "Switching",
    "collect_info",
    "combine_info",
    "exact_info",
    "fixed_point",
    "newton",
    "switching",
]
