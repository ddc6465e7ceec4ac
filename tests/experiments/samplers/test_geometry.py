"""The comparison "where geometry wins": its densities against other formulas, its rows, its page and its picture."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from experiments.samplers.geometry import (
    contestants,
    cox,
    facts,
    figures,
    funnels,
    hierarchies,
    lists,
    measure,
    neurons,
    summary,
    tables,
    volatility,
)
from experiments.samplers.geometry.run import Record
from hmcvae import metrics
from tests.support.metrics import differences as by_differences

RNG = np.random.default_rng(5)


def differences(function, points):
    """log p at the points, less that at the first: constants do not count."""
    values = np.array([float(function(point)) for point in points])
    return values[1:] - values[0]


def check_density(form, log_joint, points, rtol=1e-9):
    """Against a formula in common coordinates and the Jacobian of the map to them."""

    def expected(z):
        common = form.to_common(jnp.asarray(z))
        log_jacobian = 0.0
        if common.shape == z.shape:
            log_jacobian = np.linalg.slogdet(jax.jacobian(form.to_common)(jnp.asarray(z)))[1]
        return log_joint(np.asarray(common)) + log_jacobian

    came = differences(lambda z: form.logdensity_fn(jnp.asarray(z)), points)
    np.testing.assert_allclose(came, differences(expected, points), rtol=rtol)


def test_funnel():
    posterior = funnels.funnel(3)

    def exact(z):
        return stats.norm(0, 3).logpdf(z[0]) + stats.norm(0, np.exp(z[0] / 2)).logpdf(z[1:]).sum()

    points = RNG.normal(size=(3, 3))
    came = differences(posterior.forms["plain"].logdensity_fn, jnp.asarray(points))
    np.testing.assert_allclose(came, differences(exact, points))
    assert posterior.watched[0].exact == pytest.approx(stats.norm(0, 3).cdf(-5))


@pytest.mark.parametrize("name", ["centred", "noncentred", "fisher"])
def test_volatility(name):
    length = 4
    y = volatility.simulate(length)

    def exact(z):
        beta, phi, sigma, x = np.exp(z[0]), np.tanh(z[1]), np.exp(z[2]), z[3:]
        path = stats.norm(0, sigma / np.sqrt(1 - phi**2)).logpdf(x[0])
        path += stats.norm(phi * x[:-1], sigma).logpdf(x[1:]).sum()
        # 1/β by log β is flat; scaled inverse χ²(ν, s²) is inverse gamma (ν/2, ν s²/2).
        prior = stats.beta(20, 1.5).logpdf((phi + 1) / 2) + np.log(1 - phi**2)
        prior += stats.invgamma(5, scale=0.25).logpdf(sigma**2) + 2 * np.log(sigma)
        return stats.norm(0, beta * np.exp(x / 2)).logpdf(y).sum() + path + prior

    points = np.concatenate([RNG.uniform(0.3, 0.8, (3, 3)), RNG.normal(size=(3, length))], axis=1)
    check_density(volatility.volatility(length).forms[name], exact, points)


def test_volatility_metric_is_the_expected_hessian():
    """E over y and x of -∂² log p at fixed parameters: by y in closed form, by x from many paths."""
    length, u, num_paths = 4, jnp.array([0.1, 0.7, -0.3]), 40_000
    noise = jax.random.normal(jax.random.key(0), (num_paths, length))
    paths = jax.vmap(volatility.path_of_noise, (None, 0))(u, noise)

    # y² = β² exp(x) e², and log p is linear in e²: its mean is 1.
    def information(x):
        y = jnp.exp(0.5 * x + u[0])
        return -jax.hessian(lambda z: volatility.log_joint(y, z[:3], z[3:]))(jnp.concatenate([u, x]))

    draws = np.asarray(jax.jit(jax.vmap(information))(paths))
    G = np.asarray(metrics.banded(volatility.joint_bands).tensor(jnp.concatenate([u, paths[0]])))
    # β is seen in y alone and shares x's directions: the metric of latents and of parameters stand apart in it.
    error = draws.std(axis=0) / np.sqrt(num_paths) + 1e-9
    blocks = np.zeros_like(G, bool)
    blocks[:3, :3] = blocks[3:, 3:] = True
    assert (np.abs(draws.mean(axis=0) - G) < 5 * error)[blocks].all()


@pytest.mark.parametrize("name", ["whitened", "fisher", "mode"])
def test_cox(name, data_dir):
    field = cox.load(data_dir, side=4)
    assert field.counts.shape == (16,)
    assert cox.load(data_dir).counts.sum() == 421
    posterior = cox.cox(field)
    check_density(posterior.forms[name], lambda x: cox.log_joint(field, x), RNG.normal(size=(3, 16)), 1e-7)


def test_cox_metric_is_the_expected_hessian(data_dir):
    """In the coordinates of "fisher" it is the identity: A Aᵀ = G⁻¹ with G = Λ + Σ⁻¹."""
    field = cox.load(data_dir, side=4)
    A = np.asarray(jax.jacobian(cox.cox(field).forms["fisher"].to_common)(jnp.zeros(16)))
    rates = field.area * np.exp(cox.MEAN + cox.VARIANCE)
    # E over x ~ N(μ, Σ) of m exp x is m exp(μ + σ²/2); Girolami & Calderhead's Λ has σ² there.
    G = np.linalg.inv(field.covariance) + rates * np.eye(16)
    np.testing.assert_allclose(A.T @ G @ A, np.eye(16), atol=1e-8)


def test_cox_at_the_mode(data_dir):
    """The gradient is zero there, and the Hessian of -log p the identity."""
    form = cox.cox(cox.load(data_dir, side=4)).forms["mode"]
    np.testing.assert_allclose(jax.grad(form.logdensity_fn)(jnp.zeros(16)), 0, atol=1e-5)
    np.testing.assert_allclose(jax.hessian(form.logdensity_fn)(jnp.zeros(16)), -np.eye(16), atol=1e-8)


def test_schools_moments_are_those_of_the_density():
    """By another route: on a grid of μ and log τ, θ integrated by hand."""
    mu, log_tau = np.meshgrid(np.linspace(-25, 30, 400), np.linspace(-12, 6, 1201), indexing="ij")
    logs = stats.norm(0, 5).logpdf(mu) + stats.halfcauchy(0, 5).logpdf(np.exp(log_tau)) + log_tau
    for effect, error in zip(hierarchies.EFFECTS, hierarchies.ERRORS, strict=True):
        logs += stats.norm(mu, np.sqrt(error**2 + np.exp(2 * log_tau))).logpdf(effect)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    exact = hierarchies.schools_moments()
    assert exact["P(τ < 1)"] == pytest.approx(weights[:, :801].sum() - weights[:, 800].sum() / 2, rel=1e-3)
    assert exact["E[μ]"] == pytest.approx(np.sum(weights * mu), rel=1e-3)

    def joint(z):
        mu, tau, theta = z[0], np.exp(z[1]), z[2:]
        prior = stats.norm(0, 5).logpdf(mu) + stats.halfcauchy(0, 5).logpdf(tau) + z[1]
        seen = stats.norm(theta, hierarchies.ERRORS).logpdf(hierarchies.EFFECTS)
        return prior + stats.norm(mu, tau).logpdf(theta).sum() + seen.sum()

    check_density(hierarchies.eight_schools().forms["plain"], joint, RNG.normal(size=(3, 10)))


def test_horseshoe_forms_agree():
    posterior = hierarchies.horseshoe(8, 3)
    centred, other = posterior.forms["centred"], posterior.forms["noncentred"]
    check_density(other, lambda z: float(centred.logdensity_fn(jnp.asarray(z))), RNG.normal(size=(3, 8)))
    z = RNG.normal(size=8)
    moved = np.append(z[:1] + 0.3, z[1:])

    def prior(z):
        tau, s, scales, beta = np.exp(z[0]), np.exp(z[1]), np.exp(z[2:5]), z[5:]
        logs = stats.halfcauchy.logpdf([tau, s, *scales]).sum() + z[:5].sum()
        return logs + stats.norm(0, tau * scales).logpdf(beta).sum()

    seen = [float(centred.logdensity_fn(jnp.asarray(point))) - prior(point) for point in (z, moved)]
    assert seen[0] == pytest.approx(seen[1])  # τ is in the prior alone


def test_fitzhugh_nagumo():
    """Against SciPy's solver; and the metric against sensitivities by differences."""
    theta = np.array([0.25, 0.15, 2.8])
    times = np.linspace(0, neurons.END, neurons.NUM_TIMES)

    def slope(t, y):
        a, b, c = theta
        return [c * (y[0] - y[0] ** 3 / 3 + y[1]), -(y[0] - a + b * y[1]) / c]

    exact = integrate.solve_ivp(slope, (0, neurons.END), neurons.START, t_eval=times, rtol=1e-9, atol=1e-9)
    solve = jax.jit(neurons.solution)
    np.testing.assert_allclose(solve(jnp.asarray(theta)), exact.y.T, atol=2e-3)
    G = neurons.fitzhugh_nagumo().forms["fisher"].metric.tensor(jnp.asarray(theta))
    J = by_differences(lambda x: np.asarray(solve(jnp.asarray(x))).ravel(), theta)
    np.testing.assert_allclose(G, 4 * J @ J.T + np.eye(3) / 25, rtol=1e-5)


