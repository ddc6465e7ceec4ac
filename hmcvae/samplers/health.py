"""What is looked at before and after a run, and the one warning that says what was seen."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from hmcvae._checks import is_concrete
from hmcvae.integrators.scales import NUM_ROUNDINGS
from hmcvae.samplers import effective
from hmcvae.samplers.draws import Samples, SamplingWarning, path_name
from hmcvae.types import PyTree

# Below so many draws, or transitions, a chain that never moved may have been unlucky, and R̂ is noise.
FEWEST_TO_BE_STUCK, FEWEST_FOR_RHAT = 20, 100
# The share of failures, and R̂ of the halves of the chains, above which a run is warned about.
MOST_FAILED, HIGHEST_RHAT = 0.05, 1.1
# Effective draws, over all chains, below which a run of 1,000 draws is warned about, and the fraction of missing
# information (Betancourt 2016): where all that is said of a run is in doubt.
FEWEST_EFFECTIVE, FEWEST_FOR_EFFECTIVE, LOWEST_E_BFMI = 40, 1000, 0.2
# Roundings of a position that the check of the way back allows: see `integrators.implicit`.
NUM_ALLOWED = 4 * NUM_ROUNDINGS
# The rounding of positions, in standard deviations, that a way back is allowed and that is too much to be passed over.
MOST_ROUNDING = 5e-3
# R̂ is computed for runs of at most so many numbers: a few milliseconds.
MOST_NUMBERS = 2_000_000
# And of their ranks, which find chains that differ in scale alone, of so many.
MOST_RANKED = 200_000


def check_finite(name: str, values: PyTree) -> None:
    """Raise ValueError for chains where a value is not finite; traced values pass unseen."""
    for leaf in jax.tree.leaves(values):
        if not is_concrete(leaf) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        finite = np.isfinite(np.asarray(leaf).astype(np.float64)).reshape(leaf.shape[0], -1).all(axis=1)
        if not finite.all():
            raise ValueError(f"the {name} must be finite, it is not in chains {list_of(~finite)}")


def warn_of_rounding(logdensity: Any) -> None:
    """Warn where the log density at the starts is so large that its rounding error decides about acceptance."""
    if logdensity is None or not is_concrete(logdensity):
        return
    dtype = jnp.result_type(logdensity)
    values = np.abs(np.asarray(logdensity).astype(np.float64))
    error = float(jnp.finfo(dtype).eps) * float(np.max(values, initial=0.0))
    if error > 1:
        wider = "" if dtype == jnp.float64 else "compute in float64 (jax_enable_x64, float64 positions), or "
        warnings.warn(
            f"the log density is {np.max(values):.3g} in size at the start and is rounded to {error:.2g} in {dtype}: "
            f"differences that decide about acceptance are lost. {wider[:1].upper()}{wider[1:]}"
            f"{'s' if wider else 'S'}ubtract a constant inside the density, term by term before they are summed",
            SamplingWarning,
            stacklevel=3,
        )


def warn_of_trouble(samples: Samples, num_warmup: int, target: Any) -> None:
    """One warning with all that is wrong with a run, as far as it can be seen from its records; none when traced."""
    if not is_concrete(samples):
        return
    # A density that says nothing first: all else may be what comes of it (and need not: in a box it is right).
    found = [*_of_constant_density(samples), *_of_warmup(samples, num_warmup, target)]
    found += [*_of_transitions(samples), *_of_draws(samples), *_of_energies(samples), *_of_positions(samples)]
    if found:
        warnings.warn("; ".join(found), SamplingWarning, stacklevel=3)


def _of_warmup(samples: Samples, num_warmup: int, target: Any) -> list[str]:
    found = samples.adaptation
    if num_warmup >= FEWEST_TO_BE_STUCK and found.has_moved is not None and not bool(found.has_moved):
        return [
            f"no chain moved in a warm-up of {num_warmup} transitions, so nothing was learned of step size and mass: "
            "start elsewhere (samplers.find_start), or look whether log density and gradient are finite and right "
            "around the starts"
        ]
    if found.is_adapted is None or bool(found.is_adapted):
        return []
    # Of a vector of step sizes, the geometric mean.
    step_size = float(np.exp(np.mean(np.log(np.asarray(found.step_size, np.float64)))))
    return [
        f"warm-up of {num_warmup} transitions has not brought the acceptance to its target of {float(target):g}, and "
        f"left the step size at {step_size:.3g}: make num_warmup larger (hundreds)"
    ]


def _of_transitions(samples: Samples) -> list[str]:
    counts, found = samples.counts, []
    total = int(counts.num_transitions)
    if int(counts.num_divergent):
        found.append(
            f"{int(counts.num_divergent)} of {total} transitions diverged: draws there are missing; make the step size "
            "smaller, or the target acceptance higher; a parameter that ends at a boundary needs a transform "
            "(hmcvae.transforms)"
        )
    if int(counts.num_unconverged) > MOST_FAILED * total:
        found.append(
            f"{int(counts.num_unconverged)} of {total} transitions had implicit solves that failed, and were rejected: "
            "make the step size smaller, or take another solver; if that does not help, look whether the metric is "
            "positive definite wherever the chains go"
        )
    if int(counts.num_irreversible) > MOST_FAILED * total:
        found.append(
            f"{int(counts.num_irreversible)} of {total} trajectories could not be retraced, and were rejected: "
            "make the step size smaller, or the solver's tolerance; if that does not help, look whether the metric is "
            "symmetric wherever the chains go"
        )
    if int(counts.num_max_depth) > MOST_FAILED * total:
        found.append(
            f"{int(counts.num_max_depth)} of {total} trees were cut off at their largest depth: chains go less far "
            "than they should; adapt the mass (num_warmup, adapt_mass), or make max_depth larger"
        )
    return found


def _of_draws(samples: Samples) -> list[str]:
    full = nonempty(samples.position)
    if not full:
        return []
    num_draws = full[0].shape[1]
    if lost := _not_finite(samples):
        return lost
    if num_draws >= FEWEST_TO_BE_STUCK:
        stuck = _never_moved(samples)
        if stuck.any():
            return [
                f"chains {list_of(stuck)} never moved in {num_draws} draws: make the step size smaller, or start "
                "elsewhere"
            ]
    size = sum(leaf.size for leaf in full)
    if num_draws < FEWEST_FOR_RHAT or full[0].shape[0] < 2 or size > MOST_NUMBERS:
        return []
    draws = flat_draws(samples.position)
    largest, total = float(np.max(split_rhat(draws))), draws.shape[0] * num_draws
    if largest <= HIGHEST_RHAT and total >= FEWEST_FOR_EFFECTIVE and size <= MOST_RANKED:
        largest = float(np.max(effective.rhat(draws)))  # sees scales, too, and heavy tails
    if largest > HIGHEST_RHAT:
        return [
            f"the chains do not agree, R̂ = {largest:.2f}: draw longer, and see hmcvae.diagnose; if draws run away, "
            "look whether the log density has the right sign and falls off in every direction"
        ]
    smallest = float(np.min(effective.ess_mean(draws), initial=np.inf))
    if total >= FEWEST_FOR_EFFECTIVE and smallest < FEWEST_EFFECTIVE:
        return [
            f"of {total} draws the worst coordinate's are worth {smallest:.0f} independent ones: draw longer, or adapt "
            "the mass (num_warmup, adapt_mass); see hmcvae.diagnose"
        ]
    return []


def _of_constant_density(samples: Samples) -> list[str]:
    values = [np.asarray(leaf[:, :: 1 + leaf.size // MOST_NUMBERS]) for leaf in nonempty(samples.logdensity)]
    if not values or samples.shape[1] < FEWEST_TO_BE_STUCK or _never_moved(samples).any():
        return []
    if np.all(values[0] == values[0].flat[0]):
        return [
            f"the log density is {values[0].flat[0]:g} at every draw: look whether it depends on the position"
        ]
    return []


def _not_finite(samples: Samples) -> list[str]:
    """Chains never go to such positions: it is what `record` makes of them."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(samples.position):
        some = np.asarray(leaf[:, :: 1 + leaf.size // MOST_NUMBERS])
        if some.dtype.kind in "biu":
            continue
        wide = some if some.dtype.kind == "c" else some.astype(np.float64)
        count = int(np.sum(~np.isfinite(wide).all(axis=tuple(range(2, some.ndim)))))
        if count:
            return [
                f"{path_name(path)} is infinite or NaN in {count} of {some.shape[0] * some.shape[1]} draws, and of "
                "such coordinates no mean, R̂ or number of effective draws can be had: look at what record makes of "
                "the states"
            ]
    return []


def is_thinned(samples: Samples) -> bool:
    """Whether transitions lie between the draws that were kept."""
    return int(samples.counts.num_transitions) > int(np.prod(samples.shape[:2]))


def _of_energies(samples: Samples) -> list[str]:
    energy = getattr(samples.info, "energy", None)
    if energy is None or np.shape(energy)[1] < FEWEST_FOR_RHAT or is_thinned(samples):
        return []
    fractions = effective.e_bfmi(np.asarray(energy).astype(np.float64))
    low = (fractions < LOWEST_E_BFMI) & ~_never_moved(samples)
    if not low.any():
        return []
    return [
        f"energies change little from draw to draw in chains {list_of(low)} (E-BFMI {np.nanmin(fractions):.2f}): tails "
        "are explored slowly; write the model in other coordinates, such as non-centred ones, or give it a metric that "
        "depends on the position"
    ]


def _of_positions(samples: Samples) -> list[str]:
    """Implicit solves, and the check of the way back, go no further than the rounding of positions."""
    iterations = getattr(getattr(samples.info, "solver", None), "num_iterations", None)
    if iterations is None or not np.any(np.asarray(iterations)):
        return []
    for leaf in nonempty(samples.position):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        every = 1 + leaf.size // MOST_NUMBERS
        draws = np.asarray(leaf[:, ::every]).astype(np.float64)
        deviation = draws.std(axis=(0, 1))
        rounding = NUM_ALLOWED * float(jnp.finfo(leaf.dtype).eps) * np.abs(draws).max(axis=(0, 1))
        share = float(np.max(np.where(deviation > 0, rounding / np.where(deviation > 0, deviation, 1), 0)))
        if share > MOST_ROUNDING:
            return [
                f"positions lie so far from 0 that {leaf.dtype} knows them to {share:.2g} standard deviations, and "
                "solves and the check of the way back are no finer: sample the difference from a point nearby, or in "
                "float64"
            ]
    return []


def _never_moved(samples: Samples) -> Bool[np.ndarray, " chain"]:
    # In NumPy: of what JAX does outside `jit`, each operation is a program to be compiled.
    accepted = getattr(samples.info, "is_accepted", None)
    ever = None if accepted is None else np.any(np.asarray(accepted), axis=1)
    moved = []
    for leaf in nonempty((samples.position, samples.logdensity)):
        every = 1 + leaf.size // MOST_NUMBERS
        some = np.asarray(leaf if every == 1 else leaf[:, ::every])  # of draws that may not fit the memory
        moved.append(np.any(some != some[:, :1], axis=tuple(range(1, leaf.ndim))))
    if not moved:
        return ~ever if ever is not None else np.zeros(samples.shape[0], bool)
    same = ~np.any(np.stack(moved), axis=0)
    # A chain may accept trajectories of no steps, and of thinned draws the transitions between are not known; of a
    # chain that stands still while others move the draws are one value, and none of its kept transitions accepted.
    return same if ever is None or ever.all() else same & ~ever


def nonempty(tree: PyTree) -> list:
    """The arrays that hold something."""
    return [leaf for leaf in jax.tree.leaves(tree) if leaf.size]


def flat_draws(position: PyTree) -> Float[np.ndarray, "chain draw d"]:
    """All the numbers of each draw side by side, in float64."""
    leaves = [np.asarray(leaf).astype(np.float64) for leaf in jax.tree.leaves(position)]
    flat = [leaf.reshape(*leaf.shape[:2], int(np.prod(leaf.shape[2:]))) for leaf in leaves]
    return np.concatenate(flat, axis=-1)


def split_rhat(draws: Float[np.ndarray, "chain draw d"]) -> Float[np.ndarray, " d"]:
    """R̂ of the half chains (Gelman et al. 2013, section 11.4), 1 where nothing varies: quick, for a warning."""
    return effective.plain_rhat(effective.split(draws))


def list_of(flags: Any) -> str:
    """The numbers of the chains that are flagged, the first ten of them."""
    numbers = np.flatnonzero(flags).tolist()
    return (
        str(numbers)
        if len(numbers) <= 10
        else f"{numbers[:10]} and {len(numbers) - 10} more".replace("]", ", …]")
    )
