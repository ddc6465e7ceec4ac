"""Running chains: what comes back, what it depends on, what it costs, what is refused."""

import copy
import functools
import gc
import pickle
import subprocess
import sys
import warnings
import weakref
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import metrics, solvers
from hmcvae.samplers.diagnostics import to_arviz
from hmcvae.samplers.draws import MissingMetric, Samples, SamplingWarning, concatenate
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.langevin import mmala
from hmcvae.samplers.lengths import uniform_steps
from hmcvae.samplers.riemannian import rmhmc
from hmcvae.samplers.sampling import sample
from tests.support.paths import REPOSITORY

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ announces its refactoring once a day
    import arviz


def normal(z):
    return -0.5 * jnp.sum(z**2)


def normal_tree(position):
    return normal(position["a"]) + normal(position["b"]["c"])


def rmhmc_of(metric):
    return rmhmc(normal, 0.1, 1, metric)


def mmala_of(metric):
    return mmala(normal, 0.1, metric)


STARTS = jax.random.normal(jax.random.key(1), (4, 3))
TREE = {"a": STARTS, "b": {"c": jnp.ones(4)}}
# One algorithm for most tests, since its programs are compiled once.
ALGORITHM = hmc(normal, 1.2, uniform_steps(1, 3))
TREE_ALGORITHM = hmc(normal_tree, 0.5, 3)


def draw(seed=0, algorithm=ALGORITHM, starts=STARTS, **options):
    return sample(jax.random.key(seed), algorithm, starts, **({"num_samples": 30} | options))


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


class TestResult:
    def test_axes(self):
        samples = draw()
        assert samples.shape == (4, 30, 3)
        assert samples.position.shape == (4, 30, 3)
        assert samples.logdensity.shape == (4, 30)
        assert {leaf.shape for leaf in jax.tree.leaves(samples.info)} == {(4, 30)}
        np.testing.assert_allclose(samples.logdensity, -0.5 * np.sum(np.asarray(samples) ** 2, axis=-1))

    def test_is_an_array(self):
        samples = draw()
        array = np.asarray(samples)
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(array, samples.position)
        assert np.asarray(samples, np.float32).dtype == np.float32
        assert np.array(samples, copy=True).flags.writeable

    def test_pytree(self):
        samples = draw(algorithm=TREE_ALGORITHM, starts=TREE)
        assert samples.position["a"].shape == (4, 30, 3)
        assert samples.position["b"]["c"].shape == (4, 30)
        assert samples.shape == (4, 30)
        with pytest.raises(ValueError, match="2 arrays"):
            np.asarray(samples)

    def test_moves_follow_the_info(self):
        """Record i is the state after transition i: it differs from the last where that was accepted."""
        samples = draw()
        path = np.concatenate([np.asarray(STARTS)[:, None], np.asarray(samples)], axis=1)
        moved = (np.diff(path, axis=1) != 0).any(axis=-1)
        np.testing.assert_array_equal(moved, samples.info.is_accepted)

    def test_tally_counts_everything(self):
        with pytest.warns(SamplingWarning, match="diverged"):
            samples = draw(algorithm=hmc(normal, 2.05, 4, divergence_threshold=10.0))
        assert samples.counts.num_transitions == 120
        assert 0 < int(samples.counts.num_divergent) < 120
        assert samples.counts.num_divergent == samples.info.is_divergent.sum()
        assert samples.counts.num_unconverged == samples.counts.num_irreversible == 0
        np.testing.assert_allclose(
            samples.counts.acceptance_rate, samples.info.acceptance_rate.mean(), rtol=1e-5
        )

    def test_failures_are_counted(self):
        class Solver(NamedTuple):
            converged: jax.Array

        class Info(NamedTuple):
            solver: Solver
            is_reversible: jax.Array

        class Toy(NamedTuple):
            init: object = lambda position, rng_key: State(position)
            step: object = lambda key, state: (
                state,
                Info(Solver(state.position > 0.5), state.position < 2.5),
            )

        class State(NamedTuple):
            position: jax.Array

        with pytest.warns(
            SamplingWarning, match=r"30 of 120 .* solves(?s:.*)30 of 120 .* retraced(?s:.*)never moved"
        ):
            samples = draw(algorithm=Toy(), starts=jnp.arange(4.0))
        assert samples.counts.num_unconverged == 30
        assert samples.counts.acceptance_rate == 0
        assert samples.counts.num_irreversible == 30
        assert samples.counts.num_divergent == 0
        assert samples.logdensity is None

    def test_adaptation_without_warmup_is_the_algorithms_own(self):
        found = draw().adaptation
        assert found.step_size == 1.2
        assert isinstance(found.metric, metrics.Identity)
        assert found.warmup.num_transitions == 0


