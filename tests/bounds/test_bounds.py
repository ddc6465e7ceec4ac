"""Bounds on a model whose p(x) is known: unbiased weights, true gradients, and the limits that tie them together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae import bounds, integrators, metrics, transitions
from hmcvae.priors import gaussian_log_prob
from tests.support import models
from tests.support.weights import NUM_DRAWS, PARAMS, VAE, X, assert_unbiased, draws, log_q, perturbed


def make(name: str, num_transitions: int = 2, num_steps: int = 2) -> bounds.Bound:
    """Every kind of bound of the library, with all that it can learn."""
    conditional = models.conditional(0.15)
    hvi = {
        "num_transitions": num_transitions,
        "num_steps": num_steps,
        "reverse": conditional,
        "initial_step_size": 0.3,
    }
    # Short, nearly symmetric moves: the weights' variance is large otherwise, and a test of them has no power.
    short = models.conditional(0.02, log_scale=-2.0)
    kernel = transitions.gaussian_kernel(short, short)
    makers = {
        "elbo": lambda: bounds.elbo(VAE),
        "iwae": lambda: bounds.iwae(VAE, num_samples=4),
        "kernel": lambda: bounds.markov_chain(VAE, kernel, num_transitions),
        "hvi": lambda: bounds.hvi(VAE, **hvi),
        "hvi, plain": lambda: bounds.hvi(VAE, **(hvi | {"reverse": None})),
        "hvi, learned momentum": lambda: bounds.hvi(VAE, momentum=conditional, **hvi),
        "hvi, step a coordinate": lambda: bounds.hvi(VAE, per_coordinate_steps=True, **hvi),
        "hvi, checkpointed": lambda: bounds.hvi(VAE, checkpoint=True, **hvi),
        "hvi, 3 samples": lambda: bounds.importance_weighted(bounds.hvi(VAE, **hvi), 3),
    }
    return makers[name]()


NAMES = [
    "elbo",
    "iwae",
    "kernel",
    "hvi",
    "hvi, plain",
    "hvi, learned momentum",
    "hvi, step a coordinate",
    "hvi, checkpointed",
    "hvi, 3 samples",
]


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_unbiased(name):
    bound = make(name)
    assert_unbiased(draws(bound, perturbed(bound)))


@pytest.mark.parametrize(("num_transitions", "num_steps"), [(0, 5), (1, 0), (1, 1), (5, 5)])
@pytest.mark.parametrize("name", ["hvi", "hvi, learned momentum", "hvi, 3 samples"])
def test_weights_are_unbiased_for_every_length_of_chain(name, num_transitions, num_steps):
    bound = make(name, num_transitions, num_steps)
    assert_unbiased(draws(bound, perturbed(bound)))


@pytest.mark.parametrize("num_transitions", [0, 1, 5])
def test_markov_kernel_is_unbiased_for_every_length_of_chain(num_transitions):
    bound = make("kernel", num_transitions)
    assert_unbiased(draws(bound, perturbed(bound)))


# Plain HVI's parameters are among those of the others.
@pytest.mark.parametrize("name", [*(name for name in NAMES if name not in ("hvi", "hvi, plain")), "analytic"])
def test_gradients_equal_finite_differences(name):
    """All parameters, encoder, decoder and dynamics, second-order terms of the leapfrog included; float64."""
    bound = bounds.elbo(VAE, kl="analytic") if name == "analytic" else make(name)
    params = perturbed(bound)
    leaves, tree = jax.tree.flatten(params)
    sizes = [leaf.size for leaf in leaves]

    def value(flat):
        parts = jnp.split(flat, np.cumsum(sizes)[:-1])
        tree_of = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        return bound(jax.tree.unflatten(tree, tree_of), jax.random.key(2), X, 0.7)[0]

    flat = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
    assert flat.dtype == jnp.float64
    exact = jax.jit(jax.grad(value))(flat)
    h = 1e-5
    shifts = h * jnp.eye(flat.size)
    compiled = jax.jit(jax.vmap(value))
    numeric = (compiled(flat[None] + shifts) - compiled(flat[None] - shifts)) / (2 * h)
    np.testing.assert_allclose(exact, numeric, rtol=1e-5, atol=1e-5 * float(jnp.abs(numeric).max()))
    bound_gradients = jax.tree.leaves(
        jax.tree.unflatten(tree, jnp.split(exact, np.cumsum(sizes)[:-1]))["bound"]
    )
    assert all(np.abs(g).max() > 1e-8 for g in bound_gradients), "a parameter of the dynamics has no gradient"


@pytest.mark.parametrize("name", ["hvi", "kernel"])
def test_no_transitions_is_the_elbo(name):
    bound = make(name, num_transitions=0)
    params = {"vae": PARAMS, "bound": bound.init(jax.random.key(0))}
    key = jax.random.key(4)
    chain_value, info = bound(params, key, X)
    z = info.initial_position
    expected = VAE.log_joint(PARAMS, X, z) - log_q(z)
    np.testing.assert_allclose(chain_value, expected, rtol=1e-12)
    np.testing.assert_array_equal(info.position, z)
    means = [draws(b, params).mean() for b in (bound, bounds.elbo(VAE), bounds.elbo(VAE, kl="analytic"))]
    np.testing.assert_allclose(
        means, means[0], atol=4 * draws(bound, params).std() / np.sqrt(NUM_DRAWS) * 1.5
    )


def test_gap_is_zero_at_the_exact_optimum():
    """Exact q(z_0 | x), exact reverse (N(0, I) is exact at stationarity when the flow conserves H): every draw of the
    log weight is log p(x), to the leapfrog's energy error, which vanishes as ε²."""
    mean, covariance = models.exact_posterior(PARAMS, X)
    # A model whose posterior is diagonal, so that the encoder can be exact: orthogonal columns of W.
    W = jnp.array([[1.2, 0.0], [0.0, 0.8], [0.0, 0.0]])
    params = PARAMS | {"W": W}
    mean, covariance = models.exact_posterior(params, X)
    exact = hmcvae.VAE(
        lambda p, x: (mean, 0.5 * jnp.log(jnp.diag(covariance)), x), VAE.decode, VAE.likelihood, models.LATENT
    )
    errors = []
    for epsilon in (0.1, 0.05):
        bound = bounds.hvi(exact, num_transitions=2, num_steps=3, initial_step_size=epsilon)
        own = {"vae": params, "bound": bound.init(jax.random.key(0))}
        keys = jax.random.split(jax.random.key(1), 200)
        log_weights = jax.vmap(lambda key, b=bound, o=own: b(o, key, X)[0])(keys)
        errors.append(float(jnp.abs(log_weights - models.log_evidence(params, X)).max()))
    assert errors[0] < 0.1
    assert errors[1] < 0.3 * errors[0]


