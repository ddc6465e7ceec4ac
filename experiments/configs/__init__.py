"""Settings of training runs: methods and posteriors as objects, the config, its presets and its command line."""

from experiments.configs.command_line import parse
from experiments.configs.config import (
    TrainConfig,
    differences,
    from_json,
    method_from_json,
    method_to_json,
    to_json,
)
from experiments.configs.limits import MAX_LOOP, MAX_TEMPERATURES, MAX_WIDTH
from experiments.configs.methods import Elbo, Hierarchical, Hvi, Method, Rhvi, Uha
from experiments.configs.nets import NETS, Net, Published
from experiments.configs.posteriors import (
    Encoder,
    Fisher,
    FullCovariance,
    MeanField,
    Posterior,
    SketchedFisher,
)
from experiments.configs.presets import PRESETS, TABLE, preset
from experiments.configs.training import Options, check_optimizer, rate_of

__all__ = [
    "MAX_LOOP",
    "MAX_TEMPERATURES",
    "MAX_WIDTH",
    "NETS",
    "PRESETS",
    "TABLE",
    "Elbo",
    "Encoder",
    "Fisher",
    "FullCovariance",
    "Hierarchical",
    "Hvi",
    "MeanField",
    "Method",
    "Net",
    "Options",
    "Posterior",
    "Published",
    "Rhvi",
    "SketchedFisher",
    "TrainConfig",
    "Uha",
    "check_optimizer",
    "differences",
    "from_json",
    "method_from_json",
    "method_to_json",
    "parse",
    "preset",
    "rate_of",
    "to_json",
]
