"""The hand-over to ArviZ, before its version 1 and since."""

from typing import Any

import jax
import numpy as np

from hmcvae.samplers.draws import Samples, path_name
from hmcvae.samplers.health import is_thinned


def _import_arviz() -> Any:
    try:
        import arviz
    except ImportError as error:
        raise ImportError("this needs ArviZ: pip install -e '.[arviz]', or pip install arviz") from error
    return arviz


def _from_groups(groups: dict) -> Any:
    """ArviZ's data; since ArviZ 1 it takes the groups as one dictionary."""
    arviz = _import_arviz()
    is_old = int(str(arviz.__version__).partition(".")[0]) < 1
    return arviz.from_dict(**groups) if is_old else arviz.from_dict(groups)


def to_arviz(samples: Any) -> Any:
    """The draws as ArviZ data: groups `posterior` (one variable for each leaf of the position, named by its
    path, or "position") and `sample_stats` in ArviZ's vocabulary, with our own failure flags beside it. Of thinned
    draws the energies are left out: ArviZ's E-BFMI would take them for those of successive transitions.

    Needs the package `arviz`, of any version.

    Raises:
        ValueError: for what are no samples, and for names of which ArviZ would drop a variable: two leaves of one name,
            or a leaf with the name of one of its axes.
    """
    if not hasattr(samples, "position"):
        raise ValueError(
            f"samples must be those of hmcvae.sample, got {type(samples).__name__}; of draws in other coordinates: "
            "samples._replace(position=…)"
        )
    leaves = jax.tree_util.tree_leaves_with_path(samples.position)
    _check_names([(path_name(path), np.ndim(leaf)) for path, leaf in leaves])
    posterior = {path_name(path): np.asarray(leaf) for path, leaf in leaves}
    info, solver = samples.info, getattr(samples.info, "solver", None)
    found = {
        "lp": samples.logdensity,
        "diverging": getattr(info, "is_divergent", None),
        "acceptance_rate": getattr(info, "acceptance_rate", None),
        "energy": None if is_thinned(samples) else getattr(info, "energy", None),
        "energy_error": getattr(info, "energy_error", None),
        "n_steps": getattr(info, "num_integration_steps", None),
        "max_energy_error": getattr(info, "max_energy_error", None),
        "tree_depth": getattr(info, "tree_depth", None),
        "reached_max_treedepth": getattr(info, "reached_max_depth", None),
        "step_size": _step_sizes(samples),
        "is_accepted": getattr(info, "is_accepted", None),
        "is_reversible": getattr(info, "is_reversible", None),
        "solver_converged": getattr(solver, "converged", None),
    }
    statistics = {name: np.asarray(value) for name, value in found.items() if value is not None}
    return _from_groups({"posterior": posterior, "sample_stats": statistics})


def _step_sizes(samples: Samples) -> Any:
    """The step size of each draw: one number for all of a run; None for an algorithm that has none."""
    step_size = samples.adaptation.step_size
    if step_size is None or np.ndim(step_size):
        return None
    return np.full(samples.shape[:2], np.asarray(step_size))


def _check_names(variables: list[tuple[str, int]]) -> None:
    """Raise ValueError unless each (name, number of axes) has a name of its own, which is no axis's."""
    names = [name for name, _ in variables]
    axes = {"chain", "draw"} | {f"{name}_dim_{axis}" for name, ndim in variables for axis in range(ndim - 2)}
    twice = {name for name in names if names.count(name) > 1}
    bad = sorted(twice | (set(names) & axes))
    if bad:
        raise ValueError(
            f"ArviZ cannot keep the variables {bad}: a name must be one leaf's alone, and no axis's "
            f"(chain, draw, <name>_dim_<k>). Rename them: samples._replace(position={{…}})"
        )
