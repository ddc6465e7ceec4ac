"""The benchmark of first calls: what it counts as compilation, the same run of both, and the page and picture."""

from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.first_call.config import Config, smaller
from experiments.benchmarks.first_call.contestants import SAMPLERS, Call, density, starts
from experiments.benchmarks.first_call.figures import draw
from experiments.benchmarks.first_call.measure import in_processes, prepared
from experiments.benchmarks.first_call.rows import CHANGES, CallRow, rows_of
from experiments.benchmarks.first_call.tables import markdown
from experiments.support.machine import describe

SMALL = smaller(Config())


def test_compilation_is_counted_once():
    function = jax.jit(lambda x: jnp.sin(x) + 1)
    found = []
    for x in (1.0, 2.0, jnp.ones(3)):
        with prepared() as own:
            function(x)
        found.append(own)
    first, second, other = found
    assert sum(first.all_of_it) > sum(first.compiling) > 0
    assert second.all_of_it == []
    assert sum(other.compiling) > 0


def test_other_data_are_another_density_of_the_same_shape():
    start = starts(SMALL, 0)
    values = [jax.vmap(density(SMALL, data))(start) for data in (0, 1)]
    assert np.all(np.isfinite(values))
    assert np.all(np.abs(values[0] - values[1]) > 1)
    assert not np.array_equal(start, starts(SMALL, 1))


@pytest.mark.filterwarnings("ignore::hmcvae.SamplingWarning")
@pytest.mark.parametrize("make", SAMPLERS)
def test_a_call_draws_what_it_is_told(make):
    sampler = make("hmc", SMALL)
    algorithm = sampler.build(density(SMALL, 0))
    draws = sampler.run(algorithm, Call(0, 20, 5))
    assert draws.shape == (SMALL.num_chains, 5, SMALL.length + 3)
    assert np.all(np.isfinite(draws))
    assert np.all(np.std(draws, axis=1) > 0)


@pytest.mark.slow
def test_with_the_cache_on_disk_other_data_compile_nothing():
    """Nor does a new process. Without it both do: of BlackJAX's HMC, that one program."""
    cached, plain = (in_processes("BlackJAX", "hmc", SMALL, is_cached) for is_cached in (True, False))
    assert set(cached) == set(plain) == set(CHANGES)
    for change in ("data", "process"):
        assert plain[change][2] > 0
        assert cached[change][2] == 0
        assert cached[change][1] > 0  # tracing and loading
    assert cached["first"][2] > 0


def test_page_and_picture(tmp_path):
    rows = []
    for kind, factor in (("nuts", 1.0), ("hmc", 1.5)):
        for sampler, first in (("hmcvae", 10.0 * factor), ("BlackJAX", 12.0)):
            for is_cached in (False, True):
                for change in CHANGES:
                    is_slow = change == "first" or (not is_cached and change in ("data", "process"))
                    seconds = first if is_slow else 1.0
                    compiled = first - 1 if is_slow else 0.0
                    rows.append(CallRow(kind, sampler, is_cached, change, seconds, compiled + 0.5, compiled))
    report = {
        "rows": [row.to_json() for row in rows],
        "config": asdict(Config()),
        "command": "the command",
        "environment": describe("blackjax"),
    }
    assert rows_of(report) == rows
    page = markdown(report)
    assert (
        "NUTS: the first call expected to take at most BlackJAX's seconds, came 10.0 s against 12.0: met."
        in page
    )
    assert "at most BlackJAX's seconds, came 15.0 s against 12.0: **not met**." in page
    assert page.count("compiled anew for other data of the same shape: **not met**") == 2
    assert page.count("none compiled anew: met") == 2
    draw(report, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"rounds": 0}, "rounds must be"), ({"dtype": "float16"}, "dtype must be float32 or")],
)
def test_bad_settings_are_told_before_any_process(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)
