"""How long the epochs of several methods take, on equal terms."""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp

from experiments.configs import TrainConfig
from experiments.runs.model import build, load_data
from experiments.support.timing import seconds_of
from hmcvae import training


def seconds_per_epoch(
    configs: Mapping[str, TrainConfig], num_rounds: int = 3, num_images: int = 0
) -> dict[str, float]:
    """Seconds of an epoch by name, the fastest of some rounds. Every round times each method once, so that
    whatever else the machine does falls on all of them; the trainings' own clocks ran at different times.
    With num_images, the epochs timed are of so many and the seconds in proportion."""
    epochs, factors = {}, {}
    for name, config in configs.items():
        dataset = load_data(config)
        model = build(config, dataset)
        optimizer = config.training.make_optimizer(len(dataset.train) // config.training.batch_size)
        epoch = training.make_epoch(model.bound, optimizer, config.training, model.preprocess)
        state = training.init_state(model.params, optimizer, 0)
        images = jnp.asarray(dataset.train[: num_images or None])
        factors[name] = len(dataset.train) / len(images)
        epochs[name] = partial(epoch, state, images)
        seconds_of(epochs[name])  # compile
    rounds = [{name: seconds_of(call) for name, call in epochs.items()} for _ in range(num_rounds)]
    return {name: factors[name] * min(taken[name] for taken in rounds) for name in epochs}
