"""A run in a few lines."""

import jax
import numpy as np
from jaxtyping import Float

from hmcvae._checks import is_concrete
from hmcvae.samplers import effective
from hmcvae.samplers.diagnostics import effective_draws, rhat
from hmcvae.samplers.draws import Samples, coordinate_names
from hmcvae.samplers.health import nonempty
from hmcvae.types import PyTree

# Rows of the table, and draws of a chain from which on there are diagnostics: of fewer, they are noise.
MOST_ROWS, FEWEST_DRAWS = 12, 20


def summary(samples: Samples) -> str:
    """The mean, the standard deviation, the 5 % and 95 % quantiles, effective draws and R̂ of the coordinates (the
    first ones, where they are many), and the run's counts. For all of them, and what went wrong, see `diagnose`."""
    if not is_concrete((samples.position, samples.counts)):
        return repr(samples)
    num_chains, num_draws = samples.shape[:2]
    counts = samples.counts
    lines = _table(samples) if nonempty(samples.position) else []
    failures = {
        "divergent": counts.num_divergent,
        "failed solves": counts.num_unconverged,
        "irreversible": counts.num_irreversible,
        "cut off at max_depth": counts.num_max_depth,
    }
    bad = ", ".join(f"{int(count)} {what}" for what, count in failures.items() if int(count))
    lines.append(
        f"{num_chains} chains of {num_draws} draws, acceptance {float(counts.acceptance_rate):.3f}"
        + (f"; {bad}" if bad else "")
    )
    return "\n".join(lines)


def _table(samples: Samples) -> list[str]:
    names, draws = coordinate_names(samples.position), _first(samples.position, MOST_ROWS)
    columns = [draws.mean((0, 1)), draws.std((0, 1)), *np.quantile(draws, (0.05, 0.95), axis=(0, 1))]
    digits, titles = ["11.4g"] * 4, ["mean", "sd", "5%", "95%"]
    if draws.shape[1] >= FEWEST_DRAWS:
        columns += [effective_draws(own, draws) for own in (effective.ess_bulk, effective.ess_tail)]
        columns += [rhat(draws)]
        digits, titles = [*digits, "11.0f", "11.0f", "8.3f"], [*titles, "ess_bulk", "ess_tail", "rhat"]
    width = max([len(name) for name in names[:MOST_ROWS]] + [8])
    lines = [
        " " * width
        + "".join(f"{title:>{form.split('.')[0]}}" for title, form in zip(titles, digits, strict=True))
    ]
    for index, name in enumerate(names[:MOST_ROWS]):
        cells = "".join(f"{own[index]:{form}}" for own, form in zip(columns, digits, strict=True))
        lines.append(f"{name:<{width}}{cells}")
    if len(names) > MOST_ROWS:
        lines.append(f"… and {len(names) - MOST_ROWS} more")
    return lines


def _first(position: PyTree, count: int) -> Float[np.ndarray, "chain draw d"]:
    """The first numbers of each draw, without reading the others, which may be on disk."""
    found = []
    for leaf in jax.tree.leaves(position):
        flat = np.reshape(leaf, (*np.shape(leaf)[:2], -1))[..., :count]
        count -= flat.shape[2]
        found.append(np.asarray(flat).astype(np.float64))
    return np.concatenate(found, axis=-1)
