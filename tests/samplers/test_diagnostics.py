"""Diagnostics against draws whose worth is known."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae.samplers import diagnostics, effective
from hmcvae.samplers.draws import Adaptation, Samples, TransitionCounts


def samples_of(draws: np.ndarray, info: object = None) -> Samples:
    counts = TransitionCounts(
        *(jnp.asarray(value) for value in (draws.shape[0] * draws.shape[1], 0.75, 1, 2, 3, 4))
    )
    return Samples(jnp.asarray(draws), None, info, counts, Adaptation(None, None, counts))


def autoregressive(rng: np.random.Generator, phi: float, num_draws: int, d: int) -> np.ndarray:
    """Four chains of x' = φ x + √(1 - φ²) e."""
    noise, draws = rng.standard_normal((4, num_draws, d)), np.zeros((4, num_draws, d))
    draws[:, 0] = noise[:, 0]
    for index in range(1, num_draws):
        draws[:, index] = phi * draws[:, index - 1] + np.sqrt(1 - phi**2) * noise[:, index]
    return draws


@pytest.mark.parametrize("phi", [0.0, 0.8, -0.8])
def test_effective_sample_sizes_of_autoregressive_chains(phi):
    """For x the factor is (1 - φ) / (1 + φ), for x² it is (1 - φ²) / (1 + φ²)."""
    found = hmcvae.diagnose(samples_of(autoregressive(np.random.default_rng(0), phi, 5000, 3)))
    count = 20_000
    # ArviZ caps the size of antithetic chains at n log10 n.
    expected = min(count * (1 - phi) / (1 + phi), count * np.log10(count))
    np.testing.assert_allclose(found.ess_mean, expected, rtol=0.15)
    np.testing.assert_allclose(found.ess_square, count * (1 - phi**2) / (1 + phi**2), rtol=0.15)
    assert np.all(found.rhat < 1.01)


def test_chains_that_stand_apart_are_seen():
    draws = np.random.default_rng(1).standard_normal((4, 500, 1)) + 3.0 * np.arange(4)[:, None, None]
    found = hmcvae.diagnose(samples_of(draws))
    assert found.rhat[0] > 1.5
    assert found.ess_bulk[0] < 20


def test_energy_fraction_of_independent_and_of_sticky_energies():
    rng = np.random.default_rng(2)
    energies = np.stack([rng.standard_normal(10_000), np.cumsum(0.01 * rng.standard_normal(10_000))])
    independent, sticky = diagnostics.e_bfmi(energies)
    assert abs(independent - 2) < 0.1
    assert sticky < 0.05


def stuck_samples(draws: np.ndarray) -> Samples:
    """With the energies of a chain that stands still: potential plus those of fresh momenta."""

    class Info(NamedTuple):
        energy: np.ndarray

    energy = np.random.default_rng(9).chisquare(3, draws.shape[:2])
    return samples_of(draws, Info(energy))