def test_hvi_is_its_definition_written_out():
    """One transition, two steps, with the leapfrog and every density spelled out."""
    conditional = models.conditional()
    bound = bounds.hvi(VAE, reverse=conditional, momentum=conditional, num_steps=2, initial_step_size=0.2)
    params = perturbed(bound)
    own = jax.tree.map(lambda leaf: leaf[0], params["bound"]["chain"])
    log_weight, info = bound(params, jax.random.key(9), X)
    start_key, chain_key = jax.random.split(jax.random.key(9))
    example = VAE.encoded(PARAMS, X)
    z0 = example.mean + jnp.exp(example.log_scale) * jax.random.normal(start_key, (models.LATENT,))
    np.testing.assert_allclose(z0, info.initial_position)
    mass = jnp.exp(own["log_mass"])
    epsilon = jax.nn.sigmoid(own["step_size"])
    mean, log_scale = conditional.apply(own["momentum"], example.features, z0)
    noise = jax.random.normal(jax.random.split(chain_key, 1)[0], z0.shape)
    v0 = jnp.sqrt(mass) * (mean + jnp.exp(log_scale) * noise)
    gradient = jax.grad(VAE.logdensity_fn(PARAMS, X))
    z, v = z0, v0
    for _ in range(2):
        v = v + epsilon / 2 * gradient(z)
        z = z + epsilon * v / mass
        v = v + epsilon / 2 * gradient(z)
    reverse_mean, reverse_log_scale = conditional.apply(own["reverse"], example.features, z)
    half_log_mass = 0.5 * own["log_mass"]
    log_q_v = gaussian_log_prob(v0, jnp.sqrt(mass) * mean, log_scale + half_log_mass)
    log_r = gaussian_log_prob(v, jnp.sqrt(mass) * reverse_mean, reverse_log_scale + half_log_mass)
    expected = VAE.log_joint(PARAMS, X, z) - log_q(z0) + log_r - log_q_v
    np.testing.assert_allclose(log_weight, expected, rtol=1e-10)
    np.testing.assert_allclose(info.position, z, rtol=1e-10)


