"""The published pages and tables, what makes them, and all that they claim."""

from collections.abc import Callable

from experiments.benchmarks.bounds import tables as bench_bounds
from experiments.benchmarks.convolutions import run as bench_convolutions
from experiments.benchmarks.first_call import tables as bench_first_call
from experiments.benchmarks.integrators import tables as bench_integrators
from experiments.benchmarks.masses import tables as bench_masses
from experiments.benchmarks.nuts import tables as bench_nuts
from experiments.benchmarks.riemannian import tables as bench_riemannian
from experiments.benchmarks.scaling import tables as bench_scaling
from experiments.benchmarks.softness import tables as bench_softness
from experiments.benchmarks.training import tables as bench_training
from experiments.claims import geometry, not_derived, published, samplers, seconds, speed, study
from experiments.claims.check import PAGE, README, Claim
from experiments.comparison import table as compare_table
from experiments.published import table as published_table
from experiments.samplers import comparison as compare_samplers
from experiments.samplers import logistic as logistic_regression
from experiments.samplers import solvers as compare_solvers
from experiments.samplers.geometry import tables as where_geometry_wins
from experiments.study import tables as study_tables


def _results_section(text: str) -> str:
    return text.split("\n## Results\n")[1].split("\n## ")[0]


# Each page, and what of it must come from somewhere.
PAGES: dict[str, Callable[[str], str]] = {
    README: _results_section,
    PAGE: lambda text: text,
    **dict.fromkeys((geometry.FIELDS, geometry.WHICH), lambda _: ""),  # their tables have far more figures
}

STUDIES = ("mnist_study", "mnist_study_full", "mnist_position", "mnist_hierarchical")
COMPARISONS = (
    "mnist_bounds",
    "mnist_long",
    "mnist_seconds",
    "mnist_seconds_300",
    "mnist_seconds_600",
    "fashion_seconds",
)
PUBLISHED = (
    "published_burda_hour",
    "published_burda_long",
    "published_burda_longer",
    "published_burda_static",
    "published_burda_static_from",
    "published_burda_equal",
    "published_vlae_equal",
    "published_uha_long",
    "published_cifar10_equal",
)
# What makes each table from its JSON.
TABLES: dict[str, Callable[[dict], str]] = {
    "bench_bounds": bench_bounds.markdown,
    "bench_convolutions": bench_convolutions.markdown,
    "bench_first_call": bench_first_call.markdown,
    "bench_integrators": bench_integrators.markdown,
    "bench_masses": bench_masses.markdown,
    "bench_nuts": bench_nuts.markdown,
    "bench_riemannian": bench_riemannian.markdown,
    "bench_scaling": bench_scaling.markdown,
    "bench_softness": bench_softness.markdown,
    "bench_training": bench_training.markdown,
    "compare_samplers": compare_samplers.markdown,
    "compare_solvers": compare_solvers.markdown,
    "logistic_regression": logistic_regression.markdown,
    "where_geometry_wins": where_geometry_wins.markdown,
    **dict.fromkeys(PUBLISHED, published_table.markdown),
    **dict.fromkeys(STUDIES, study_tables.markdown),
    **dict.fromkeys(COMPARISONS, compare_table.markdown),
}
# What makes each block of a page, by its name there.
BLOCKS: dict[str, Callable[[dict], str]] = {
    "bounds_table": compare_table.short_table,
    "published_short": published_table.short_table,
    "bounds_prose": compare_table.prose,
}


def claims() -> list[Claim]:
    """All of them."""
    parts = (study, seconds, speed, samplers, geometry, published, not_derived)
    return [claim for part in parts for claim in part.claims()]
