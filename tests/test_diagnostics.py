"""Diagnostics against draws whose worth is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae import diagnostics
from hmcvae.sampling import Adaptation, Samples, Tally

arviz = pytest.importorskip("arviz")


def samples_of(draws: np.ndarray, info: object = None) -> Samples:
    tally = Tally(*(jnp.asarray(value) for value in (draws.shape[0] * draws.shape[1], 0.75, 1, 2, 3)))
    return Samples(jnp.asarray(draws), None, info, tally, Adaptation(None, None, tally))


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


def test_failures_are_counted_apart_and_shown():
    found = hmcvae.diagnose(samples_of(np.random.default_rng(3).standard_normal((2, 100, 2))), seconds=2.0)
    assert (found.num_divergent, found.num_unconverged, found.num_irreversible) == (1, 2, 3)
    assert np.isnan(found.e_bfmi).all()
    assert found.ess_per_second == pytest.approx(found.ess_bulk.min() / 2)
    assert "1 divergent, 2 unconverged, 3 irreversible" in str(found)
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
