"""The whole warm-up: on targets whose scales are known, at every scale and length, and where it cannot adapt."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import metrics
from hmcvae.samplers import adaptation as adapt
from hmcvae.samplers import looks
from hmcvae.samplers.draws import SamplingWarning
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.lengths import uniform_steps
from hmcvae.samplers.sampling import sample

SPHERE = hmc(lambda z: -0.5 * jnp.sum(z**2), 0.1, uniform_steps(1, 8))
OPTIONS = {"num_samples": 200, "num_warmup": 600, "adapt_mass": None}
SCALES = np.array([1e-2, 0.3, 1.0, 10.0, 100.0])
ROTATION = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]


def tuned(logdensity, scales, adapt_mass, **options):
    start = jax.random.normal(jax.random.key(1), (16, 5)) * np.broadcast_to(scales, (16, 5))
    algorithm = hmc(logdensity, 0.1, uniform_steps(1, 8))
    return sample(
        jax.random.key(0), algorithm, start, num_samples=200, num_warmup=600, adapt_mass=adapt_mass, **options
    )


class TestWhole:
    def test_recovers_scales(self):
        samples = tuned(lambda z: -0.5 * jnp.sum((z / SCALES) ** 2), SCALES, "diagonal")
        metric = samples.adaptation.metric
        assert isinstance(metric, metrics.Diagonal)
        # The last window holds 350 × 16 draws: their variances have relative errors of a few per cent,
        # apart from Stan's shrinkage by 5 draws' worth of 10⁻³, negligible here.
        np.testing.assert_allclose(metric.mass * SCALES**2, 1.0, atol=0.2)
        assert abs(float(samples.counts.acceptance_rate) - 0.8) < 0.08
        assert 0.3 < float(samples.adaptation.step_size) < 2.0

    def test_recovers_covariance(self):
        covariance = ROTATION @ np.diag(np.array([0.05, 0.3, 1.0, 3.0, 10.0]) ** 2) @ ROTATION.T
        precision = np.linalg.inv(covariance)
        samples = tuned(lambda z: -0.5 * z @ precision @ z, 1.0, "dense")
        metric = samples.adaptation.metric
        assert isinstance(metric, metrics.Dense)
        whitened = np.linalg.eigvals(np.asarray(metric.tensor(jnp.zeros(5))) @ covariance)
        np.testing.assert_allclose(whitened, 1.0, atol=0.3)
        assert abs(float(samples.counts.acceptance_rate) - 0.8) < 0.08

    @pytest.mark.parametrize("target", [0.7, 0.95])
    def test_acceptance_near_target_with_the_metric_kept(self, target):
        starts = jax.random.normal(jax.random.key(1), (16, 5))
        samples = sample(jax.random.key(0), SPHERE, starts, target_acceptance=target, **OPTIONS)
        assert isinstance(samples.adaptation.metric, metrics.Identity)
        assert abs(float(samples.counts.acceptance_rate) - target) < 0.05

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    def test_from_a_hopeless_step_size(self, dtype):
        for step_size in (1e-6, 1e6):
            algorithm = SPHERE._replace(step_size=step_size)  # the kernel, and so its programs, stay the same
            samples = sample(jax.random.key(0), algorithm, jnp.ones((16, 5), dtype), **OPTIONS)
            assert 0.2 < float(samples.adaptation.step_size) < 4
            assert float(samples.counts.acceptance_rate) > 0.5
            dtypes = {leaf.dtype for leaf in jax.tree.leaves((samples.position, samples.adaptation[:2]))}
            assert dtypes == {jnp.dtype(dtype)}

    def test_restart_begins_dual_averaging_afresh(self):
        """On a kernel whose acceptance is exp(-ε) for a state that never moves."""

        class Info(NamedTuple):
            acceptance_rate: jax.Array

        class State(NamedTuple):
            position: jax.Array

        def kernel(rng_key, state, step_size, metric):
            return state, Info(jnp.exp(-step_size))

        learned = adapt.adaptation_init(1e-3, metrics.identity(), jnp.ones(2))
        states, keys = State(jnp.ones((3, 2))), jax.random.split(jax.random.key(0), 3)
        counts, centers = [], []
        for restarts in (True, False, False, True):
            flags = adapt.Schedule(jnp.asarray(True), jnp.asarray(False), jnp.asarray(restarts))
            (states, learned), _ = adapt.warmup_transition(kernel, keys, states, learned, flags)
            counts.append(int(learned.step_size.count))
            centers.append(float(jnp.exp(learned.step_size.log_center)) / 10)
        assert counts == [1, 2, 3, 1]
        np.testing.assert_allclose(centers[:3], 1.024)  # 1e-3 · 2¹⁰, the first beyond log 2
        assert centers[3] != centers[0]
        assert learned.moments.count == 12

    def test_without_sample(self):
        """The parts drive any kernel by hand."""
        algorithm = hmc(lambda z: -0.5 * jnp.sum(z**2) / 100, 0.1, 5)
        states = jax.vmap(algorithm.init)(jnp.ones((4, 3)))
        schedule = adapt.window_schedule(150)
        learned = adapt.adaptation_init(algorithm.step_size, algorithm.metric, jnp.ones(3))

        def body(carry, xs):
            key, flags = xs
            keys = jax.random.split(key, 4)
            return adapt.warmup_transition(algorithm.kernel, keys, *carry, flags)

        keys = jax.random.split(jax.random.key(0), 150)
        (_, learned), info = jax.lax.scan(body, (states, learned), (keys, schedule))
        assert info.acceptance_rate.shape == (150, 4)
        np.testing.assert_allclose(learned.metric.mass, 0.01, rtol=0.5)


def run_at(scale, dtype, num_warmup, num_chains=2, adapt_mass="auto", seed=0):
    """A Gaussian of standard deviations 1, 1/2, 2 times `scale`, from typical starts and a step size of 1/2."""
    scales = jnp.array([1.0, 0.5, 2.0], dtype) * jnp.asarray(scale, dtype)
    algorithm = hmc(lambda z: -0.5 * jnp.sum((z / scales) ** 2), 0.5, uniform_steps(1, 4))
    starts = jax.random.normal(jax.random.key(1), (num_chains, 3), dtype) * scales[None]
    return [
        sample(
            jax.random.key(seed + index),
            algorithm,
            starts,
            num_samples=40,
            num_warmup=count,
            adapt_mass=adapt_mass,
        )
        for index, count in enumerate(num_warmup)
    ]


@pytest.mark.filterwarnings("ignore::hmcvae.SamplingWarning")
class TestEveryScaleAndLength:
    """Whatever the scale, the dtype and the length: finite, of a step size that works, and honest about it."""

    @pytest.mark.parametrize("scale", [1e-18, 1e-6, 1.0, 1e18])
    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
    def test_step_size_works(self, scale, dtype):
        for count, samples in zip(LENGTHS, run_at(scale, dtype, LENGTHS), strict=True):
            found = samples.adaptation
            assert samples.position.dtype == dtype
            for leaf in jax.tree.leaves((found.step_size, found.metric)):
                assert np.all(np.isfinite(np.asarray(leaf, float)))
                assert np.all(np.asarray(leaf, float) > 0)
            if count == 0:
                assert found.is_adapted is None
                continue
            # Accepted at half the target at least when it was looked at; 80 draws of two chains scatter around it.
            assert 0.25 < float(samples.counts.acceptance_rate) < 0.9999, (count, found)
            if bool(found.is_adapted):
                assert count >= 10
                assert float(samples.counts.acceptance_rate) > 0.4

    @pytest.mark.parametrize("mass", ["dense", None])
    def test_every_mass(self, mass):
        for dtype, scale in ((jnp.float32, 1e18), (jnp.float32, 1e-18), (jnp.bfloat16, 1.0)):
            for samples in run_at(scale, dtype, (5, 40), adapt_mass=mass):
                assert 0.25 < float(samples.counts.acceptance_rate) < 0.9999

    def test_half_precision(self):
        (samples,) = run_at(1.0, jnp.float16, (40,))
        assert samples.position.dtype == jnp.float16
        assert 0.3 < float(samples.counts.acceptance_rate) < 0.9999

    def test_a_long_warmup_is_adapted(self):
        (samples,) = run_at(1e6, jnp.float32, (200,))
        assert bool(samples.adaptation.is_adapted)
        assert abs(float(samples.counts.acceptance_rate) - 0.8) < 0.15


LENGTHS = (0, 1, 2, 5, 20, 30, 100)


def test_a_look_has_none_of_the_keys_of_its_transition():
    """Which a kernel splits its own key into: with one of them a look would see the transition's own random numbers."""
    key = jax.random.key(3)
    looked = [jax.random.fold_in(key, adapt.FIRST_LOOK + index) for index in range(looks.NUM_LOOKS)]
    found = {tuple(jax.random.key_data(look).tolist()) for look in looked}
    assert len(found) == looks.NUM_LOOKS
    for count in range(1, 20):
        assert not found & {
            tuple(data) for data in jax.random.key_data(jax.random.split(key, count)).tolist()
        }


