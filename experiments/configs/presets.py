"""Ready-made settings, each with the minutes that it takes and the figures to expect, where they were measured."""

import dataclasses
from typing import NamedTuple

from experiments.configs.config import TrainConfig
from experiments.configs.methods import Elbo, Hierarchical, Hvi, Method, Rhvi
from experiments.configs.nets import NETS
from experiments.configs.posteriors import Fisher, FullCovariance, SketchedFisher
from experiments.configs.training import Options
from hmcvae._checks import check_choice


class Preset(NamedTuple):
    """minutes: of training and evaluation, on `device`; None: not measured.  expect: bound and log p(x) on the test set
    at the end, in nats."""

    config: TrainConfig
    minutes: float | None = None
    expect: str = "not measured"
    device: str = "two cores"

    @property
    def summary(self) -> str:
        """What it trains, on what, in one line."""
        config = self.config
        net = ("conv " if config.architecture == "conv" else "") + "-".join(map(str, config.hidden))
        return f"{config.method.label}; {config.dataset}, {net}, {config.latent_dim} latents"


def _digits(method: Method, **changes) -> TrainConfig:
    return TrainConfig(method=method, **changes)


def _mnist(method: Method, **changes) -> TrainConfig:
    options = Options(num_epochs=100, batch_size=200)
    settings: dict = {"dataset": "mnist", "latent_dim": 20, "hidden": (200, 200), "training": options}
    return TrainConfig(method=method, **(settings | changes))


def _conv(method: Method, hidden: int = 450) -> TrainConfig:
    options = Options(num_epochs=1000, batch_size=250, clip_norm=100.0, patience=50)
    settings = {"latent_dim": 32, "architecture": "conv", "hidden": (hidden,), "num_validation": 10000}
    return _mnist(method, training=options, **settings)


def _cifar(method: Method) -> TrainConfig:
    options = Options(num_epochs=100, batch_size=100, clip_norm=1000.0, patience=20)
    changes = {"dataset": "cifar10", "likelihood": "discretised_logistic", "latent_dim": 128}
    return dataclasses.replace(_conv(method), training=options, num_validation=500, **changes)


# Steps of a quarter of a period in all, π/2 in whitened coordinates, start near where training takes them. But the
# features of a conv net are all of one sign, so its first steps in training throw the factor far: there a leapfrog of
# this length diverges, and dynamics begin short.
_AMORTISED = Hvi(FullCovariance(num_centre_steps=2), initial_step_size=0.3)
_CONV_AMORTISED = dataclasses.replace(_AMORTISED, initial_step_size=0.03)

TABLE: dict[str, Preset] = {
    "digits": Preset(_digits(Hvi()), 2, "bound -23.1, log p(x) -22.6 (each ± 0.2)"),
    "digits_vae": Preset(_digits(Elbo())),
    "digits_2d": Preset(_digits(Hvi(), latent_dim=2)),
    "mnist_vae": Preset(_mnist(Elbo())),
    "mnist_iwae": Preset(_mnist(Elbo(num_samples=5))),
    "mnist_hvi1": Preset(_mnist(Hvi(num_steps=1))),
    "mnist_hvi": Preset(_mnist(Hvi())),
    "mnist_hvi_plain": Preset(_mnist(Hvi(learned_momentum=False))),
    "mnist_full_gaussian": Preset(_mnist(Elbo(FullCovariance()))),
    "mnist_recentred_gaussian": Preset(_mnist(Elbo(FullCovariance(num_centre_steps=2)))),
    "mnist_amortised": Preset(_mnist(_AMORTISED)),
    "mnist_fisher": Preset(_mnist(Hvi(Fisher(num_centre_steps=1), initial_step_size=0.3))),
    "mnist_sketched": Preset(_mnist(Hvi(SketchedFisher(num_centre_steps=1)))),
    "mnist_hierarchical": Preset(_mnist(Hierarchical(mass_hidden=100))),
    "mnist_rhvi": Preset(_mnist(Rhvi(num_steps=2))),
    "mnist_2d": Preset(_mnist(Hvi(), latent_dim=2)),
    "mnist_conv_vae": Preset(_conv(Elbo())),
    "mnist_conv_hvi": Preset(_conv(Hvi(num_steps=16))),
    "mnist_conv_amortised": Preset(_conv(_CONV_AMORTISED)),
    "mnist_conv_amortised_800": Preset(_conv(_CONV_AMORTISED, 800)),
    "fashion_vae": Preset(_mnist(Elbo(), dataset="fashion_mnist")),
    "fashion_hvi": Preset(_mnist(Hvi(), dataset="fashion_mnist")),
    "fashion_amortised": Preset(_mnist(_AMORTISED, dataset="fashion_mnist")),
    "cifar10_vae": Preset(_cifar(Elbo())),
    "cifar10_hvi": Preset(_cifar(Hvi())),
    "cifar10_amortised": Preset(_cifar(_CONV_AMORTISED)),
    # A plain VAE on each of the published nets; `experiments.published` trains all methods on them.
    **{
        f"{net.dataset.partition('_')[0]}_{name}_vae": Preset(net.config(Elbo()))
        for name, net in NETS.items()
        if name not in ("digits", "cifar10")
    },
}
PRESETS: dict[str, TrainConfig] = {name: own.config for name, own in TABLE.items()}


def preset(name: str) -> TrainConfig:
    """A named setting.

    Raises:
        ValueError: if there is none of this name.
    """
    return PRESETS[check_choice("preset", name, PRESETS)]