class TestReproducibility:
    def test_progress_bar_changes_no_bit(self, capsys):
        quiet = draw(num_warmup=40)
        loud = draw(num_warmup=40, progress=True)
        assert_same(quiet, loud)
        shown = capsys.readouterr().err
        for word in ("warm-up", "sampling", "acceptance=", "divergences=0", "30/30"):
            assert word in shown

    def test_a_longer_run_begins_with_the_shorter_one(self):
        short, long = draw(num_samples=10), draw()
        assert_same(short.position, long.position[:, :10])
        assert_same(short.info, jax.tree.map(lambda leaf: leaf[:, :10], long.info))

    def test_more_chains_leave_the_first_ones_alone(self):
        np.testing.assert_allclose(draw(starts=STARTS[:2]).position, draw().position[:2], rtol=1e-10)

    def test_chains_and_seeds_differ(self):
        samples = np.asarray(draw(starts=jnp.ones((4, 3))))
        assert len({chain.tobytes() for chain in samples}) == 4
        assert not np.array_equal(draw(seed=1), draw(seed=2))

    def test_warmup_and_draws_do_not_share_randomness(self):
        class State(NamedTuple):
            position: jax.Array

        class Toy(NamedTuple):
            init: object = lambda position, rng_key: State(jax.random.uniform(rng_key))
            step: object = lambda key, state: (State(jax.random.uniform(key)), state.position)

        samples = draw(algorithm=Toy(), starts=jnp.zeros(4), num_warmup=1)  # info is the position before
        seen = np.concatenate([samples.info[:, :1], samples.position], axis=1)
        fresh = draw(algorithm=Toy(), starts=jnp.zeros(4)).info[:, :1]
        assert len(np.unique(np.concatenate([seen, fresh], axis=1))) == 4 * 32

    def test_both_kinds_of_keys(self):
        old = sample(jax.random.PRNGKey(3), ALGORITHM, STARTS, num_samples=30)
        assert_same(old, draw(seed=3))

    def test_starts_survive(self):
        """No buffer of the caller's is given away, also where the state is the very position."""

        class State(NamedTuple):
            position: jax.Array

        class Toy(NamedTuple):
            init: object = lambda position, rng_key: State(position)
            step: object = lambda key, state: (State(state.position + 1), jax.random.uniform(key))

        for algorithm in (ALGORITHM, Toy()):
            starts = jnp.array(STARTS)
            for progress in (False, True):
                draw(algorithm=algorithm, starts=starts, num_warmup=40, progress=progress)
            np.testing.assert_array_equal(starts, STARTS)


class TestCompilation:
    @pytest.mark.parametrize("num_warmup", [0, 40])
    def test_second_call_traces_nothing(self, num_warmup):
        traces = []

        def counted(z):
            traces.append(1)
            return normal(z)

        algorithm = hmc(counted, 0.5, uniform_steps(1, 3))
        draw(algorithm=algorithm, num_warmup=num_warmup)
        assert traces
        traces.clear()
        draw(seed=1, algorithm=algorithm, starts=STARTS + 1, num_warmup=num_warmup)
        draw(seed=2, algorithm=algorithm, num_warmup=num_warmup, progress=True)
        assert not traces

    def test_within_jit(self):
        run = jax.jit(lambda key, starts: sample(key, ALGORITHM, starts, num_samples=30).position)
        np.testing.assert_allclose(run(jax.random.key(0), STARTS), draw().position, rtol=1e-10)


class Data:
    """Something that a log density closes over."""

    def __init__(self):
        self.weight = jnp.ones(1000)


