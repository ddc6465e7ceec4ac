"""The presets, with their data."""

import dataclasses
from typing import Any

from experiments.benchmarks.accelerator.config import Config
from experiments.configs import TrainConfig, preset
from experiments.runs.model import Model, build, load_data
from hmcvae import data


def loaded(name: str, config: Config, **changes: Any) -> tuple[TrainConfig, data.Dataset, Model]:
    """(config, data, model) of a preset."""
    chosen = dataclasses.replace(preset(name), data_dir=config.data_dir, **changes)
    dataset = load_data(chosen)
    return chosen, dataset, build(chosen, dataset)