class TestStuck:
    """Constant draws are worth nothing, whoever else moved."""

    def test_a_run_that_never_moved(self):
        found = hmcvae.diagnose(stuck_samples(np.ones((4, 1000, 2))), seconds=2.0)
        for name in ("ess_bulk", "ess_tail", "ess_mean", "ess_square"):
            np.testing.assert_array_equal(getattr(found, name), 0.0)
        assert np.isnan(found.rhat).all()
        assert np.isnan(found.e_bfmi).all()
        assert found.ess_per_second == 0
        assert found.is_stuck.all()
        assert "chains [0, 1, 2, 3] never moved" in str(found)

    def test_by_a_sampler_itself(self):
        algorithm = hmcvae.hmc(lambda z: -0.5 * jnp.sum(z**2), 1e4, 3)
        with pytest.warns(hmcvae.SamplingWarning, match="never moved"):
            samples = hmcvae.sample(jax.random.key(0), algorithm, jnp.ones((4, 2)), num_samples=1000)
        found = hmcvae.diagnose(samples, 1.0)
        assert found.ess_bulk.max() == found.ess_per_second == 0
        assert np.isnan(found.e_bfmi).all()

    def test_chains_that_stand_apart(self):
        draws = np.broadcast_to(np.arange(4.0)[:, None, None], (4, 100, 1))
        found = hmcvae.diagnose(stuck_samples(draws))
        assert np.isposinf(found.rhat).all()
        assert found.ess_bulk.max() == 0

    def test_one_chain_among_others_adds_nothing(self):
        draws = np.random.default_rng(5).standard_normal((4, 1000, 3))
        alone = hmcvae.diagnose(stuck_samples(draws[:3]))
        draws[3] = draws[0, 0]  # at a typical place, where R̂ by its formula sees little
        found = hmcvae.diagnose(stuck_samples(draws))
        for name in ("ess_bulk", "ess_tail", "ess_mean", "ess_square"):
            np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
        assert np.isposinf(found.rhat).all()
        np.testing.assert_array_equal(np.isnan(found.e_bfmi), [False, False, False, True])
        assert "chains [3] never moved" in str(found)

    def test_one_coordinate(self):
        draws = np.random.default_rng(6).standard_normal((4, 500, 3))
        draws[..., 1] = 0.25
        draws[2, :, 2] = 0.25
        found = hmcvae.diagnose(stuck_samples(draws), 1.0)
        assert found.ess_bulk[0] > 1000
        assert found.ess_bulk[1] == 0
        assert 500 < found.ess_bulk[2] < 2500
        assert np.isfinite(found.rhat[0])
        assert np.isnan(found.rhat[1])
        assert np.isposinf(found.rhat[2])
        assert np.isfinite(found.e_bfmi).all()
        assert "coordinates position[1], position[2] never moved in some of the chains that did" in str(found)
        assert found.ess_per_second == 0

    def test_squares_that_never_change(self):
        """A chain that jumps between z and -z has one value of z²: nothing is known of its spread."""
        found = hmcvae.diagnose(stuck_samples(np.sign(np.random.default_rng(4).standard_normal((4, 200, 1)))))
        assert found.ess_square == 0
        assert found.ess_mean > 300
        assert not found.is_stuck.any()

    def test_a_single_chain(self):
        found = hmcvae.diagnose(stuck_samples(np.ones((1, 100, 1))))
        assert found.ess_bulk == 0
        assert np.isnan(found.rhat)


class TestNotFinite:
    """What is infinite or NaN once is no sign of convergence."""

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("num_chains", [1, 4])
    def test_its_figures_are_nan_and_the_others_stay(self, value, num_chains):
        draws = np.random.default_rng(8).standard_normal((num_chains, 100, 3))
        whole = hmcvae.diagnose(stuck_samples(draws))
        draws[0, 50, 1] = value
        found = hmcvae.diagnose(stuck_samples(draws))
        for name in ("rhat", "ess_bulk", "ess_tail", "ess_mean", "ess_square"):
            figures = getattr(found, name)
            np.testing.assert_array_equal(np.isnan(figures), [False, True, False])
            np.testing.assert_array_equal(figures[[0, 2]], getattr(whole, name)[[0, 2]])
        assert "position[1]" in str(found)

    @pytest.mark.parametrize("name", ["rhat", "ess_bulk", "ess_tail", "ess_mean"])
    def test_as_arviz_has_it(self, name):
        draws = np.random.default_rng(8).standard_normal((4, 100, 1))
        draws[2, 3] = np.nan
        assert np.isnan(getattr(effective, name)(draws)).all()

    def test_all_of_a_chain(self):
        draws = np.random.default_rng(8).standard_normal((4, 100, 1))
        draws[2] = np.inf
        found = hmcvae.diagnose(stuck_samples(draws))
        assert np.isnan(found.rhat).all()
        assert np.isnan(found.ess_bulk).all()