def closing_over(data, kind):
    def density(z):
        return normal(z) * data.weight[0]

    def tensor(z):
        return jnp.eye(2) * (1 + z[0] ** 2) * data.weight[0]

    if kind == "nuts":
        import blackjax

        return blackjax.nuts(density, 0.5, jnp.ones(2))
    if kind == "methods":
        return Methods(data)
    make = {
        "hmc": lambda: hmc(density, 0.5, 3),
        "rmhmc": lambda: rmhmc(density, 0.3, 2, metrics.from_tensor(tensor)),
        "mmala": lambda: mmala(density, 0.3, metrics.from_tensor(tensor)),
    }
    return make[kind]()


class Methods:
    """An algorithm whose functions are methods."""

    def __init__(self, data):
        self.inner = hmc(lambda z: normal(z) * data.weight[0], 0.5, 3)
        self.traces = []

    def init(self, position, rng_key=None):
        return self.inner.init(position)

    def step(self, rng_key, state):
        self.traces.append(1)
        return self.inner.step(rng_key, state)


class TestMemory:
    @pytest.mark.filterwarnings("ignore::hmcvae.SamplingWarning")
    @pytest.mark.parametrize(
        ("kind", "num_warmup"),
        [("hmc", 0), ("hmc", 25), ("rmhmc", 0), ("rmhmc", 3), ("mmala", 0), ("nuts", 3), ("methods", 0)],
    )
    def test_what_a_density_closes_over_goes_with_it(self, kind, num_warmup):
        data = Data()
        algorithm = closing_over(data, kind)
        samples = sample(jax.random.key(0), algorithm, jnp.ones((4, 2)), num_samples=5, num_warmup=num_warmup)
        followed = [weakref.ref(data), weakref.ref(data.weight), weakref.ref(algorithm.init)]
        position = samples.position
        del data, algorithm, samples
        gc.collect()
        assert [reference() for reference in followed] == [None, None, None]
        assert position.shape == (4, 5, 2)

    def test_programs_of_methods_are_kept(self):
        algorithm = Methods(Data())
        draw(algorithm=algorithm)
        algorithm.traces.clear()
        draw(seed=1, algorithm=algorithm)
        assert not algorithm.traces
        # They are nobody's data: the object can be copied and pickled as before, and a copy has programs of its own.
        twin = copy.copy(algorithm)
        twin.inner = hmc(lambda z: normal(z / 100), 100.0, 1)
        assert np.std(draw(algorithm=twin)) > 20

    @pytest.mark.filterwarnings("ignore::hmcvae.SamplingWarning")
    def test_programs_are_not_taken_over_with_the_attributes_of_a_function(self):
        first = hmc(normal, 1.0, 3)
        draw(algorithm=first)
        still = functools.wraps(first.kernel)(lambda key, state, *_: (state, first.step(key, state)[1]))
        samples = draw(algorithm=first._replace(kernel=still))
        assert np.ptp(np.asarray(samples), axis=1).max() == 0

    @pytest.mark.filterwarnings("ignore::hmcvae.SamplingWarning")
    def test_no_tracer_is_left_behind(self):
        """Neither by an algorithm that is made outside, nor by one made inside, of the traced function."""

        @jax.jit
        def run(key, starts, weight):
            inside = hmc(lambda z: weight * normal(z), 0.5, 2)
            a = sample(key, ALGORITHM, starts, num_samples=3, num_warmup=2)
            return a.position, sample(key, inside, starts, num_samples=3, num_warmup=2).position

        with jax.checking_leaks():
            run(jax.random.key(0), STARTS, 1.0)
        run(jax.random.key(0), STARTS[:2], 1.0)
        assert draw(num_samples=3, num_warmup=2).shape == (4, 3, 3)