class TestCannotAdapt:
    def test_where_nothing_is_accepted_the_step_size_stays(self):
        wall = hmc(lambda z: jnp.where(jnp.all(z == 0), 0.0, jnp.nan), 0.3, 2)
        with pytest.warns(SamplingWarning, match=r"no chain moved in a warm-up of 20 transitions"):
            samples = sample(jax.random.key(0), wall, jnp.zeros((2, 3)), num_samples=3, num_warmup=20)
        assert not samples.adaptation.is_adapted
        np.testing.assert_allclose(samples.adaptation.step_size, 0.3)

    @pytest.mark.filterwarnings("ignore::hmcvae.SamplingWarning")
    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
    def test_where_everything_is_accepted_nothing_overflows(self, dtype):
        flat = hmc(lambda z: 0 * jnp.sum(z), 0.3, 2)
        samples = sample(jax.random.key(0), flat, jnp.ones((2, 3), dtype), num_samples=3, num_warmup=300)
        assert jnp.isfinite(samples.position).all()
        assert jnp.isfinite(samples.adaptation.step_size)
        assert jnp.isfinite(samples.adaptation.metric.mass).all()

    def test_a_chain_without_a_number_does_not_count_for_all(self):
        """One NaN among the chains' acceptance probabilities is that chain's rejection."""

        class Info(NamedTuple):
            acceptance_rate: jax.Array

        class State(NamedTuple):
            position: jax.Array

        def kernel(rng_key, state, step_size, metric):
            return state, Info(jnp.where(state.position[0] > 2, jnp.nan, 0.9))

        states, keys = State(jnp.arange(4.0)[:, None]), jax.random.split(jax.random.key(0), 4)
        learned = adapt.adaptation_init(0.1, metrics.identity(), jnp.ones(1), None)
        flags = adapt.Schedule(False, False, False)
        (_, learned), _ = adapt.warmup_transition(kernel, keys, states, learned, flags)
        np.testing.assert_allclose(learned.step_size.error_average, (0.8 - 0.75 * 0.9) / 11)
