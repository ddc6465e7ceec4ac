"""What a run warns of, and what it refuses before it starts."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import hmcvae
from hmcvae import metrics, solvers
from hmcvae.samplers import health
from hmcvae.samplers.draws import Adaptation, Samples, SamplingWarning, TransitionCounts
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.langevin import mmala
from hmcvae.samplers.riemannian import rmhmc
from hmcvae.samplers.sampling import sample
from tests.support.gaussians import normal
from tests.support.sampling import ALGORITHM, STARTS, curved_tensor, draw


def rmhmc_of(metric):
    return rmhmc(normal, 0.1, 1, metric)


def mmala_of(metric):
    return mmala(normal, 0.1, metric)


def said(**options):
    """The message of the one warning of a run."""
    with pytest.warns(SamplingWarning) as caught:
        draw(**options)
    (message,) = (str(one.message) for one in caught if one.category is SamplingWarning)
    return message


class TestWarnings:
    def test_stuck(self):
        message = said(algorithm=hmc(normal, 1e4, 3))
        assert "chains [0, 1, 2, 3] never moved in 30 draws" in message
        assert "120 of 120 transitions diverged" in message

    def test_a_stuck_chain_among_others_is_named(self):
        starts = STARTS.at[2].set(1e3)
        wall = hmc(lambda z: jnp.where(jnp.abs(z[0]) > 100, -1e9 * jnp.abs(z[0]), normal(z)), 0.5, 3)
        assert "chains [2] never moved" in said(algorithm=wall, starts=starts)

    def test_stuck_without_a_report_of_acceptance(self):
        class State(NamedTuple):
            position: jax.Array

        class Toy(NamedTuple):
            init: object = lambda position, rng_key: State(position)
            step: object = lambda key, state: (State(jnp.maximum(state.position, 0) * 2), None)

        assert "chains [0] never moved" in said(algorithm=Toy(), starts=jnp.array([-0.0, 1.0, 2.0]))

    def test_a_density_that_does_not_depend_on_the_position(self):
        assert "the log density is 7 at every draw" in said(algorithm=hmc(lambda z: 0 * z[0] + 7.0, 0.5, 3))
        # Its trees never turn: told second, since in a box a constant density is right.
        running = said(algorithm=hmcvae.nuts(lambda z: 0 * z[0] + 7.0, 1.0, max_depth=3))
        assert running.startswith("the log density is 7 at every draw")
        assert "cut off at their largest depth" in running

    def test_chains_that_disagree(self):
        far = hmc(lambda z: jax.nn.logsumexp(jnp.array([normal(z - 8), normal(z + 8)])), 0.5, 3)
        starts = jnp.array([[8.0], [-8.0], [8.0]])
        assert "do not agree, R̂ = " in said(algorithm=far, starts=starts, num_samples=200)

    def test_chains_that_disagree_in_their_scales_alone(self):
        """Two in the narrow mode and two in the wide one around it: all means are 0."""

        def density(z):
            square = jnp.sum(z**2)
            return jnp.logaddexp(-0.5 * square, -0.5 * square / 1e4 - 20 * jnp.log(100.0))

        starts = jnp.ones((4, 20)) * jnp.array([1.0, 1.0, 100.0, 100.0])[:, None]
        message = said(algorithm=hmcvae.nuts(density, 0.5), starts=starts, num_samples=400)
        assert "do not agree, R̂ = " in message
        assert "the right sign" in message

    @staticmethod
    def warned(draws, energy, thin=1):
        """What is said of draws and energies [chain, draw]."""

        class Info(NamedTuple):
            energy: np.ndarray

        none = jnp.zeros((), jnp.int32)
        counts = TransitionCounts(jnp.asarray(draws.size * thin), jnp.asarray(0.9), none, none, none, none)
        run = Samples(draws[..., None], None, Info(energy), counts, Adaptation(None, None, counts))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            health.warn_of_trouble(run, 0, 0.8)
        return " ".join(str(one.message) for one in caught)

    def test_chains_that_move_between_the_draws_that_are_kept_have_moved(self):
        """Of few accepted transitions the last of every twenty is seldom one."""
        rare = hmc(lambda z: -0.5 * 40 * jnp.sum(z**2), 0.3, 3)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            samples = draw(algorithm=rare, starts=jnp.ones((16, 3)), num_samples=25, thin=20)
        accepted = np.asarray(samples.info.is_accepted).any(axis=1)
        moved = (np.asarray(samples) != np.asarray(samples)[:, :1]).any(axis=(1, 2))
        assert (moved & ~accepted).any()
        stuck = health.list_of(~moved)
        said_of = " ".join(str(one.message) for one in caught)
        assert ("never moved" in said_of) == (not moved.all())
        assert moved.all() or f"chains {stuck} never moved" in said_of

    def test_records_that_are_not_finite(self):
        def record(state):
            return {"log": jnp.log(state.position[0]), "count": jnp.ones((), int), "z": state.position}

        message = said(record=record)
        assert "log is infinite or NaN in " in message
        assert "of 120 draws" in message

    def test_of_thinned_draws_no_energies_are_judged(self):
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((4, 1000))
        walk = np.cumsum(noise, axis=1)
        assert "energies change little" in self.warned(noise, walk)
        assert self.warned(noise, walk, 10) == ""

    def test_few_effective_draws_and_slow_energies(self):
        """Of chains that agree: R̂ sees nothing yet."""
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((4, 1000))
        assert self.warned(noise, noise) == ""
        slow = np.stack([np.cos(0.012 * np.arange(1000) + phase) for phase in (0.0, 1.5, 3.0, 4.5)])
        assert "of 4000 draws the worst coordinate's are worth" in self.warned(slow + 0.01 * noise, noise)
        assert self.warned(slow[:, :200] + 0.01 * noise[:, :200], noise[:, :200]).count("worth") == 0
        walk = np.where(np.arange(4)[:, None] == 2, np.cumsum(noise, axis=1), noise)
        said_of = self.warned(noise, walk)
        assert "energies change little from draw to draw in chains [2] (E-BFMI 0.0" in said_of
        assert self.warned(noise, walk[:, :50]) == ""

    def test_failed_solves(self):
        solver = solvers.fixed_point(max_iterations=1)
        algorithm = rmhmc(normal, 0.5, 2, metrics.from_tensor(curved_tensor), solver=solver)
        assert "implicit solves that failed" in said(algorithm=algorithm)

    def test_positions_too_far_from_zero_for_their_dtype(self):
        """Where rounding of the position is much of what its solves can tell; other kernels solve nothing."""
        far = 1e4
        algorithm = rmhmc(
            lambda z: normal(z - far), 0.5, 2, metrics.from_tensor(lambda z: curved_tensor(z - far))
        )
        starts = STARTS.astype(jnp.float32) + far
        message = said(algorithm=algorithm, starts=starts)
        assert "positions lie so far from 0 that float32 knows them to 0.02" in message
        draw(algorithm=hmc(lambda z: normal(z - far), 0.5, 3), starts=starts)
        draw(algorithm=algorithm, starts=starts.astype(float))

    def test_rounding_at_the_start(self):
        """A density in float32 of size 1e8 cannot tell draws apart."""
        starts = STARTS.astype(jnp.float32)
        algorithm = hmc(lambda z: normal(z) - 1e8, 0.5, 3)
        message = said(algorithm=algorithm, starts=starts)
        for word in ("1e+08", "12 in float32", "jax_enable_x64", "subtract a constant"):
            assert word in message
        draw(algorithm=algorithm)  # float64: a warning would be an error

    def test_a_healthy_run_is_silent_and_so_is_a_traced_one(self):
        """A warning would be an error, here as in all tests."""
        draw(num_warmup=200, num_samples=200)
        jax.jit(lambda key: sample(key, hmc(normal, 1e4, 3), STARTS, num_samples=30).position)(
            jax.random.key(0)
        )


class TestErrors:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("num_samples", 0),
            ("num_samples", 2.5),
            ("num_samples", True),
            ("num_samples", None),
            ("num_samples", 2**31),
            ("num_warmup", True),
            ("num_warmup", "10"),
            ("target_acceptance", None),
            ("target_acceptance", 0.5 + 0j),
            ("target_acceptance", [0.8]),
            ("num_warmup", -1),
            ("target_acceptance", 0.0),
            ("target_acceptance", 1.0),
            ("target_acceptance", np.nan),
        ],
    )
    def test_options(self, option, value):
        with pytest.raises(ValueError, match=option):
            draw(**{option: value})

    @pytest.mark.parametrize("mass", ["full", 3, ["dense"], np.ones(2)])
    def test_mass(self, mass):
        with pytest.raises(ValueError, match='adapt_mass must be "auto", "diagonal"'):
            draw(num_warmup=10, adapt_mass=mass)

    @pytest.mark.parametrize("step_size", [-1.0, 0, np.nan, "small", None])
    def test_a_step_size_put_in_later(self, step_size):
        with pytest.raises(ValueError, match="step_size must be"):
            draw(algorithm=ALGORITHM._replace(step_size=step_size))

    def test_a_metric_put_in_later(self):
        with pytest.raises(ValueError, match="metric must be"):
            draw(algorithm=ALGORITHM._replace(metric=jnp.eye(3)))

    def test_vector_step_size_takes_no_mass(self):
        algorithm = ALGORITHM._replace(step_size=jnp.full(3, 0.3))
        assert draw(algorithm=algorithm).shape == (4, 30, 3)
        with pytest.raises(ValueError, match="adapt_mass must be None"):
            draw(algorithm=algorithm, num_warmup=10, adapt_mass="diagonal")

    @pytest.mark.parametrize(
        "starts", [jnp.ones(()), jnp.ones((0, 3)), {"a": jnp.ones((4, 3)), "b": jnp.ones(3)}, {}]
    )
    def test_chain_axis(self, starts):
        with pytest.raises(
            ValueError, match="one leading chain axis, of at least one chain, got (shapes|none)"
        ):
            draw(starts=starts)

    @pytest.mark.parametrize("starts", [[[0.0, 1.0], [1.0, 0.0]], (0.0, 1.0), [0.0, jnp.ones(2)]])
    def test_lists_of_numbers_are_no_arrays(self, starts):
        with pytest.raises(ValueError, match=r"got numbers in lists: make an array of them"):
            draw(starts=starts)

    def test_a_density_that_fails_at_the_starts_says_what_it_was_given(self):
        with pytest.raises(TypeError) as failure:
            draw(algorithm=hmc(lambda z: -0.5 * z @ jnp.eye(2) @ z, 0.1, 3))
        assert "4 chains, of which each has a position of shape (3,)" in failure.value.__notes__[-1]

    @pytest.mark.parametrize("is_partial", [False, True])
    def test_a_branch_on_data_that_are_traced_says_so(self, is_partial):
        def branching(y, z):
            return -jnp.sum((z - y) ** 2) if y[0] > 0 else -jnp.sum(z**2)

        y = np.ones(3)
        if not is_partial:
            draw(algorithm=hmc(lambda z: branching(y, z), 0.1, 3), num_samples=2)
            return
        with pytest.raises(jax.errors.TracerBoolConversionError) as failure:
            draw(algorithm=hmc(Partial(branching, y), 0.1, 3), num_samples=2)
        assert "those of a function that closes over NumPy arrays may" in failure.value.__notes__[-1]

    def test_starts(self):
        with pytest.raises(ValueError, match=r"initial position .* chains \[2\]"):
            draw(starts=STARTS.at[2, 1].set(jnp.nan))
        with pytest.raises(ValueError, match=r"logdensity .* chains \[1, 3\]"):
            draw(
                algorithm=hmc(lambda z: jnp.log(z[0]), 0.1, 3),
                starts=jnp.array([[1.0], [-1.0], [1.0], [-2.0]]),
            )
        for make in (lambda f: hmc(f, 0.1, 3), lambda f: mmala(f, 0.1, metrics.identity())):
            with pytest.raises(ValueError, match="gradient of the logdensity at the initial position"):
                make(lambda z: -jnp.sqrt(jnp.sum(z**2))).init(jnp.zeros(3))
        with pytest.raises(ValueError, match="floating-point"):
            draw(starts=jnp.ones((4, 3), int))

    @pytest.mark.parametrize(
        "rng_key", [0, 2**63, None, "key", jnp.zeros(2), jax.random.split(jax.random.key(0), 2)]
    )
    def test_what_is_no_key(self, rng_key):
        with pytest.raises(ValueError, match="rng_key must be one key"):
            sample(rng_key, ALGORITHM, STARTS, num_samples=3)

    def test_progress_inside_jit(self):
        with pytest.raises(ValueError, match="inside jit there is no progress"):
            jax.jit(lambda key: sample(key, ALGORITHM, STARTS, num_samples=3, progress=True))(
                jax.random.key(0)
            )

    @pytest.mark.parametrize("make", [rmhmc_of, mmala_of])
    def test_metrics_that_are_not_positive_definite(self, make):
        starts = jnp.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
        indefinite = metrics.from_tensor(lambda z: jnp.eye(3) * z[0])
        with pytest.raises(ValueError, match=r"metric.* chains \[1\]"):
            draw(algorithm=make(indefinite), starts=starts)
        lopsided = metrics.from_tensor(lambda z: jnp.eye(3) + jnp.eye(3, k=1))
        with pytest.raises(ValueError, match="symmetric"):
            draw(algorithm=make(lopsided), starts=starts)

    def test_state_without_position(self):
        class Toy(NamedTuple):
            init: object = lambda position, rng_key: (position,)
            step: object = None

        with pytest.raises(ValueError, match="must have a position"):
            draw(algorithm=Toy())