def test_every_posterior_has_its_facts():
    assert set(lists.POSTERIORS) == set(facts.FACTS)
    with pytest.raises(ValueError, match="posteriors must be among .*, got 'banana'"):
        lists.posteriors(["banana"], None)


def a_row(contestant, library, seed, ess, seconds, tail, error=0.003):
    watched = {"P(v < -5)": {"mean": tail, "error": error, "chains": [tail]}}
    identity = {"posterior": "funnel_10", "contestant": contestant, "form": "plain", "library": library}
    return identity | {
        "seed": seed,
        "num_warmup": 10,
        "num_samples": 100,
        "ess": [ess, ess, ess],
        "ess_square": [ess / 2, ess, ess],
        "least_ess": ess / 2,
        "rhat": 1.01,
        "gradients": 1e4,
        "failed": 3,
        "num_transitions": 400,
        "acceptance": 0.8,
        "seconds": seconds,
        "warm_seconds": 0.5,
        "compile_seconds": 9.0,
        "watched": watched,
    }


def a_report():
    rows = [a_row("HMC, hierarchical metric", "hmcvae", seed, 200.0, 1.0, 0.047) for seed in range(3)]
    rows += [a_row("BlackJAX NUTS", "blackjax", seed, 100.0, 4.0, 0.02) for seed in range(3)]
    rows += [a_row("NumPyro NUTS", "numpyro", seed, 100.0, 6.0, 0.05) for seed in range(3)]
    rows += [{"posterior": "funnel_10", "contestant": "nutpie", "form": "plain", "error": "ValueError: no"}]
    environment = {"device": "cpu", "num_cpus": 2, "jax": "0", **dict.fromkeys(facts.PEERS, "1")}
    config = {"num_chains": 4, "seeds": 3}
    report = {"command": "the command", "config": config, "environment": environment, "rows": rows}
    return json.loads(json.dumps(report))