class TestGoingOn:
    def test_last_and_concatenate(self):
        samples = draw(algorithm=TREE_ALGORITHM, starts=TREE)
        more = draw(seed=5, algorithm=TREE_ALGORITHM, starts=samples.last, num_samples=7)
        both = concatenate(samples, more)
        assert both.shape == (4, 37)
        assert_same(jax.tree.map(lambda leaf: leaf[:, 30:], both.position), more.position)
        assert_same(jax.tree.map(lambda leaf: leaf[:, :30], both.info), samples.info)
        np.testing.assert_array_equal(both.logdensity[:, 30:], more.logdensity)
        assert both.counts.num_transitions == 148
        rate = np.mean(np.asarray(both.info.acceptance_rate))
        np.testing.assert_allclose(both.counts.acceptance_rate, rate, rtol=1e-5)
        assert both.adaptation is samples.adaptation

    def test_failures_add_up(self):
        with pytest.warns(SamplingWarning):
            runs = [draw(seed, hmc(normal, 2.05, 4, divergence_threshold=10.0)) for seed in range(3)]
        both = concatenate(*runs)
        assert both.counts.num_divergent == both.info.is_divergent.sum()

    def test_a_new_key_goes_on_and_the_same_key_replays(self):
        """A Gaussian's draws forget the start: with the same randomness two runs come to meet."""
        samples = draw(num_samples=200)
        replayed = draw(starts=samples.last, num_samples=200)
        fresh = draw(seed=1, starts=samples.last, num_samples=200)
        assert np.mean(np.isclose(samples.position, replayed.position)) > 0.5
        assert np.mean(np.isclose(samples.position, fresh.position)) < 0.01

    def test_misfits_are_refused(self):
        with pytest.raises(ValueError, match="same chains"):
            concatenate(draw(), draw(starts=STARTS[:2]))
        with pytest.raises(ValueError, match="takes Samples"):
            concatenate(draw(), STARTS)


def curved_tensor(z):
    return jnp.eye(3) * (1 + z[0] ** 2)


CURVED = {
    "closure": metrics.from_tensor(lambda z: curved_tensor(z)),
    "function of a module": metrics.from_tensor(curved_tensor),
}


class TestPickle:
    @pytest.mark.filterwarnings("ignore::hmcvae.SamplingWarning")
    @pytest.mark.parametrize("name", ["closure", "function of a module", "hmc", "tree"])
    def test_draws_are_data(self, name):
        if name in CURVED:
            samples = draw(algorithm=rmhmc(normal, 0.3, 2, CURVED[name]))
        elif name == "tree":
            samples = draw(algorithm=TREE_ALGORITHM, starts=TREE, num_warmup=30)
        else:
            samples = draw(num_warmup=30)
        back = pickle.loads(pickle.dumps(samples))
        assert isinstance(back, Samples)
        for old, new in zip(samples[:4], back[:4], strict=True):
            assert_same(old, new)
        assert_same(samples.adaptation.warmup, back.adaptation.warmup)
        assert back.adaptation.step_size == samples.adaptation.step_size
        if name == "closure":
            assert isinstance(back.adaptation.metric, MissingMetric)
            assert "FromTensor" in back.adaptation.metric.description
            assert len(jax.tree.leaves(back)) == len(jax.tree.leaves(samples))
        else:
            assert type(back.adaptation.metric) is type(samples.adaptation.metric)
            assert_same(jax.tree.leaves(back.adaptation.metric), jax.tree.leaves(samples.adaptation.metric))

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
    def test_copies_keep_the_metric(self, copied):
        samples = draw(algorithm=rmhmc(normal, 0.3, 2, CURVED["closure"]), num_samples=3)
        assert copied(samples).adaptation.metric == samples.adaptation.metric
        assert_same(copied(samples).position, samples.position)


