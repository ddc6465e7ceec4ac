"""Constrained parameters: bijections with their volumes, and densities over what lies behind them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import hmcvae
from hmcvae import transforms
from hmcvae._bijections import ours_in_models

constraints = pytest.importorskip("numpyro.distributions").constraints
# NumPyro's own code promotes ranks.
pytestmark = pytest.mark.usefixtures("promote_ranks")


# What each is called with, the shape of one value, and the coordinates of it that are free.
KINDS = {
    "real": (transforms.real, (3,), lambda x: x),
    "positive": (transforms.positive, (3,), lambda x: x),
    "greater than": (lambda: transforms.greater_than(-2.0), (3,), lambda x: x),
    "interval": (lambda: transforms.interval(-1.0, 3.0), (3,), lambda x: x),
    "simplex": (transforms.simplex, (4,), lambda x: x[:-1]),
    "ordered": (transforms.ordered, (4,), lambda x: x),
    "cholesky correlation": (
        transforms.cholesky_correlation,
        (3, 3),
        lambda x: x[jnp.tril_indices(3, -1)],
    ),
    "any of NumPyro's": (
        lambda: transforms.from_constraint(constraints.positive_ordered_vector),
        (3,),
        lambda x: x,
    ),
}


def holds(name, x):
    """The constraint in its own words."""
    if name == "positive":
        return bool(jnp.all(x > 0))
    if name == "greater than":
        return bool(jnp.all(x > -2))
    if name == "interval":
        return bool(jnp.all((x > -1) & (x < 3)))
    if name == "simplex":
        return bool(jnp.all(x > 0)) and abs(float(jnp.sum(x)) - 1) < 1e-12
    if name == "ordered":
        return bool(jnp.all(jnp.diff(x) > 0))
    if name == "cholesky correlation":
        is_factor = bool(jnp.all(jnp.diagonal(x) > 0)) and float(jnp.abs(jnp.triu(x, 1)).max()) == 0
        return is_factor and bool(jnp.allclose(jnp.diagonal(x @ x.T), 1.0, atol=1e-12))
    return name == "real" or bool(jnp.all(jnp.diff(x) > 0) and x[0] > 0)


@pytest.mark.parametrize("name", KINDS)
class TestTransforms:
    def test_maps_onto_the_constraint_and_back_with_its_volume(self, name):
        make, shape, free = KINDS[name]
        transform = make()
        u = jax.random.normal(jax.random.key(1), transform.unconstrained_shape(shape))
        x = transform.forward(u)
        assert x.shape == shape
        assert holds(name, x)
        np.testing.assert_allclose(transform.inverse(x), u, atol=1e-9)
        # From differentiation: the determinant of the free coordinates by the unconstrained ones.
        jacobian = jax.jacobian(lambda flat: free(transform.forward(flat.reshape(u.shape))).ravel())(
            u.ravel()
        )
        np.testing.assert_allclose(transform.log_det(u), jnp.linalg.slogdet(jacobian)[1], rtol=1e-9)

    def test_takes_many_values_and_keeps_float32(self, name):
        make, shape, _ = KINDS[name]
        transform = make()
        us = jax.random.normal(jax.random.key(2), (2, 5, *transform.unconstrained_shape(shape)), jnp.float32)
        xs = transform.forward(us)
        assert xs.shape == (2, 5, *shape)
        assert xs.dtype == transform.log_det(us).dtype == jnp.float32
        np.testing.assert_allclose(xs[1, 3], transform.forward(us[1, 3]), rtol=1e-6)
        total = sum(float(transform.log_det(u)) for u in us.reshape(10, *us.shape[2:]))
        np.testing.assert_allclose(transform.log_det(us), total, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [2, 4, 5, 10])
def test_correlations_near_one_keep_their_digits(size):
    """In single precision 1 - tanh² has none left from 8 on. NumPyro's formula serves in double precision, as far as it
    goes."""
    transform = transforms.cholesky_correlation()
    (num,) = transform.unconstrained_shape((size, size))
    for largest in (0.0, 1.0, 5.0, 8.0, 12.0):
        u = largest * jax.random.uniform(jax.random.key(size), (num,), minval=-1, maxval=1)
        if largest <= 5:
            theirs, jacobian = transform.bijection, transform.bijection.log_abs_det_jacobian
            np.testing.assert_allclose(transform.forward(u), theirs(u), rtol=1e-5, atol=1e-12)
            np.testing.assert_allclose(transform.log_det(u), jacobian(u, theirs(u)), rtol=1e-5, atol=1e-9)
        single = u.astype(jnp.float32)
        np.testing.assert_allclose(transform.log_det(single), transform.log_det(u), rtol=1e-5, atol=1e-5)
        own, exact = jax.grad(transform.log_det)(single), jax.grad(transform.log_det)(u)
        np.testing.assert_allclose(own, exact, rtol=1e-4, atol=1e-5)
    far = transform.log_det(jnp.full(num, 80.0, jnp.float32))
    assert np.isfinite(far)
    assert np.all(np.diagonal(transform.forward(jnp.full(num, 8.0, jnp.float32))) > 0)


def test_the_volume_of_half_precision_is_summed_in_single():
    u = jnp.full((3000,), -1.5, jnp.bfloat16)
    total = transforms.positive().log_det(u)
    assert total.dtype == jnp.float32
    np.testing.assert_allclose(total, -4500.0, rtol=1e-6)


class TestDensities:
    SPACE = transforms.over(
        lambda x: (
            2 * jnp.log(x["rate"]) - 3 * x["rate"] + jnp.sum(jnp.array([1.0, 2.0, 3.0]) * jnp.log(x["p"]))
        ),
        {"rate": transforms.positive(), "p": transforms.simplex()},
    )

    def test_samples_have_the_moments_of_the_constrained_density(self):
        """Gamma(3, 3) and Dirichlet(2, 3, 4): skewed, and without the volume they would be others."""
        algorithm = hmcvae.hmc(self.SPACE.logdensity_fn, 0.5, hmcvae.uniform_steps(1, 6))
        starts = {"rate": jnp.zeros(16), "p": jnp.zeros((16, 2))}
        samples = hmcvae.sample(jax.random.key(3), algorithm, starts, num_samples=400, num_warmup=60)
        values = self.SPACE.constrain(samples.position)
        assert values["p"].shape == (16, 400, 3)
        exact = {"rate": (1.0, 3 / 9), "p": (np.array([2, 3, 4]) / 9, np.array([14, 18, 20]) / 810)}
        for name, (mean, variance) in exact.items():
            draws = np.asarray(values[name])
            # The chains' own means tell how far the mean of all is off.
            error = draws.mean(1).std(0, ddof=1) / 4
            assert np.all(np.abs(draws.mean((0, 1)) - mean) < 4.5 * error)
            np.testing.assert_allclose(draws.var((0, 1)), variance, rtol=0.15)

    def test_one_transform_stands_for_all_below_it(self):
        space = transforms.over(lambda x: -jnp.sum(x["a"]["b"]) - x["a"]["c"], {"a": transforms.positive()})
        u = {"a": {"b": jnp.array([0.1, -0.2]), "c": jnp.array(0.3)}}
        flat = ravel_pytree(u)[0]
        np.testing.assert_allclose(space.logdensity_fn(u), jnp.sum(flat - jnp.exp(flat)))
        back = space.unconstrain(space.constrain(u))
        np.testing.assert_allclose(ravel_pytree(back)[0], flat, atol=1e-12)

    def test_it_is_a_pure_function(self):
        u = {"rate": jnp.array(0.3), "p": jnp.array([0.2, -0.4])}
        gradient = jax.jit(jax.grad(self.SPACE.logdensity_fn))(u)
        step = 1e-6
        moved = {**u, "rate": u["rate"] + step}
        numeric = (self.SPACE.logdensity_fn(moved) - self.SPACE.logdensity_fn(u)) / step
        np.testing.assert_allclose(gradient["rate"], numeric, rtol=1e-4)


class TestRefusals:
    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda: transforms.interval(1.0, 1.0), "high must be a finite number greater than 1"),
            (lambda: transforms.interval("a", 1.0), "low must be"),
            (lambda: transforms.interval(-2e38, 2e38), "high - low must be a number of single precision"),
            (lambda: transforms.greater_than(jnp.inf), "low must be a finite number"),
            (lambda: transforms.from_constraint("positive"), "expected one of numpyro"),
            (lambda: transforms.from_constraint(constraints.boolean), "with a bijection"),
            (lambda: transforms.over(jnp.sum, {"a": "positive"}), "transforms must be a tree"),
            (lambda: transforms.over(jnp.sum, {}), "transforms must be a tree"),
            (
                lambda: transforms.over(jnp.sum, {"a": None, "b": transforms.positive()}),
                r"real\(\) for what may be any number, got {'a': None",
            ),
            (
                lambda: transforms.positive().inverse(jnp.array([1.0, -1.0])),
                "expected values that are positive",
            ),
            (lambda: transforms.simplex().inverse(jnp.array([0.5, 0.6])), "on a simplex"),
            (
                lambda: TestDensities.SPACE.constrain({"rate": jnp.zeros(())}),
                "expected values of the transforms'",
            ),
            (
                lambda: transforms.over(lambda x: x, transforms.positive()).logdensity_fn(jnp.zeros(2)),
                "must return a scalar",
            ),
        ],
    )
    def test_bad_input_is_refused_in_words(self, call, words):
        with pytest.raises(ValueError, match=words):
            call()


class TestShares:
    """Values on a simplex whose sticks are all but used up, or hardly broken."""

    @pytest.mark.parametrize("size", [2, 3, 10, 50])
    def test_the_volume_keeps_its_digits_in_single_precision(self, size):
        transform = transforms.simplex()
        for scale in (1.0, 10.0, 30.0):
            u = scale * jax.random.normal(jax.random.key(size), (size - 1,))
            single = u.astype(jnp.float32)
            np.testing.assert_allclose(transform.log_det(single), transform.log_det(u), rtol=1e-4, atol=1e-4)
            own, exact = jax.grad(transform.log_det)(single), jax.grad(transform.log_det)(u)
            np.testing.assert_allclose(own, exact, rtol=1e-3, atol=1e-4)
            assert np.all(transform.forward(single) > 0)
            np.testing.assert_allclose(jnp.sum(transform.forward(single)), 1.0, rtol=1e-6)
            if scale == 1:
                theirs = constraints_bijection()
                np.testing.assert_allclose(transform.forward(u), theirs(u), rtol=1e-9)
                np.testing.assert_allclose(
                    transform.log_det(u), theirs.log_abs_det_jacobian(u, theirs(u)), rtol=1e-9
                )
                np.testing.assert_allclose(transform.inverse(transform.forward(single)), single, atol=1e-4)

    @pytest.mark.parametrize("alpha", [0.02, 0.1, 0.5])
    def test_few_large_shares_have_their_mass_in_single_precision(self, alpha):
        """Dirichlet(α, α), of which much lies where σ(u) is 1 in single precision."""
        space = transforms.over(lambda x: (alpha - 1) * jnp.sum(jnp.log(x)), transforms.simplex())
        u = jnp.linspace(-80, 80, 16001, dtype=jnp.float32)
        logs = np.asarray(jax.vmap(space.logdensity_fn)(u[:, None]), np.float64)
        # log p(u) = α (log σ(u) + log σ(-u)), written in double precision.
        at = np.asarray(u, np.float64)
        exact = -alpha * (np.abs(at) + 2 * np.log1p(np.exp(-np.abs(at))))
        np.testing.assert_allclose(logs, exact, rtol=2e-5, atol=2e-5)

    @pytest.mark.parametrize("at", [-1000.0, -120.0, 120.0, 1000.0])
    def test_far_out_the_density_falls_as_the_volume_does(self, at):
        space = transforms.over(lambda x: -0.9 * jnp.sum(jnp.log(x)), transforms.simplex())
        u = jnp.array([at], jnp.float32)
        value, slope = jax.value_and_grad(space.logdensity_fn)(u)
        assert np.isfinite(value)
        # As e^{-|u|} and no slower, beyond the smallest number that a share can be.
        np.testing.assert_allclose(slope, [-np.sign(at)], rtol=1e-5)

    @pytest.mark.parametrize("at", [-1000.0, -95.0])
    def test_positive_numbers_that_underflow_are_above_zero(self, at):
        """Gamma(0.1, 1): without it the density would be infinite there."""
        space = transforms.over(lambda x: -0.9 * jnp.log(x) - x, transforms.positive())
        u = jnp.float32(at)
        assert space.constrain(u) > 0
        value, slope = jax.value_and_grad(space.logdensity_fn)(u)
        assert np.isfinite(value)
        np.testing.assert_allclose(slope, 1.0, rtol=1e-5)

    def test_what_holds_simplices_and_correlations_has_the_same_formulas(self):
        several = transforms.from_constraint(constraints.independent(constraints.simplex, 1))
        u = jnp.full((2, 2), -120.0, jnp.float32)
        np.testing.assert_allclose(several.log_det(u), 2 * transforms.simplex().log_det(u[0]), rtol=1e-6)
        factors, products = (
            transforms.from_constraint(constraint)
            for constraint in (constraints.corr_cholesky, constraints.corr_matrix)
        )
        far = jnp.full((3,), 12.0, jnp.float32)
        np.testing.assert_allclose(factors.log_det(far), transforms.cholesky_correlation().log_det(far))
        assert np.isfinite(products.log_det(far))

    def test_numpyro_itself_is_left_as_it_was(self):
        before = type(constraints_bijection())
        transforms.simplex()
        assert type(constraints_bijection()) is before
        with ours_in_models():
            assert type(constraints_bijection()) is not before
        with pytest.raises(ZeroDivisionError), ours_in_models():
            1 / 0
        assert type(constraints_bijection()) is before


def constraints_bijection():
    """NumPyro's onto a simplex, as it is registered."""
    return pytest.importorskip("numpyro.distributions").biject_to(constraints.simplex)


@pytest.mark.parametrize(
    ("transform", "x"),
    [
        (lambda: transforms.interval(0.0, 1.0), [0.0, 0.5]),
        (lambda: transforms.interval(0.0, 1.0), [0.5, 1.0]),
        (transforms.simplex, [0.0, 0.5, 0.5]),
        (transforms.simplex, [0.5, 0.5, 0.0]),
    ],
)
def test_values_on_the_edge_have_no_unconstrained_ones(transform, x):
    with pytest.raises(ValueError, match="not on the edge"):
        transform().inverse(jnp.array(x))


def test_whole_numbers_are_real_ones():
    """Rounded logarithms would be other values."""
    for transform, x in ((transforms.positive(), [2, 3, 10]), (transforms.interval(0, 10), [2, 3, 8])):
        u = transform.inverse(jnp.array(x))
        assert u.dtype == jnp.float64
        np.testing.assert_allclose(transform.forward(u), x)
        np.testing.assert_array_equal(
            transform.forward(jnp.array([1, 2])), transform.forward(jnp.array([1.0, 2.0]))
        )
        np.testing.assert_array_equal(
            transform.log_det(jnp.array([1, 2])), transform.log_det(jnp.array([1.0, 2.0]))
        )