def test_page_and_picture(tmp_path):
    report = a_report()
    page = tables.markdown(report)
    assert "came 0.0470 ± 0.0017 from HMC, hierarchical metric, 0.5 off: met." in page
    assert "came 12 × that of NumPyro NUTS, the fastest that is right there: **undecided**, " in page
    assert "| BlackJAX NUTS | 3 | 0.08 (**wrong**) | 200 |" in page
    assert "nutpie failed: ValueError: no" in page
    assert "Not measured here: NUTS, hierarchical metric, " in page
    figures.draw(report, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_a_verdict_needs_all_contestants_and_one_that_is_right():
    names = [c.name for c in lists.POSTERIORS["funnel_10"].contestants if not c.is_ours]

    def verdict(tail, seconds, names=names):
        rows = [a_row("HMC, hierarchical metric", "hmcvae", seed, 200.0, 1.0, 0.047) for seed in range(3)]
        rows += [a_row(name, "numpyro", seed, 100.0, seconds, tail) for name in names for seed in range(3)]
        found = summary.summaries(rows, {"P(v < -5)": funnels.TAIL_MASS})
        return list(facts.outcome("funnel_10", found))[1]

    assert verdict(0.05, 6.0).endswith(": met.")
    assert verdict(0.05, 0.6).endswith(": **not met**.")
    assert "**undecided**, there is none that is right" in verdict(0.01, 6.0)
    assert "**undecided**, not measured of the others' samplers: 2" in verdict(0.05, 6.0, names[2:])
    assert "none was measured: **undecided**" in verdict(0.05, 6.0, [])


def test_truth_is_what_the_others_say_where_it_is_not_known():
    more = [a_row("MAMS", "blackjax", seed, 100.0, 6.0, 0.049) for seed in range(3)]
    found = summary.summaries([*a_report()["rows"], *more], {})
    assert [s.is_right for s in found] == [True, False, True, True]
    spoiled = [row | {"rhat": 1.2} for row in a_report()["rows"] if "error" not in row]
    assert all(s.deviation is None and not s.is_right for s in summary.summaries(spoiled, {}))


def test_a_row_is_measured_and_kept(tmp_path):
    """A run of a few draws, its figures, and its record, which a second run finds."""
    posterior = measure.shortened(funnels.funnel(2), 100)
    bench = measure.Bench(posterior, contestants.hierarchical_hmc("hierarchical", 5), 2)
    row = bench.row(0)
    assert row["num_transitions"] == 2 * 40
    assert row["seconds"] > 0
    assert len(row["watched"]["E[v]"]["chains"]) == 2
    assert 1 <= row["gradients"] / row["num_transitions"] <= 5
    record = Record(tmp_path / "rows")
    record.add(row)
    again = Record(tmp_path / "rows")
    assert again.has(posterior="funnel_2", seed=0)
    assert not again.has(posterior="funnel_2", seed=1)


def test_an_error_of_a_mean_that_no_chain_knows_of():
    """Each chain is almost sure of its own mean; they are far apart."""
    values = np.repeat([[0.0], [1.0]], 50, axis=1) + 1e-3 * RNG.normal(size=(2, 50))
    assert measure.expectation(values)["error"] == pytest.approx(0.5, rel=0.01)