class TestEmptyArrays:
    def test_draws_with_arrays_that_hold_nothing(self):
        """In a process of its own: what XLA could not take aborted it."""
        code = """
import warnings
import jax, jax.numpy as jnp
import hmcvae
from hmcvae.metrics import from_tensor
from hmcvae.samplers.draws import concatenate

starts = {"a": jnp.ones((4, 2)), "b": jnp.zeros((4, 0)), "c": jnp.ones((4, 3, 0)), "d": jnp.ones(4)}
density = lambda z: -0.5 * (jnp.sum(z["a"] ** 2) + jnp.sum(z["b"]) + z["d"] ** 2)
tensor = lambda z: jnp.eye(3) * (1 + z[0] ** 2)
algorithms = {
    "hmc": hmcvae.hmc(density, 0.5, hmcvae.uniform_steps(1, 3)),
    "rmhmc": hmcvae.rmhmc(density, 0.3, 2, from_tensor(tensor)),
    "mmala": hmcvae.mmala(density, 0.3, from_tensor(tensor)),
}
warnings.simplefilter("ignore")
for name, algorithm in algorithms.items():
    for num_warmup in (0, 25) if name == "hmc" else (0,):
        samples = hmcvae.sample(
            jax.random.key(0), algorithm, starts, num_samples=20, num_warmup=num_warmup
        )
        shapes = jax.tree.map(jnp.shape, samples.position)
        assert shapes == {"a": (4, 20, 2), "b": (4, 20, 0), "c": (4, 20, 3, 0), "d": (4, 20)}, shapes
        assert samples.info.is_accepted.any()
        state, _ = algorithm.step(jax.random.key(0), algorithm.init(jax.tree.map(lambda x: x[0], starts)))
        assert state.position["b"].shape == (0,)
print(hmcvae.diagnose(samples))
both = concatenate(samples, samples)
assert both.position["b"].shape == (4, 40, 0)
assert set(hmcvae.to_arviz(samples).posterior.data_vars) == {"a", "b", "c", "d"}
"""
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr[-2000:]

    def test_an_info_that_holds_nothing(self):
        class State(NamedTuple):
            position: jax.Array

        class Toy(NamedTuple):
            init: object = lambda position, rng_key: State(position)
            step: object = lambda key, state: (State(state.position + 1), None)

        samples = draw(algorithm=Toy(), starts=jnp.zeros(4), num_samples=5)
        assert samples.counts.num_transitions == 20
        assert samples.info is None


