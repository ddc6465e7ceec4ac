"""The table of solvers and integrators: its densities, its rows, and that they tell a solver that fails from one that
does not."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.samplers import solvers as compare_solvers
from experiments.samplers.solvers import SolversConfig
from hmcvae import solvers


def test_densities_are_what_the_page_says(data_dir):
    """A start in the bulk, a gradient like a finite difference, a metric that is definite there; and their number."""
    found = list(compare_solvers.cases(SolversConfig(data_dir=data_dir)))
    names = [case.target.name for case in found]
    assert names == ["banana", "funnel, d = 2", "funnel, d = 10", "decoder", "ripley", "heart"]
    for case in found:
        target, start = case.target, jnp.asarray(case.target.start)
        value, gradient = jax.value_and_grad(target.logdensity_fn)(start)
        step = 1e-6 * jax.random.normal(jax.random.key(0), start.shape)
        change = target.logdensity_fn(start + step) - target.logdensity_fn(start - step)
        np.testing.assert_allclose(change, 2 * gradient @ step, rtol=1e-4, atol=1e-9)
        assert np.isfinite(value)
        assert np.linalg.eigvalsh(target.metric.tensor(start)).min() > 0


@pytest.mark.slow
def test_the_table_tells_failures_apart_and_is_made_from_its_json(tmp_path, monkeypatch):
    """One iteration is never enough, and twenty of Newton's nearly always are."""
    chosen = {"one iteration": solvers.fixed_point(max_iterations=1), "Newton": solvers.newton()}
    monkeypatch.setattr(compare_solvers, "SOLVERS", chosen)
    monkeypatch.setattr(
        compare_solvers,
        "INTEGRATORS",
        {"generalized leapfrog": compare_solvers.INTEGRATORS["generalized leapfrog"]},
    )
    banana = next(compare_solvers.cases(SolversConfig()))
    monkeypatch.setattr(compare_solvers, "cases", lambda _: [banana])
    config = SolversConfig(num_starts=40, num_burn_in=10, results=tmp_path)
    compare_solvers.run_all(config, "a command")
    report = json.loads((tmp_path / "compare_solvers.json").read_text())
    rows = {(row["solver"], row["step_size"]): row for row in report["rows"]}
    assert set(rows) == {(name, size) for name in chosen for size in banana.step_sizes}
    for (name, size), row in rows.items():
        shares = [row[key] for key in ("unconverged", "irreversible", "divergent", "accepted")]
        assert min(shares) >= 0
        assert max(shares) <= 1
        assert row["microseconds_per_step"] > 0
        if name == "one iteration":
            assert (row["unconverged"], row["accepted"]) == (1.0, 0.0)
        else:
            assert row["unconverged"] < (0.2 if size < 0.1 else 0.6)
            assert row["accepted"] > 0.2
    text = (tmp_path / "compare_solvers.md").read_text()
    assert text == compare_solvers.markdown(report)
    assert len([line for line in text.splitlines() if line.startswith("| banana")]) == len(rows)
