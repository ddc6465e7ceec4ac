"""What the benchmark of masses finds: rows that go into its JSON and come back from it."""

from dataclasses import asdict, dataclass
from typing import Any

import arviz
import jax
import jax.numpy as jnp
import numpy as np

import hmcvae
from experiments.benchmarks.masses.config import Config
from experiments.benchmarks.masses.densities import build


@dataclass(frozen=True)
class Row:
    """Of one form of mass on one posterior, a number a seed.

    gradients: for an effective draw, by the least bulk ESS.  divergent: transitions of all seeds.
    """

    posterior: str
    mass: str
    gradients: list[float]
    least_ess: list[float]
    steps: list[float]
    acceptance: float
    divergent: int

    @property
    def mean(self) -> float:
        """The geometric mean of the gradients for an effective draw."""
        return float(np.exp(np.mean(np.log(self.gradients))))


@dataclass(frozen=True)
class Findings:
    rows: list[Row]

    def to_json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(report: dict) -> "Findings":
        return Findings([Row(**row) for row in report["rows"]])


def row(name: str, mass: str, config: Config) -> Row:
    """Runs of all seeds."""
    logdensity_fn, point = build(name, config.data_dir)
    algorithm: Any = hmcvae.nuts(logdensity_fn, 0.1)
    gradients, least, steps, rates, divergent = [], [], [], [], 0
    for seed in range(config.num_seeds):
        key = jax.random.key(seed)
        noise = 0.1 * jax.random.normal(jax.random.fold_in(key, 7), (config.num_chains, len(point)))
        samples = hmcvae.sample(
            key,
            algorithm,
            jnp.asarray(point)[None] + noise,
            num_samples=config.num_samples,
            num_warmup=config.num_warmup,
            adapt_mass=mass,
        )
        draws = arviz.convert_to_dataset(np.asarray(samples.position))
        least.append(float(arviz.ess(draws, method="bulk")["x"].min()))
        taken = np.asarray(samples.info.num_integration_steps, np.float64)
        gradients.append(float(taken.sum()) / least[-1])
        steps.append(float(taken.mean()))
        rates.append(float(samples.counts.acceptance_rate))
        divergent += int(samples.counts.num_divergent)
    return Row(name, mass, gradients, least, steps, float(np.mean(rates)), divergent)