def said(**options):
    """The message of the one warning of a run."""
    with pytest.warns(SamplingWarning) as caught:
        draw(**options)
    assert len(caught) == 1
    return str(caught[0].message)


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

    def test_chains_that_disagree(self):
        far = hmc(lambda z: jax.nn.logsumexp(jnp.array([normal(z - 8), normal(z + 8)])), 0.5, 3)
        starts = jnp.array([[8.0], [-8.0], [8.0]])
        assert "do not agree, R̂ = " in said(algorithm=far, starts=starts, num_samples=200)

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
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            draw(algorithm=hmc(lambda z: normal(z - far), 0.5, 3), starts=starts)
            draw(algorithm=algorithm, starts=starts.astype(float))

    def test_rounding_at_the_start(self):
        """A density in float32 of size 1e8 cannot tell draws apart."""
        starts = STARTS.astype(jnp.float32)
        algorithm = hmc(lambda z: normal(z) - 1e8, 0.5, 3)
        with pytest.warns(SamplingWarning) as caught:
            draw(algorithm=algorithm, starts=starts)
        message = str(caught[0].message)
        for word in ("1e+08", "12 in float32", "jax_enable_x64", "subtract a constant"):
            assert word in message
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            draw(algorithm=algorithm)  # float64

    def test_a_healthy_run_is_silent_and_so_is_a_traced_one(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            draw(num_warmup=200, num_samples=200)
            jax.jit(lambda key: sample(key, hmc(normal, 1e4, 3), STARTS, num_samples=30).position)(
                jax.random.key(0)
            )


class TestWarmup:
    def test_auto_adapts_only_the_default_metric(self):
        assert isinstance(draw(num_warmup=40).adaptation.metric, metrics.Diagonal)
        chosen = metrics.dense(jnp.diag(jnp.array([1.0, 2.0, 3.0])))
        algorithm = ALGORITHM._replace(metric=chosen)
        samples = draw(algorithm=algorithm, num_warmup=40)
        assert_same(samples.adaptation.metric, chosen)
        samples = draw(algorithm=algorithm, num_warmup=40, adapt_mass="diagonal")
        assert isinstance(samples.adaptation.metric, metrics.Diagonal)

    def test_draws_use_what_was_found(self):
        """The same draws come from an algorithm that is given the tuned step size and metric."""
        algorithm = ALGORITHM._replace(step_size=0.01)
        samples = draw(algorithm=algorithm, num_warmup=40)
        assert samples.adaptation.warmup.num_transitions == 160
        assert 0 < float(samples.adaptation.warmup.acceptance_rate) < 1
        assert float(samples.adaptation.step_size) > 0.1
        last = algorithm.init(samples.position[0, 28])
        # The key of draw 29 of chain 0.
        key = jax.random.key(0)
        for word in (1, 0, 29):
            key = jax.random.fold_in(key, word)
        state, _ = algorithm.kernel(key, last, samples.adaptation.step_size, samples.adaptation.metric)
        np.testing.assert_allclose(state.position, samples.position[0, 29], rtol=1e-8)

    def test_pytree(self):
        samples = draw(algorithm=TREE_ALGORITHM, starts=TREE, num_warmup=40)
        assert samples.adaptation.metric.mass.shape == (4,)

    def test_algorithm_without_kernel(self):
        import blackjax

        algorithm = blackjax.nuts(normal, 0.5, jnp.ones(3))
        samples = draw(algorithm=algorithm, num_warmup=10)
        assert samples.shape == (4, 30, 3)
        assert samples.adaptation.step_size is None
        assert samples.adaptation.warmup.num_transitions == 40
        assert samples.counts.num_divergent == 0
        assert float(samples.counts.acceptance_rate) > 0.5
        assert "diverging" in to_arviz(samples).sample_stats


class TestArviz:
    def test_groups(self):
        samples = draw()
        data = to_arviz(samples)
        assert data.posterior["position"].dims[:2] == ("chain", "draw")
        np.testing.assert_array_equal(data.posterior["position"], samples.position)
        stats = data.sample_stats
        for name, value in {
            "lp": samples.logdensity,
            "diverging": samples.info.is_divergent,
            "acceptance_rate": samples.info.acceptance_rate,
            "energy": samples.info.energy,
            "n_steps": samples.info.num_integration_steps,
        }.items():
            np.testing.assert_array_equal(stats[name], value)
        assert np.all(arviz.bfmi(data) > 0)
        assert np.all(arviz.rhat(data)["position"] < 1.5)

    def test_pytree_names(self):
        data = to_arviz(draw(algorithm=TREE_ALGORITHM, starts=TREE))
        assert set(data.posterior.data_vars) == {"a", "b.c"}


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

    def test_mass(self):
        with pytest.raises(ValueError, match="diagonal"):
            draw(num_warmup=10, adapt_mass="full")

    def test_vector_step_size_cannot_be_tuned(self):
        algorithm = ALGORITHM._replace(step_size=jnp.full(3, 0.3))
        assert draw(algorithm=algorithm).shape == (4, 30, 3)
        with pytest.raises(ValueError, match="one number"):
            draw(algorithm=algorithm, num_warmup=10)

    @pytest.mark.parametrize(
        "starts", [jnp.ones(()), jnp.ones((0, 3)), {"a": jnp.ones((4, 3)), "b": jnp.ones(3)}, {}]
    )
    def test_chain_axis(self, starts):
        with pytest.raises(ValueError, match="chain axis"):
            draw(starts=starts)

    def test_starts(self):
        with pytest.raises(ValueError, match=r"initial position .* chains \[2\]"):
            draw(starts=STARTS.at[2, 1].set(jnp.nan))
        with pytest.raises(ValueError, match=r"logdensity .* chains \[1, 3\]"):
            draw(
                algorithm=hmc(lambda z: jnp.log(z[0]), 0.1, 3),
                starts=jnp.array([[1.0], [-1.0], [1.0], [-2.0]]),
            )
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


def test_samples_are_a_pytree():
    samples = draw()
    assert isinstance(jax.tree.map(lambda leaf: leaf, samples), Samples)


def test_errors_inside_the_density_name_the_shape_that_a_chain_was_given():
    algorithm = hmc(lambda z: -0.5 * z[0] ** 2 - z[1] ** 2, 0.1, 2)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - JAX's own error, with a note of ours
        sample(jax.random.key(0), algorithm, jnp.zeros(2), num_samples=2)
    assert "each chain's position has shape [()]" in "".join(caught.value.__notes__)
