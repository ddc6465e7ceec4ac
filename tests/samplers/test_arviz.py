"""The hand-over to ArviZ: names, groups, and both of its forms; run with ArviZ 0.23 and with 1."""

import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae.samplers.draws import Adaptation, Samples, TransitionCounts

arviz = pytest.importorskip("arviz")


def samples_of(draws: np.ndarray) -> Samples:
    counts = TransitionCounts(
        *(jnp.asarray(value) for value in (draws.shape[0] * draws.shape[1], 0.75, 1, 2, 3, 4))
    )
    return Samples(jnp.asarray(draws), None, None, counts, Adaptation(None, None, counts))


def test_of_thinned_draws_there_are_no_energies():
    """ArviZ would take them for those of successive transitions."""
    algorithm = hmcvae.hmc(lambda z: -0.5 * jnp.sum(z**2), 0.7, 2)
    for thin in (1, 3):
        samples = hmcvae.sample(jax.random.key(0), algorithm, jnp.ones((2, 2)), num_samples=10, thin=thin)
        statistics = hmcvae.to_arviz(samples).sample_stats
        assert ("energy" in statistics) == (thin == 1)
        assert "diverging" in statistics


class TestNames:
    DRAWS = np.random.default_rng(7).standard_normal((2, 20, 3))

    @pytest.mark.parametrize(
        ("position", "named"),
        [
            ({"chain": DRAWS}, "chain"),
            ({"a": DRAWS, "draw": DRAWS[..., 0]}, "draw"),
            ({"x": DRAWS, "x_dim_0": DRAWS[..., 0]}, "x_dim_0"),
            ({"a.b": DRAWS, "a": {"b": DRAWS}}, "a.b"),
        ],
    )
    def test_a_variable_that_would_be_dropped_is_refused(self, position, named):
        samples = samples_of(self.DRAWS)._replace(position=position)
        with pytest.raises(ValueError, match=rf"cannot keep the variables \['{named}'\]"):
            hmcvae.to_arviz(samples)

    @pytest.mark.parametrize("what", [{"a": DRAWS}, DRAWS, None, "draws"])
    def test_what_are_no_samples(self, what):
        with pytest.raises(ValueError, match=f"must be those of hmcvae.sample, got {type(what).__name__}"):
            hmcvae.to_arviz(what)

    def test_names_that_only_look_alike_are_kept(self):
        position = {
            "x": self.DRAWS,
            "x_dim_1": self.DRAWS[..., 0],
            "chains": self.DRAWS,
            "a": {"b": self.DRAWS},
        }
        data = hmcvae.to_arviz(samples_of(self.DRAWS)._replace(position=position))
        assert set(data.posterior.data_vars) == {"x", "x_dim_1", "chains", "a.b"}
        assert data.posterior["x_dim_1"].shape == (2, 20)


class TestBothForms:
    """Before version 1 ArviZ takes the groups as keywords and gives InferenceData; since then it takes one dictionary
    and gives a DataTree."""

    @pytest.mark.parametrize("version", ["0.23.4", "1.3.0"])
    def test_from_dict_is_called_as_it_wants(self, monkeypatch, version):
        seen = []

        def old(*, posterior, sample_stats):
            seen.extend([posterior, sample_stats])

        def new(data, *, name=None):
            old(**data)

        class Module(types.ModuleType):
            def __getattr__(self, name):
                if name == "InferenceData":  # there since version 1, too, as a warning
                    warnings.warn("no longer available", FutureWarning, stacklevel=2)
                    return dict
                raise AttributeError(name)

        module = Module("arviz")
        module.__version__, module.from_dict = version, new if version[0] == "1" else old
        monkeypatch.setitem(sys.modules, "arviz", module)
        hmcvae.to_arviz(samples_of(np.random.default_rng(8).standard_normal((4, 100, 2))))
        assert set(seen[0]) == {"position"}

    def test_what_is_installed_reads_the_draws(self):
        """Groups, dimensions and statistics, with whichever ArviZ is there."""
        algorithm = hmcvae.nuts(lambda z: -0.5 * jnp.sum(z["a"] ** 2), 0.5)
        starts = {"a": jnp.ones((2, 3))}
        samples = hmcvae.sample(jax.random.key(0), algorithm, starts, num_samples=20)
        data = hmcvae.to_arviz(samples)
        posterior, stats = data["posterior"], data["sample_stats"]
        assert dict(posterior.sizes)["chain"] == 2
        assert posterior["a"].shape == (2, 20, 3)
        names = {"diverging", "energy", "lp", "tree_depth", "acceptance_rate", "step_size", "n_steps"}
        assert names <= set(stats.data_vars)
        np.testing.assert_array_equal(posterior["a"].values, samples.position["a"])
        np.testing.assert_allclose(
            np.asarray(arviz.ess(data, method="bulk")["a"]), hmcvae.diagnose(samples).ess_bulk
        )