def test_importance_weighting_is_tighter_and_ordered():
    bound = make("hvi")
    params = perturbed(bound)
    means = [draws(bounds.importance_weighted(bound, k), params, count=4000).mean() for k in (1, 4, 16)]
    evidence = float(models.log_evidence(PARAMS, X))
    assert means[0] < means[1] < means[2] < evidence


def test_kl_weight_scales_everything_but_the_likelihood():
    for bound in (make("elbo"), make("hvi")):
        params = perturbed(bound)
        full, info = bound(params, jax.random.key(0), X)
        half, _ = bound(params, jax.random.key(0), X, 0.5)
        none, _ = bound(params, jax.random.key(0), X, 0.0)
        np.testing.assert_allclose(none, info.log_likelihood, rtol=1e-12)
        np.testing.assert_allclose(half, 0.5 * (full + none), rtol=1e-12)


def test_info_reports_the_dynamics():
    bound = make("hvi")
    params = perturbed(bound)
    _, info = bound(params, jax.random.key(0), X)
    assert bool(info.solver.converged)
    assert float(info.energy_error) > 0
    assert not np.allclose(info.position, info.initial_position)
    stacked = bounds.importance_weighted(bound, 3)(params, jax.random.key(0), X)[1]
    assert stacked.position.shape == (3, models.LATENT)


def test_step_sizes_stay_positive_and_bounded():
    transition = transitions.hamiltonian(2, num_steps=1, initial_step_size=0.1, max_step_size=0.4)
    params = transition.init(jax.random.key(0))
    np.testing.assert_allclose(transitions.step_size(params, 0.4), 0.1, rtol=1e-6)
    for raw in (-1e3, -5.0, 5.0, 1e3):
        epsilon = float(transitions.step_size({"step_size": jnp.asarray(raw)}, 0.4))
        assert 0 <= epsilon <= 0.4


def test_contract_with_plain_functions_and_unknown_dimension():
    """The public contract, word for word: a plain reverse function, no latent_dim, float32."""
    vae = hmcvae.VAE(encode=VAE.encode, decode=VAE.decode, likelihood=VAE.likelihood)
    bound = hmcvae.bounds.hvi(
        vae, reverse=lambda params, features, z: (0.1 * z, jnp.zeros_like(z)), num_transitions=1, num_steps=4
    )
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), PARAMS)
    params = {"vae": single, "bound": bound.init(jax.random.key(0))}
    xs = jnp.stack([X, -X]).astype(jnp.float32)
    keys = jax.random.split(jax.random.key(1), 2)
    loss = -jnp.mean(jax.vmap(bound, (None, 0, 0))(params, keys, xs)[0])
    assert loss.dtype == jnp.float32
    assert jnp.isfinite(loss)
    value = bound(params, jax.random.PRNGKey(0), xs[0])[0]
    assert value.shape == ()


def test_dynamics_do_not_depend_on_the_batch():
    bound = make("hvi")
    params = perturbed(bound)
    keys = jax.random.split(jax.random.key(1), 5)
    xs = X[None] + 0.1 * jnp.arange(5.0)[:, None]
    together = jax.jit(jax.vmap(bound, (None, 0, 0)))(params, keys, xs)[0]
    alone = [bound(params, key, x)[0] for key, x in zip(keys, xs, strict=True)]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-10)


def test_absurd_step_sizes_give_a_weight_that_is_seen():
    bound = bounds.hvi(VAE, num_steps=40, initial_step_size=900.0, max_step_size=1000.0)
    params = {"vae": PARAMS, "bound": bound.init(jax.random.key(0))}
    log_weight, info = bound(params, jax.random.key(0), X)
    assert not np.isfinite(float(log_weight)) or float(log_weight) < -1e6
    assert not float(info.energy_error) < 1e6


