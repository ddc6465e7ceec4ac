"""NumPyro models as log densities: the same density, starts, and the sites' own values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae import interop

numpyro = pytest.importorskip("numpyro")
dist = numpyro.distributions
pytestmark = pytest.mark.usefixtures("promote_ranks")

EFFECTS = jnp.array([28.0, 8, -3, 7, -1, 1, 18, 12])
ERRORS = jnp.array([15.0, 10, 16, 11, 9, 11, 10, 18])


@pytest.fixture
def promote_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


def eight_schools(y, sigma, scale=5.0):
    mu = numpyro.sample("mu", dist.Normal(0, scale))
    tau = numpyro.sample("tau", dist.HalfCauchy(scale))
    with numpyro.plate("schools", len(y)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


@pytest.fixture(scope="module")
def model():
    with jax.numpy_rank_promotion("allow"):
        return interop.numpyro_model(eight_schools, EFFECTS, sigma=ERRORS)


class TestEightSchools:
    def test_the_density_is_the_formula(self, model):
        position = {"mu": jnp.array(2.0), "tau": jnp.array(0.7), "z": jnp.linspace(-1.0, 1.0, 8)}

        def logdensity(position):
            mu, log_tau, z = position["mu"], position["tau"], position["z"]
            tau = jnp.exp(log_tau)
            normal = jax.scipy.stats.norm.logpdf
            cauchy = jnp.log(2 / (jnp.pi * 5)) - jnp.log1p((tau / 5) ** 2)
            data = jnp.sum(normal(EFFECTS, mu + tau * z, ERRORS))
            return normal(mu, 0, 5) + cauchy + log_tau + jnp.sum(normal(z)) + data

        np.testing.assert_allclose(model.logdensity_fn(position), logdensity(position), rtol=1e-10)
        mine, theirs = jax.grad(model.logdensity_fn)(position), jax.grad(logdensity)(position)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), mine, theirs)

    def test_starts_are_of_each_chain_and_of_the_key(self, model):
        starts = model.start(jax.random.key(1), 3)
        assert jax.tree.map(jnp.shape, starts) == {"mu": (3,), "tau": (3,), "z": (3, 8)}
        again, other = model.start(jax.random.key(1), 3), model.start(jax.random.key(2), 3)
        assert jnp.array_equal(starts["z"], again["z"])
        assert not jnp.any(starts["z"] == other["z"])
        assert len(np.unique(starts["mu"])) == 3

    def test_draws_come_back_as_the_sites_values(self, model):
        samples = hmcvae.sample(
            jax.random.key(0),
            hmcvae.hmc(model.logdensity_fn, 0.2, 5),
            model.start(jax.random.key(0), 2),
            num_samples=10,
        )
        values = model.constrain(samples.position)
        assert jax.tree.map(jnp.shape, values) == {
            "mu": (2, 10),
            "tau": (2, 10),
            "z": (2, 10, 8),
            "theta": (2, 10, 8),
        }
        np.testing.assert_allclose(values["tau"], jnp.exp(samples.position["tau"]), rtol=1e-6)
        expected = values["mu"][..., None] + values["tau"][..., None] * values["z"]
        np.testing.assert_allclose(values["theta"], expected, rtol=1e-6)
        one = model.constrain(jax.tree.map(lambda leaf: leaf[1, 4], samples.position))
        np.testing.assert_allclose(one["theta"], values["theta"][1, 4], rtol=1e-6)

    def test_positions_of_other_sites_are_refused(self, model):
        for call in (model.logdensity_fn, model.constrain):
            with pytest.raises(ValueError, match=r"sites \['mu', 'tau', 'z'\], got \['mu'\]"):
                call({"mu": jnp.zeros(())})
            with pytest.raises(ValueError, match="got ArrayImpl"):
                call(jnp.zeros(3))
        with pytest.raises(ValueError, match="num_chains must be"):
            model.start(jax.random.key(0), 0)

    def test_positions_of_other_shapes_are_refused(self, model):
        position = jax.tree.map(lambda leaf: leaf[0], model.start(jax.random.key(0), 1))
        with pytest.raises(ValueError, match=r"expected mu of shape \(\), got \(3,\)"):
            model.logdensity_fn(position | {"mu": jnp.ones(3)})


def discrete():
    numpyro.sample("k", dist.Bernoulli(0.5))


def subsampled():
    m = numpyro.sample("m", dist.Normal(0, 1))
    with numpyro.plate("all", 8, subsample_size=2) as index:
        numpyro.sample("y", dist.Normal(m, 1), obs=EFFECTS[index])


def nothing_latent():
    numpyro.sample("y", dist.Normal(0, 1), obs=1.0)


def impossible():
    numpyro.factor("never", -jnp.inf * numpyro.sample("m", dist.Normal(0, 1)) ** 2)


def noisy():
    """With numbers of its own in the density."""
    m = numpyro.sample("m", dist.Normal(0, 1))
    noise = jax.random.normal(numpyro.prng_key())
    numpyro.sample("y", dist.Normal(m + 5 * noise, 1), obs=jnp.array([0.5, 1.0]))


def branching():
    m = numpyro.sample("m", dist.Normal(0, 1))
    if m > 0:
        numpyro.sample("n", dist.Normal(0, 1))


def test_improper_priors_are_densities_too():
    """exp(-2 a) a on a > 0, which is a Gamma: log density of u = log a with its volume."""

    def model():
        a = numpyro.sample("a", dist.ImproperUniform(dist.constraints.positive, (), ()))
        numpyro.factor("f", -2 * a + jnp.log(a))

    own = interop.numpyro_model(model)
    for u in (-1.0, 0.3):
        np.testing.assert_allclose(
            own.logdensity_fn({"a": jnp.asarray(u)}), -2 * np.exp(u) + 2 * u, rtol=1e-6
        )
    assert jnp.all(own.constrain(own.start(jax.random.key(0), 3))["a"] > 0)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (noisy, "draws random numbers that are no sites"),
        (branching, "sites are the same for all values"),
        (discrete, r"got the discrete \['k'\]"),
        (subsampled, "got the subsampled plate 'all'"),
        (nothing_latent, "with latent sites, got none"),
        (impossible, "start of finite density"),
    ],
)
def test_models_that_cannot_be_sampled_are_refused(model, words):
    with pytest.raises(ValueError, match=words):
        interop.numpyro_model(model)


@pytest.mark.parametrize("at", [-1000.0, 1000.0])
def test_shares_of_a_model_have_a_density_that_falls_far_out(at):
    """NumPyro's own stick-breaking leaves it flat there: an improper one, of which a sampler's diagnostics say
    nothing."""

    def shares():
        numpyro.sample("p", dist.Dirichlet(jnp.full(2, 0.1)))

    density = interop.numpyro_model(shares).logdensity_fn
    position = {"p": jnp.array([at])}
    np.testing.assert_allclose(jax.grad(density)(position)["p"], [-np.sign(at)], rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.grad(density))(position)["p"], [-np.sign(at)], rtol=1e-5)
