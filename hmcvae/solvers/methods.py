"""The solvers: fixed-point iteration, Newton's method, and the one that goes over to the other."""

from dataclasses import dataclass

from jax import lax

from hmcvae._checks import check_count, check_flag, check_positive
from hmcvae.solvers.base import MapFn, SolverInfo
from hmcvae.solvers.derivatives import dense_tangent, iterate_tangent, solve_implicitly, switch_tangent
from hmcvae.solvers.iteration import (
    Limit,
    Outcome,
    begin_loop,
    iterate,
    iterate_or_newton,
    make_limit,
    newton_map,
    outcome_of,
    repeat,
    report,
)
from hmcvae.types import ArrayLike, Vector


def fixed_point(
    tolerance: float | None = None,
    max_iterations: int = 100,
    *,
    num_iterations: int | None = None,
    accelerate: bool = True,
    differentiate: str | None = None,
) -> "FixedPoint":
    """Iterate x ← g(x).

    Args:
        tolerance: of the last correction, relative to the scale; None: eps^{3/4} of the dtype (6e-6 in float32,
            2e-12 in float64). What is left after that correction is smaller by the rate of contraction.
        max_iterations: after so many the solve has failed.
        num_iterations: make exactly so many instead (no loop to wait for); the report still says whether the tolerance
            was met.
        accelerate: Anderson mixing of depth one (Anderson 1965; Walker & Ni 2011), which costs two inner products; off
            for a fixed count.
        differentiate: "implicit", the derivative of the solution, which is right as far as the solve is converged; or
            "unrolled", that of the iterations, which needs num_iterations. None: unrolled where there is a
            num_iterations, implicit elsewhere.

    Raises:
        ValueError: for a tolerance that is not positive, a count below 1, or "unrolled" without a count.
    """
    check_positive("tolerance", tolerance, optional=True)
    max_iterations = check_count("max_iterations", max_iterations, 1)
    if num_iterations is not None:
        num_iterations = check_count("num_iterations", num_iterations, 1)
    if differentiate not in (None, "implicit", "unrolled"):
        raise ValueError(f'differentiate must be None, "implicit" or "unrolled", got {differentiate!r}')
    if differentiate == "unrolled" and num_iterations is None:
        raise ValueError(
            "unrolled derivatives need num_iterations: a loop of unknown length has no reverse mode"
        )
    is_implicit = num_iterations is None if differentiate is None else differentiate == "implicit"
    accelerate = check_flag("accelerate", accelerate)
    return FixedPoint(tolerance, max_iterations, num_iterations, accelerate, is_implicit)


def newton(tolerance: float | None = None, max_iterations: int = 20) -> "Newton":
    """Newton's method on x - g(x) = 0, with the dense Jacobian by d forward derivatives; implicit derivatives.

    For equations whose iteration contracts slowly or not at all, in few dimensions.

    Raises:
        ValueError: for a tolerance that is not positive, or a count below 1.
    """
    check_positive("tolerance", tolerance, optional=True)
    max_iterations = check_count("max_iterations", max_iterations, 1)
    return Newton(tolerance, max_iterations)


def switching(
    tolerance: float | None = None, max_iterations: int = 100, *, max_newton_iterations: int = 20
) -> "Switching":
    """`fixed_point`, which goes over to Newton's method where it does not contract.

    After three iterations the mean rate at which the corrections have shrunk tells how many more are to be expected.
    Where these would cost more than a few Newton iterations, of d derivatives each, or the corrections grow, the solve
    begins again as `newton`. Where the iteration contracts, the outcome and the cost are those of `fixed_point`: the
    Newton loop is not entered. Under `vmap` all lanes wait while any one is in it.

    Raises:
        ValueError: for a tolerance that is not positive, or a count below 1.
    """
    check_positive("tolerance", tolerance, optional=True)
    max_iterations = check_count("max_iterations", max_iterations, 1)
    return Switching(
        tolerance, max_iterations, check_count("max_newton_iterations", max_newton_iterations, 1)
    )


@dataclass(frozen=True)
class FixedPoint:
    """See `fixed_point`."""

    tolerance: float | None = None
    max_iterations: int = 100
    num_iterations: int | None = None
    accelerate: bool = True
    is_implicit: bool = True

    def __call__(
        self, map_fn: MapFn, start: Vector, scale: ArrayLike = 1.0, floor: ArrayLike = 0.0
    ) -> tuple[Vector, SolverInfo]:
        limit = make_limit(self.tolerance, start, scale, floor)
        if self.num_iterations is not None and not self.is_implicit:
            end, outcome = repeat(map_fn, start, limit, self.num_iterations)
            return end, report(lax.stop_gradient(outcome), limit)

        def solve(map_fn: MapFn, start: Vector, limit: Limit) -> tuple[Vector, Outcome]:
            if self.num_iterations is not None:
                return repeat(map_fn, start, limit, self.num_iterations)
            return outcome_of(iterate(map_fn, begin_loop(start), limit, self.max_iterations, self.accelerate))

        return solve_implicitly(map_fn, start, limit, solve, iterate_tangent)


@dataclass(frozen=True)
class Newton:
    """See `newton`."""

    tolerance: float | None = None
    max_iterations: int = 20

    def __call__(
        self, map_fn: MapFn, start: Vector, scale: ArrayLike = 1.0, floor: ArrayLike = 0.0
    ) -> tuple[Vector, SolverInfo]:
        limit = make_limit(self.tolerance, start, scale, floor)

        def solve(map_fn: MapFn, start: Vector, limit: Limit) -> tuple[Vector, Outcome]:
            loop = iterate(newton_map(map_fn), begin_loop(start), limit, self.max_iterations, False)
            return outcome_of(loop)

        return solve_implicitly(map_fn, start, limit, solve, dense_tangent)


@dataclass(frozen=True)
class Switching:
    """See `switching`."""

    tolerance: float | None = None
    max_iterations: int = 100
    max_newton_iterations: int = 20

    def __call__(
        self, map_fn: MapFn, start: Vector, scale: ArrayLike = 1.0, floor: ArrayLike = 0.0
    ) -> tuple[Vector, SolverInfo]:
        limit = make_limit(self.tolerance, start, scale, floor)

        def solve(map_fn: MapFn, start: Vector, limit: Limit) -> tuple[Vector, Outcome]:
            return iterate_or_newton(map_fn, start, limit, self.max_iterations, self.max_newton_iterations)

        return solve_implicitly(map_fn, start, limit, solve, switch_tangent)


# What implicit integrators use unless told otherwise.
DEFAULT = switching()
