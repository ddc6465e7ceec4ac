"""Values of half-lines and intervals: never their bounds, whatever the precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae import transforms

constraints = pytest.importorskip("numpyro.distributions").constraints
# NumPyro's own code promotes ranks.
pytestmark = pytest.mark.usefixtures("promote_ranks")


@pytest.mark.parametrize(
    ("constraint", "low", "high"),
    [
        (lambda: constraints.positive, 0.0, np.inf),
        (lambda: constraints.greater_than(-2.0), -2.0, np.inf),
        (lambda: constraints.less_than(3.0), -np.inf, 3.0),
        (lambda: constraints.unit_interval, 0.0, 1.0),
        (lambda: constraints.interval(-1.0, 3.0), -1.0, 3.0),
        (lambda: constraints.open_interval(-5.0, 0.0), -5.0, 0.0),
        (
            lambda: constraints.interval(jnp.array([7.0, -1.0]), jnp.array([8.0, 0.0])),
            [7.0, -1.0],
            [8.0, 0.0],
        ),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_values_are_never_rounded_to_their_bounds(constraint, low, high, dtype):
    """Where many densities are infinite, or nothing."""
    transform = transforms.from_constraint(constraint())
    for size in (1.0, 18.0, 40.0, 120.0, 800.0):
        for u in (size, -size):
            x = np.asarray(transform.forward(jnp.full(2, u, dtype)), np.float64)
            # Without a bound, exp overflows.
            assert np.all((x > low) | np.isneginf(low))
            assert np.all((x < high) | np.isposinf(high))


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(1.7e9, 1.7e9 + 100, jnp.float32), (1000.0, 1000.5, jnp.float16), (1.0, 1.002, jnp.bfloat16)],
)
def test_intervals_without_a_number_are_refused(low, high, dtype):
    with pytest.raises(ValueError, match="expected bounds with numbers of .*float.* between them, got"):
        transforms.interval(low, high).forward(jnp.zeros(2, dtype))


def test_narrow_intervals_have_all_their_numbers():
    """Three of single precision."""
    x = transforms.interval(1e6, 1e6 + 0.25).forward(jnp.array([-50.0, 0.0, 50.0], jnp.float32))
    np.testing.assert_array_equal(np.asarray(x, np.float64), 1e6 + np.array([1, 2, 3]) / 16)


def test_models_values_are_never_rounded_to_their_bounds():
    """In single precision NumPyro's own are, and the density there is nothing, or infinite."""
    numpyro = pytest.importorskip("numpyro")

    def model():
        numpyro.sample("size", numpyro.distributions.Gamma(0.1, 1.0))
        numpyro.sample("share", numpyro.distributions.Beta(0.5, 0.5))

    logdensity_fn = hmcvae.interop.numpyro_model(model).logdensity_fn
    value, slope = jax.value_and_grad(logdensity_fn)({"size": jnp.float32(-95.0), "share": jnp.float32(80.0)})
    assert np.isfinite(value)
    assert slope["size"] > 0 > slope["share"]
    # And NumPyro has its own again.
    own = numpyro.distributions.biject_to(constraints.positive)
    assert type(own).__module__.startswith("numpyro.")


def test_densities_with_a_pole_at_a_bound_are_those_in_single_precision():
    """Beta(1/2, 1/2) on (-1, 3): E[x] = 1, Var[x] = 16 / 8."""

    def logdensity(x):
        return -0.5 * jnp.log(x + 1) - 0.5 * jnp.log(3 - x)

    space = transforms.over(logdensity, transforms.interval(-1.0, 3.0))
    for u in (-30.0, -15.0, 0.0, 15.0, 30.0):
        value, slope = jax.value_and_grad(space.logdensity_fn)(jnp.float32(u))
        assert np.isfinite(value)
        # exp(-|u| / 2) in the tails; rounding flattens the density itself, and the volume falls on.
        assert np.sign(slope) == -np.sign(u)
