"""What the benchmark of softness finds: rows that go into its JSON and come back from it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import arviz
import jax
import jax.numpy as jnp
import numpy as np

import hmcvae
from experiments.benchmarks.softness.config import Config
from experiments.benchmarks.softness.densities import build


@dataclass(frozen=True)
class Row:
    """Of one softness on one posterior.

    scaled: whether in units of the standard deviations.  failed, irreversible, divergent: shares of the transitions.
    iterations: of the solvers, a transition.  least_ess: the least bulk ESS of z and of z², of `num_draws` draws.
    """

    posterior: str
    scaled: bool
    softness: float
    step_size: float
    acceptance: float
    failed: float
    irreversible: float
    divergent: float
    iterations: float
    least_ess: float
    num_draws: int

    @property
    def cost(self) -> float:
        """Iterations for an effective draw."""
        return self.iterations * self.num_draws / self.least_ess


@dataclass(frozen=True)
class Findings:
    rows: list[Row]

    def to_json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(report: dict) -> "Findings":
        return Findings([Row(**row) for row in report["rows"]])


def rows(name: str, config: Config) -> Iterator[Row]:
    """All softnesses, in both units. One algorithm, whose metric alone is another each time: one compilation."""
    logdensity_fn, point = build(name, config.data_dir)
    positions = starts(logdensity_fn, point, config)
    deviations = jnp.std(positions.reshape(-1, len(point)), axis=0)
    algorithm = hmcvae.rmhmc(
        logdensity_fn,
        0.1,
        hmcvae.uniform_steps(1, config.num_steps, shared=True),
        hmcvae.metrics.softabs(logdensity_fn, 1.0, jnp.ones(len(point))),
        solver=hmcvae.solvers.newton(),
    )
    for scale, scaled in ((jnp.ones(len(point)), False), (deviations, True)):
        for softness in config.softnesses:
            metric = hmcvae.metrics.softabs(logdensity_fn, softness, scale)
            samples = hmcvae.sample(
                jax.random.key(config.seed),
                algorithm._replace(metric=metric),
                positions[:, -1],
                num_samples=config.num_samples,
                num_warmup=config.num_warmup,
                target_acceptance=config.target_acceptance,
            )
            yield row(name, scaled, softness, samples)


def starts(logdensity_fn: Any, point: np.ndarray, config: Config) -> jax.Array:
    """[chain, draw, d], draws of `hmcvae.nuts`: their last ones are where chains start, and their standard deviations
    the scale."""
    key = jax.random.key(config.seed)
    noise = 0.1 * jax.random.normal(jax.random.fold_in(key, 7), (config.num_chains, len(point)))
    found = hmcvae.sample(
        jax.random.fold_in(key, 8),
        hmcvae.nuts(logdensity_fn, 0.1),
        jnp.asarray(point)[None] + noise,
        num_samples=2 * config.num_samples,
        num_warmup=2 * config.num_warmup,
        target_acceptance=0.9,
    )
    return jnp.asarray(found.position)


def row(name: str, scaled: bool, softness: float, samples: Any) -> Row:
    """Of one run."""
    draws, counts = np.asarray(samples.position), samples.counts
    least = min(
        float(arviz.ess(arviz.convert_to_dataset(values), method="bulk")["x"].min())
        for values in (draws, draws**2)
    )
    num_draws = draws.shape[0] * draws.shape[1]
    return Row(
        posterior=name,
        scaled=scaled,
        softness=softness,
        step_size=float(samples.adaptation.step_size),
        acceptance=float(counts.acceptance_rate),
        failed=int(counts.num_unconverged) / num_draws,
        irreversible=int(counts.num_irreversible) / num_draws,
        divergent=int(counts.num_divergent) / num_draws,
        iterations=float(np.asarray(samples.info.solver.num_iterations, np.float64).mean()),
        least_ess=least,
        num_draws=num_draws,
    )