class TestThinned:
    """E-BFMI is a figure of successive transitions: of every tenth it would be that of another, better chain."""

    def test_no_fraction_is_claimed(self):
        draws = np.random.default_rng(8).standard_normal((4, 100, 1))
        samples = stuck_samples(draws)
        counts = samples.counts._replace(num_transitions=jnp.asarray(400))
        assert np.isfinite(hmcvae.diagnose(samples._replace(counts=counts)).e_bfmi).all()
        counts = counts._replace(num_transitions=jnp.asarray(4000))
        assert np.isnan(hmcvae.diagnose(samples._replace(counts=counts)).e_bfmi).all()

    def test_by_a_sampler_itself(self):
        algorithm = hmcvae.hmc(lambda z: -0.5 * jnp.sum(z**2), 0.7, 2)
        samples = hmcvae.sample(jax.random.key(0), algorithm, jnp.ones((4, 2)), num_samples=50, thin=3)
        assert np.isnan(hmcvae.diagnose(samples).e_bfmi).all()
        assert "not known" in str(hmcvae.diagnose(samples))


def test_one_chain_is_split_once():
    """Its halves are compared, as those of many chains are, and as in a run of the two halves: not its quarters."""
    draws = np.random.default_rng(2).standard_normal((1, 400, 2)).cumsum(axis=1)
    np.testing.assert_allclose(hmcvae.diagnose(stuck_samples(draws)).rhat, effective.rhat(draws))


def test_seconds_and_sizes_are_checked():
    samples = samples_of(np.random.default_rng(3).standard_normal((2, 100, 2)))
    for seconds in (0.0, -1.0, np.inf, True, None, "1"):
        with pytest.raises(ValueError, match="seconds"):
            hmcvae.diagnose(samples, seconds)
    assert hmcvae.diagnose(samples, np.float32(2)).seconds == 2
    with pytest.raises(ValueError, match="one number"):
        hmcvae.diagnose(samples_of(np.zeros((2, 100, 0))))


def test_failures_are_counted_apart_and_shown():
    found = hmcvae.diagnose(samples_of(np.random.default_rng(3).standard_normal((2, 100, 2))), seconds=2.0)
    assert (found.num_divergent, found.num_unconverged, found.num_irreversible) == (1, 2, 3)
    assert found.num_max_depth == 4
    assert np.isnan(found.e_bfmi).all()
    assert found.ess_per_second == pytest.approx(found.ess_bulk.min() / 2)
    assert "1 divergent, 2 unconverged, 3 irreversible" in str(found)
    assert "4 trees were cut off" in str(found)
    assert "2 s, " in str(found)


def test_a_run_of_hmc_on_a_pytree_can_be_diagnosed():
    algorithm = hmcvae.hmc(
        lambda z: -0.5 * (z["a"] ** 2 + jnp.sum(z["b"] ** 2)), 0.7, hmcvae.uniform_steps(1, 4)
    )
    starts = {"a": jnp.zeros(4), "b": jnp.zeros((4, 2))}
    found = hmcvae.diagnose(hmcvae.sample(jax.random.key(0), algorithm, starts, num_samples=500))
    assert found.ess_bulk.shape == (3,)
    assert np.all(found.ess_square > 200)
    assert np.all(found.e_bfmi > 0.3)
    assert np.isnan(found.ess_per_second)


def test_too_few_draws_are_refused():
    with pytest.raises(ValueError, match="at least 8 draws of each chain, got 3"):
        hmcvae.diagnose(samples_of(np.zeros((2, 3, 1))))


def test_a_single_chain_is_compared_with_itself():
    drifting = np.linspace(0, 3, 400)[None, :, None] + np.random.default_rng(4).standard_normal((1, 400, 1))
    assert hmcvae.diagnose(samples_of(drifting)).rhat[0] > 1.1


METHODS = {"bulk": effective.ess_bulk, "tail": effective.ess_tail, "mean": effective.ess_mean}


