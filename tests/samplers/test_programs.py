"""The programs of a run: compiled once, and kept no longer than what they were compiled for."""

import copy
import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import metrics, solvers
from hmcvae.samplers import keeping
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.langevin import mmala
from hmcvae.samplers.lengths import uniform_steps
from hmcvae.samplers.nuts import nuts
from hmcvae.samplers.riemannian import rmhmc
from hmcvae.samplers.sampling import sample
from tests.support.gaussians import normal
from tests.support.sampling import ALGORITHM, STARTS, draw


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

    @pytest.mark.filterwarnings("ignore::hmcvae.SamplingWarning")
    @pytest.mark.parametrize("kind", ["hmc", "nuts", "rmhmc", "mmala"])
    def test_an_algorithm_that_is_built_anew_traces_nothing(self, kind):
        """Of the same density and settings, at another step size."""
        traces = []

        def counted(z):
            traces.append(1)
            return normal(z)

        make = {
            "hmc": lambda e: hmc(counted, e, uniform_steps(1, 3)),
            "nuts": lambda e: nuts(counted, e, max_depth=3),
            "rmhmc": lambda e: rmhmc(counted, e, 2, metrics.monge(normal), solver=solvers.fixed_point()),
            "mmala": lambda e: mmala(counted, e, metrics.identity()),
        }[kind]
        draw(algorithm=make(0.5), num_samples=3)
        traces.clear()
        again = draw(algorithm=make(0.25), num_samples=3)
        assert len(traces) <= (
            1 if kind == "rmhmc" else 0
        )  # its metric holds a number: the start is compiled anew
        assert float(again.adaptation.step_size) == 0.25
        traces.clear()
        if kind == "hmc":
            draw(algorithm=hmc(counted, 0.5, uniform_steps(1, 4)), num_samples=3)
            draw(algorithm=hmc(counted, 0.5, uniform_steps(1, 3), divergence_threshold=9.0), num_samples=3)
            assert len(traces) >= 2

    @pytest.mark.parametrize("adapt_mass", ["auto", None, "dense"])
    def test_warm_up_and_draws_are_one_program(self, adapt_mass):
        traces, after = [], []

        def counted(z):
            traces.append(1)
            return normal(z)

        algorithm = hmc(counted, 0.5, 2)
        for seed, step_size in enumerate((0.5, 0.25)):
            own = algorithm._replace(step_size=step_size)
            draw(seed=seed, algorithm=own, num_warmup=30 + seed, num_samples=5, adapt_mass=adapt_mass)
            after.append(len(traces))
        assert after[0] == after[1]
        ((key, whole),) = vars(algorithm.kernel)[keeping._NAME].items()
        assert key[1][0] == "whole"
        assert whole.drawing.run is whole.tuning.run

    @pytest.mark.parametrize("num_warmup", [0, 40])
    def test_within_jit(self, num_warmup):
        options = {"num_samples": 30, "num_warmup": num_warmup}
        run = jax.jit(lambda key, starts: sample(key, ALGORITHM, starts, **options).position)
        np.testing.assert_allclose(
            run(jax.random.key(0), STARTS), draw(**options).position, rtol=1e-8, atol=1e-10
        )


class Data:
    """Something that a log density closes over."""

    def __init__(self):
        self.weight = jnp.ones(1000)


def closing_over(data, kind):
    def density(z):
        return normal(z) * data.weight[0]

    def tensor(z):
        return jnp.eye(2) * (1 + z[0] ** 2) * data.weight[0]

    if kind == "blackjax":
        import blackjax

        return blackjax.nuts(density, 0.5, jnp.ones(2))
    if kind == "methods":
        return Methods(data)
    make = {
        "hmc": lambda: hmc(density, 0.5, 3),
        "rmhmc": lambda: rmhmc(density, 0.3, 2, metrics.from_tensor(tensor)),
        "nuts": lambda: nuts(density, 0.3, max_depth=3),
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
        [
            ("hmc", 0),
            ("hmc", 25),
            ("rmhmc", 0),
            ("rmhmc", 3),
            ("mmala", 0),
            ("nuts", 0),
            ("nuts", 3),
            ("blackjax", 3),
            ("methods", 0),
        ],
    )
    def test_what_a_density_closes_over_goes_with_it(self, kind, num_warmup):
        data = Data()
        algorithm = closing_over(data, kind)
        samples = sample(jax.random.key(0), algorithm, jnp.ones((4, 2)), num_samples=5, num_warmup=num_warmup)
        followed = [weakref.ref(data), weakref.ref(data.weight), weakref.ref(algorithm.init)]
        position = samples.position
        del data, algorithm, samples
        gc.collect()
        gc.collect()  # of JAX's traces, which go with the functions
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
