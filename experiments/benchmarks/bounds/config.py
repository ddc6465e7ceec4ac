"""What the benchmark of the bounds measures."""

from dataclasses import dataclass

from experiments.benchmarks.training import config as training

OURS = (
    "VAE",
    "full Gaussian",
    "HVI",
    "amortised",
    "amortised recentred",
    "Fisher Gaussian",
    "Fisher",
    "Fisher recentred",
    "RHVI",
    "RHVI's parts",
)
PEERS = ("RHVAE",)


@dataclass(frozen=True)
class Config(training.Config):
    """Benchmark the bounds' training epochs, as `experiments.bench_training` does those of a VAE and of HVI."""

    one_core: bool = False
    extras: bool = False
    models: tuple[str, ...] = OURS
    peers: tuple[str, ...] = PEERS
