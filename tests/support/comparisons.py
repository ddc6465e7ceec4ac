"""Settings of small comparisons on published nets."""

from experiments.published.config import PublishedConfig

# Trained and evaluated in seconds.
SMALL = {
    "num_epochs": 1,
    "num_trials": 0,
    "eval_samples": 8,
    "eval_images": 20,
    "bound_samples": 2,
    "ais_temperatures": 0,
    "monitor_samples": 2,
}


def options(tmp_path, **changes) -> PublishedConfig:
    own = {"methods": ("vae",), "seeds": (0,), "num_epochs": 2, "folder": tmp_path / "runs"}
    return PublishedConfig("digits", **(own | changes))