class TestEffective:
    """Against ArviZ, one coordinate after the other, to rounding."""

    @pytest.mark.parametrize("num_draws", [8, 9, 10, 11, 12, 51, 200])
    @pytest.mark.parametrize("num_chains", [1, 4])
    def test_all_figures_are_arvizs(self, num_chains, num_draws):
        arviz = pytest.importorskip("arviz")
        rng = np.random.default_rng(num_draws)
        waves = [autoregressive(rng, phi, num_draws, 1)[:num_chains] for phi in (-0.9, 0.0, 0.5, 0.97)]
        apart = waves[1] + 2.0 * np.arange(num_chains)[:, None, None]
        draws = np.concatenate([*waves, apart, np.exp(3 * waves[2]), np.round(waves[1])], axis=2)
        for index in range(draws.shape[2]):
            own = draws[..., index]
            for method, function in METHODS.items():
                prob = {"prob": (0.05, 0.95)} if method == "tail" else {}
                expected = float(arviz.ess(own, method=method, **prob))
                np.testing.assert_allclose(function(draws)[index], expected, rtol=1e-9)
            if num_chains > 1:
                np.testing.assert_allclose(
                    effective.rhat(draws)[index], float(arviz.rhat(own, method="rank")), rtol=1e-9
                )

    def test_many_coordinates_are_taken_in_parts(self, monkeypatch):
        draws = np.random.default_rng(11).standard_normal((2, 40, 7))
        whole = [function(draws) for function in (*METHODS.values(), effective.rhat)]
        monkeypatch.setattr(effective, "CHUNK", 2 * 40 * 3)
        parts = [function(draws) for function in (*METHODS.values(), effective.rhat)]
        np.testing.assert_array_equal(whole, parts)


class TestWords:
    def run(self):
        rng = np.random.default_rng(12)
        position = {"mu": rng.standard_normal((4, 50)), "theta": rng.standard_normal((4, 50, 2, 3))}
        position["theta"][..., 1, 2] = np.cumsum(position["theta"][..., 1, 2], axis=1)
        return samples_of(np.zeros((4, 50)))._replace(position=position)

    def test_the_worst_coordinates_are_named(self):
        found = hmcvae.diagnose(self.run())
        assert found.names[:3] == ("mu", "theta[0, 0]", "theta[0, 1]")
        assert len(found.names) == len(found.rhat) == 7
        lines = {line.split()[0]: line for line in str(found).split("\n")[1:]}
        for name in ("rhat", "ess_bulk", "ess_mean"):
            assert lines[name].endswith("theta[1, 2]")

    def test_samples_print_as_a_short_table(self):
        samples = self.run()
        lines = str(samples).split("\n")
        assert lines[0].split() == ["mean", "sd", "5%", "95%", "ess_bulk", "ess_tail", "rhat"]
        mean, deviation = (float(cell) for cell in lines[1].split()[1:3])
        np.testing.assert_allclose(mean, samples.position["mu"].mean(), rtol=1e-3)
        np.testing.assert_allclose(deviation, samples.position["mu"].std(), rtol=1e-3)
        assert [line.split("  ")[0] for line in lines[1:4]] == ["mu", "theta[0, 0]", "theta[0, 1]"]
        assert lines[-1].startswith("4 chains of 50 draws, acceptance 0.750; 1 divergent, 2 failed solves")
        assert len(lines) == 9
        assert repr(samples) == "Samples(position={'mu': 'float64[4, 50]', 'theta': 'float64[4, 50, 2, 3]'})"

    def test_large_and_odd_positions_print_too(self):
        large = str(samples_of(np.random.default_rng(13).standard_normal((2, 10, 4096))))
        assert "… and 4084 more" in large
        assert len(large.split("\n")) == 15
        assert "ess" not in str(samples_of(np.zeros((2, 3, 1))))
        assert "nan" in str(samples_of(np.zeros((2, 20, 1))))
        traced = []
        jax.jit(lambda draws: traced.append(str(samples_of(np.zeros((2, 9)))._replace(position=draws))))(
            jnp.zeros((2, 9))
        )
        assert traced == ["Samples(position=float64[2, 9])"]