@pytest.mark.parametrize(
    ("make_bad", "message"),
    [
        (lambda: bounds.hvi(VAE, num_steps=-1), "num_steps must be a whole number of at least 0, got -1"),
        (lambda: bounds.hvi(VAE, num_transitions=-2), "num_transitions must be a whole number"),
        (
            lambda: bounds.hvi(VAE, initial_step_size=-0.1),
            "initial_step_size must be a finite number greater than 0",
        ),
        (
            lambda: bounds.hvi(VAE, initial_step_size=float("nan")),
            "initial_step_size must be a finite number",
        ),
        (lambda: bounds.hvi(VAE, initial_step_size=True), "initial_step_size must be a finite number"),
        (lambda: bounds.hvi(VAE, latent_dim=True), "latent_dim must be a whole number"),
        (
            lambda: bounds.hvi(VAE, initial_step_size=2.0),
            "initial_step_size must be below max_step_size = 1.0, got 2.0",
        ),
        (lambda: bounds.hvi(VAE, reverse=3), "reverse must be None, a function"),
        (lambda: bounds.iwae(VAE, num_samples=0), "num_samples must be a whole number of at least 1, got 0"),
        (lambda: bounds.elbo(VAE, kl="exact"), 'kl must be "sampled" or "analytic"'),
        (lambda: bounds.importance_weighted(bounds.elbo(VAE, kl="analytic"), 5), "no estimate of p"),
        (lambda: hmcvae.VAE(VAE.encode, VAE.decode, VAE.likelihood, 0), "latent_dim must be"),
        (
            lambda: bounds.hvi(hmcvae.VAE(VAE.encode, VAE.decode, VAE.likelihood), per_coordinate_steps=True),
            "per_coordinate_steps needs latent_dim",
        ),
    ],
)
def test_bad_settings_are_refused(make_bad, message):
    with pytest.raises(ValueError, match=message):
        make_bad()


def test_encoders_of_another_kind_are_refused():
    two = hmcvae.VAE(lambda p, x: (x, x), VAE.decode, VAE.likelihood)
    with pytest.raises(
        ValueError, match=r"must return \(mean, log_scale, features\), .*, got tuple of length 2"
    ):
        bounds.elbo(two)({"vae": PARAMS, "bound": {"posterior": {}}}, jax.random.key(0), X)
    batched = hmcvae.VAE(lambda p, x: (x[None], x[None], x), VAE.decode, VAE.likelihood)
    with pytest.raises(ValueError, match="one shape \\[d\\] for one example"):
        bounds.elbo(batched)({"vae": PARAMS, "bound": {"posterior": {}}}, jax.random.key(0), X)


def test_masses_are_metrics_of_the_library():
    """The flow inside the bound is the library's leapfrog with a diagonal metric, not another copy."""
    metric = metrics.diagonal(jnp.array([2.0, 0.5]))
    step = integrators.leapfrog(VAE.logdensity_fn(PARAMS, X), metric)
    transition = transitions.hamiltonian(2, num_steps=1, initial_step_size=0.2)
    params = transition.init(jax.random.key(0)) | {"log_mass": jnp.log(metric.mass)}
    state = transition.begin(VAE.logdensity_fn(PARAMS, X), jnp.array([0.1, -0.2]))
    target = bounds.hvi(VAE).build({"vae": PARAMS, "bound": {"posterior": {}}}, jax.random.key(0), X)
    moved, _ = transition.step(params, jax.random.key(1), target, state)
    w = jax.random.normal(jax.random.key(1), (2,))
    expected, _ = step(state._replace(momentum=jnp.sqrt(metric.mass) * w), 0.2)
    np.testing.assert_allclose(moved.position, expected.position, rtol=1e-12)


def test_parameters_of_another_shape_are_named():
    for bound in (bounds.elbo(VAE), make("hvi")):
        with pytest.raises(
            ValueError, match='params must be {"vae": …, "bound": .*got \\[.A., .W., .b., .log_scale.\\]'
        ):
            bound(PARAMS, jax.random.key(0), X)


def test_a_decoder_of_another_shape_is_refused():
    """Broadcasting would sum every pixel against every output."""
    vae = hmcvae.VAE(VAE.encode, lambda p, z: VAE.decode(p, z)[:, None], VAE.likelihood)
    with pytest.raises(ValueError, match="outputs of x's shape \\(3,\\), got \\[\\(3, 1\\)\\]"):
        bounds.elbo(vae)({"vae": PARAMS, "bound": {"posterior": {}}}, jax.random.key(0), X)
