"""Every public number of the library, and what is done with good and bad ones; run by `test_checks` in a process of its
own, as a user runs it: without the annotations' checks, which would come first.

Prints one line of JSON a row: [name, [complaint, …]].
"""

import json
import tempfile
import warnings
from typing import Any

import jax
import jax.numpy as jnp

import hmcvae
from hmcvae import (
    annealing,
    bounds,
    evaluation,
    geodesics,
    integrators,
    likelihoods,
    metrics,
    networks,
    posteriors,
    solvers,
    transitions,
)
from hmcvae.samplers import find_start
from hmcvae.training import Checkpoints, Pixels, Settings, adam, make_monitor, muon
from tests.support.number_kinds import Row, complaints


def f(z):
    return -0.5 * jnp.sum(z**2)


def at(metric: Any) -> Any:
    """A metric used where its dimension is known."""
    return metric.tensor(jnp.ones(2))


KEY, EYE = jax.random.key(0), jnp.eye(2)
BERNOULLI = likelihoods.bernoulli()
VAE = hmcvae.VAE(lambda p, x: (x[:2], x[:2], x), lambda p, z: jnp.concatenate([z, z]), BERNOULLI, 2)
PARAMS = {"vae": {}, "bound": {"posterior": {}}}
ELBO = bounds.elbo(VAE)
XS = jnp.array([[0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
HMC = hmcvae.hmc(f, 0.5, 2)
STARTS = jnp.ones((2, 2)) * jnp.arange(1.0, 3.0)[:, None]
STATE = integrators.init(f, metrics.identity(), jnp.ones(2), jnp.ones(2))
STEP = integrators.leapfrog(f, metrics.identity())
AMORTISED = posteriors.full_covariance(4, 2)


def sample(**changes):
    return hmcvae.sample(KEY, HMC, STARTS, **({"num_samples": 4, "num_warmup": 0} | changes))


def estimate(**changes):
    return evaluation.estimate(ELBO, PARAMS, KEY, XS, **({"num_samples": 2} | changes))


def ais(**changes):
    settings = {"num_temperatures": 2, "num_chains": 2, "num_steps": 1} | changes
    return annealing.ais(VAE, {}, KEY, XS, **settings)


def checkpoints(keep):
    with tempfile.TemporaryDirectory() as folder:
        return Checkpoints(folder, keep=keep).close()


def geodesic(**changes):
    settings = {"num_points": 5, "max_iterations": 3} | changes
    return geodesics.geodesic(metrics.monge(f, 1.0), jnp.zeros(2), jnp.ones(2), **settings)


def rhvi(v):
    return bounds.rhvi(VAE, posterior=AMORTISED, position_dependence=v)


def options_rows() -> list[Row]:
    counts = dict.fromkeys(("num_epochs", "batch_size", "max_bad_steps"), 1)
    counts |= dict.fromkeys(("kl_warmup_epochs", "patience", "seed"), 0)
    rows = [
        Row(f"Settings.{name}", lambda v, name=name: Settings(**{name: v}), f"count >= {low}", 2)
        for name, low in counts.items()
    ]
    kinds = {"clip_norm": "real >= 0", "max_bad_share": "positive"}
    rows += [Row(f"Settings.{n}", lambda v, n=n: Settings(**{n: v}), kind, 0.5) for n, kind in kinds.items()]
    rows += [Row("training.Pixels.max_value", lambda v: Pixels(v), "count >= 1", 2)]
    for name, make in (("training.adam", adam), ("training.muon", muon)):
        rows += [Row(f"{name}.learning_rate", lambda v, make=make: make(v, "constant", 1), "positive", 0.5)]
        rows += [Row(f"{name}.num_steps", lambda v, make=make: make(0.1, "cosine", v), "count >= 1", 2)]
    return rows


def dynamics_rows() -> list[Row]:
    rows = []
    for name, make in (
        ("transitions.hamiltonian", lambda **o: transitions.hamiltonian(2, **o)),
        (
            "transitions.riemannian",
            lambda **o: transitions.riemannian(transitions.learned_decoder_metric(2), **o),
        ),
        ("transitions.hierarchical", lambda **o: transitions.hierarchical(2, **o)),
        ("bounds.hvi", lambda **o: bounds.hvi(VAE, **o)),
        ("bounds.hvi, full covariance", lambda **o: bounds.hvi(VAE, posterior=AMORTISED, **o)),
        ("bounds.rhvi", lambda **o: bounds.rhvi(VAE, posterior=AMORTISED, **o)),
        ("transitions.underdamped", lambda **o: transitions.underdamped(2, **o)),
        ("bounds.uha", lambda **o: bounds.uha(VAE, **o)),
    ):
        numbers = {
            "num_steps": ("count >= 0", 2),
            "initial_step_size": ("positive", 0.2),
            "max_step_size": ("positive", 2.0),
        }
        if name.startswith("bounds"):
            numbers["num_transitions"] = ("count >= 0", 2)
        if name in ("transitions.underdamped", "bounds.uha"):  # of one step
            del numbers["num_steps"]
            numbers["persistence"] = ("optional share, closed", 0.5)
        rows += [
            Row(f"{name}.{n}", lambda v, n=n, make=make: make(**{n: v}), kind, good)
            for n, (kind, good) in numbers.items()
        ]
    return rows


ROWS = [
    *options_rows(),
    *dynamics_rows(),
    Row("hmc.step_size", lambda v: hmcvae.hmc(f, v, 2), "positives", 0.5),
    Row("hmc.num_integration_steps", lambda v: hmcvae.hmc(f, 0.5, v), "count >= 1", 2),
    Row(
        "hmc.divergence_threshold", lambda v: hmcvae.hmc(f, 0.5, 2, divergence_threshold=v), "positive", 10.0
    ),
    Row(
        "hmc.reversibility_tolerance",
        lambda v: hmcvae.hmc(f, 0.5, 2, reversibility_tolerance=v),
        "optional positive",
        1e-3,
    ),
    Row("rmhmc.step_size", lambda v: hmcvae.rmhmc(f, v, 2, metrics.identity()), "positives", 0.5),
    Row(
        "rmhmc.num_integration_steps", lambda v: hmcvae.rmhmc(f, 0.5, v, metrics.identity()), "count >= 1", 2
    ),
    Row(
        "rmhmc.divergence_threshold",
        lambda v: hmcvae.rmhmc(f, 0.5, 2, metrics.identity(), divergence_threshold=v),
        "positive",
        10.0,
    ),
    Row(
        "rmhmc.reversibility_tolerance",
        lambda v: hmcvae.rmhmc(f, 0.5, 2, metrics.identity(), reversibility_tolerance=v),
        "optional positive",
        1e-3,
    ),
    Row("nuts.step_size", lambda v: hmcvae.nuts(f, v), "positives", 0.5),
    Row("nuts.max_depth", lambda v: hmcvae.nuts(f, 0.5, max_depth=v), "count >= 1", 5),
    Row("nuts.divergence_threshold", lambda v: hmcvae.nuts(f, 0.5, divergence_threshold=v), "positive", 10.0),
    Row(
        "nuts.reversibility_tolerance",
        lambda v: hmcvae.nuts(f, 0.5, reversibility_tolerance=v),
        "optional positive",
        1e-3,
    ),
    Row("mmala.step_size", lambda v: hmcvae.mmala(f, v, metrics.monge(f, 1.0)), "positive", 0.5),
    Row("uniform_steps.low", lambda v: hmcvae.uniform_steps(v, 9), "count >= 1", 2),
    Row("uniform_steps.high", lambda v: hmcvae.uniform_steps(1, v), "count >= 1", 2),
    Row("find_start.num_steps", lambda v: find_start(f, STARTS, num_steps=v), "count >= 1", 2, False),
    Row("sample.num_samples", lambda v: sample(num_samples=v), "count >= 1", 4, False),
    Row("sample.num_warmup", lambda v: sample(num_warmup=v), "count >= 0", 0, False),
    Row("sample.thin", lambda v: sample(thin=v), "count >= 1", 2, False),
    Row("sample.target_acceptance", lambda v: sample(target_acceptance=v), "share", 0.7, False),
    Row("metrics.diagonal.mass", lambda v: at(metrics.diagonal(v)), "positives", [1.0, 2.0]),
    Row("metrics.low_rank.mass", lambda v: at(metrics.low_rank(v, EYE, EYE[0] + 1)), "positives", [1.0, 2.0]),
    Row("low_rank.eigenvalues", lambda v: at(metrics.low_rank(EYE[0] + 1, EYE, v)), "positives", [1.0, 2.0]),
    Row(
        "metrics.hierarchical.first_mass",
        lambda v: metrics.hierarchical([0, 0, 1], jnp.sum, v).tensor(jnp.ones(3)),
        "positives",
        [1.0, 2.0],
    ),
    Row("metrics.softabs.softness", lambda v: metrics.softabs(f, softness=v), "optional positive", 10.0),
    Row("metrics.softabs.scale", lambda v: at(metrics.softabs(f, 1.0, v)), "optional positives", [1.0, 2.0]),
    Row("metrics.monge.alpha", lambda v: metrics.monge(f, v), "positive", 0.5),
    Row("solvers.fixed_point.tolerance", lambda v: solvers.fixed_point(v), "optional positive", 1e-6),
    Row(
        "solvers.fixed_point.max_iterations", lambda v: solvers.fixed_point(max_iterations=v), "count >= 1", 9
    ),
    Row(
        "solvers.fixed_point.num_iterations",
        lambda v: solvers.fixed_point(num_iterations=v),
        "optional count >= 1",
        3,
    ),
    Row("solvers.newton.tolerance", lambda v: solvers.newton(v), "optional positive", 1e-6),
    Row("solvers.switching.tolerance", lambda v: solvers.switching(v), "optional positive", 1e-6),
    Row("solvers.switching.max_iterations", lambda v: solvers.switching(max_iterations=v), "count >= 1", 9),
    Row(
        "solvers.switching.max_newton_iterations",
        lambda v: solvers.switching(max_newton_iterations=v),
        "count >= 1",
        9,
    ),
    Row("evaluation.low_ess.minimum", lambda v: evaluation.low_ess(jnp.ones(2), v), "real >= 0", 1.0),
    Row("solvers.newton.max_iterations", lambda v: solvers.newton(max_iterations=v), "count >= 1", 9),
    Row(
        "integrators.integrate.num_steps",
        lambda v: integrators.integrate(STEP, STATE, 0.1, v),
        "count >= 0",
        2,
    ),
    Row(
        "posteriors.full_covariance.num_features", lambda v: posteriors.full_covariance(v, 2), "count >= 1", 3
    ),
    Row("posteriors.full_covariance.latent_dim", lambda v: posteriors.full_covariance(3, v), "count >= 1", 2),
    Row("posteriors.fisher.latent_dim", lambda v: posteriors.fisher(v), "count >= 1", 2),
    Row("posteriors.fisher.num_probes", lambda v: posteriors.fisher(4, v), "optional count >= 1", 2),
    Row(
        "posteriors.low_rank.num_features", lambda v: posteriors.low_rank(AMORTISED, v, 2, 1), "count >= 1", 4
    ),
    Row("posteriors.low_rank.latent_dim", lambda v: posteriors.low_rank(AMORTISED, 4, v, 1), "count >= 1", 2),
    Row("posteriors.low_rank.rank", lambda v: posteriors.low_rank(AMORTISED, 4, 2, v), "count >= 1", 1),
    Row("posteriors.distilled.weight", lambda v: posteriors.distilled(AMORTISED, v), "positive", 0.5),
    Row(
        "posteriors.gauss_newton.num_steps", lambda v: posteriors.gauss_newton(AMORTISED, v), "count >= 0", 2
    ),
    Row("geodesics.geodesic.num_points", lambda v: geodesic(num_points=v), "count >= 2", 5, False),
    Row("geodesics.geodesic.max_iterations", lambda v: geodesic(max_iterations=v), "count >= 0", 3, False),
    Row("geodesics.geodesic.tolerance", lambda v: geodesic(tolerance=v), "positive", 1e-3, False),
    Row(
        "bounds.markov_chain.num_transitions",
        lambda v: bounds.markov_chain(VAE, transitions.hamiltonian(2), v),
        "count >= 0",
        2,
    ),
    Row(
        "bounds.importance_weighted.num_samples",
        lambda v: bounds.importance_weighted(ELBO, v),
        "count >= 1",
        2,
    ),
    Row("bounds.iwae.num_samples", lambda v: bounds.iwae(VAE, num_samples=v), "count >= 1", 2),
    Row("bounds.rhvi.position_dependence", rhvi, "optional share, closed", 0.5),
    Row(
        "transitions.learned_decoder_metric.latent_dim",
        transitions.learned_decoder_metric,
        "optional count >= 1",
        2,
    ),
    Row(
        "transitions.learned_decoder_metric.position_dependence",
        lambda v: transitions.learned_decoder_metric(2, v),
        "optional share, closed",
        0.5,
    ),
    Row("transitions.underdamped.latent_dim", transitions.underdamped, "optional count >= 1", 2),
    Row("bounds.uha.latent_dim", lambda v: bounds.uha(VAE, latent_dim=v), "optional count >= 1", 2),
    Row("transitions.hierarchical.latent_dim", transitions.hierarchical, "count >= 2", 2),
    Row(
        "transitions.learned_hierarchical_metric.latent_dim",
        transitions.learned_hierarchical_metric,
        "count >= 2",
        2,
    ),
    Row("likelihoods.gaussian.scale", likelihoods.gaussian, "optional positives", 0.5),
    Row("likelihoods.gaussian.min_scale", lambda v: likelihoods.gaussian(min_scale=v), "real >= 0", 0.1),
    Row("likelihoods.categorical.num_classes", likelihoods.categorical, "count >= 2", 3),
    Row(
        "likelihoods.discretised_logistic_mixture.num_components",
        likelihoods.discretised_logistic_mixture,
        "count >= 1",
        2,
    ),
    Row(
        "likelihoods.discretised_logistic_mixture.num_levels",
        lambda value: likelihoods.discretised_logistic_mixture(2, value),
        "count >= 2",
        16,
    ),
    Row("likelihoods.discretised_logistic.num_levels", likelihoods.discretised_logistic, "count >= 2", 16),
    Row(
        "VAE.latent_dim", lambda v: hmcvae.VAE(VAE.encode, VAE.decode, BERNOULLI, v), "optional count >= 1", 2
    ),
    Row("networks.reverse_model.num_features", lambda v: networks.reverse_model(v, 2), "count >= 1", 3),
    Row("networks.reverse_model.latent_dim", lambda v: networks.reverse_model(3, v), "count >= 1", 2),
    Row("networks.reverse_model.hidden", lambda v: networks.reverse_model(3, 2, v), "count >= 1", 2),
    Row(
        "networks.build_vae.latent_dim",
        lambda v: networks.build_vae((8, 8, 1), v, BERNOULLI),
        "count >= 1",
        2,
    ),
    Row(
        "networks.build_vae.image_shape",
        lambda v: networks.build_vae((8, 8, v), 2, BERNOULLI),
        "count >= 1",
        1,
    ),
    Row(
        "networks.build_vae.hidden",
        lambda v: networks.build_vae((8, 8, 1), 2, BERNOULLI, hidden=(v,)),
        "count >= 1",
        3,
    ),
    Row("evaluation.estimate.num_samples", lambda v: estimate(num_samples=v), "count >= 1", 2, False),
    Row("evaluation.estimate.chunk_size", lambda v: estimate(chunk_size=v), "count >= 1", 2, False),
    Row("evaluation.estimate.batch_size", lambda v: estimate(batch_size=v), "count >= 1", 2, False),
    Row(
        "evaluation.active_units.threshold",
        lambda v: evaluation.active_units(VAE, {}, XS, v),
        "real >= 0",
        0.1,
        False,
    ),
    Row("annealing.sigmoid_schedule.num_temperatures", annealing.sigmoid_schedule, "count >= 1", 3),
    Row("annealing.sigmoid_schedule.steepness", lambda v: annealing.sigmoid_schedule(3, v), "positive", 2.0),
    Row("annealing.ais.num_temperatures", lambda v: ais(num_temperatures=v), "count >= 1", 2, False),
    Row("annealing.ais.num_chains", lambda v: ais(num_chains=v), "count >= 1", 2, False),
    Row("annealing.ais.num_steps", lambda v: ais(num_steps=v), "count >= 1", 1, False),
    Row("annealing.ais.batch_size", lambda v: ais(batch_size=v), "count >= 1", 2, False),
    Row(
        "annealing.simulate.num_examples",
        lambda v: annealing.simulate(VAE, {}, KEY, v),
        "count >= 1",
        2,
        False,
    ),
    Row("Checkpoints.keep", checkpoints, "count >= 1", 2, False),
    Row("training.make_monitor.batch_size", lambda v: make_monitor(ELBO, batch_size=v), "count >= 1", 2),
]


def main() -> None:
    warnings.simplefilter("ignore")  # of samplers that have not mixed in four draws
    for row in ROWS:
        print(json.dumps([row.name, complaints(row)]), flush=True)


if __name__ == "__main__":
    main()
