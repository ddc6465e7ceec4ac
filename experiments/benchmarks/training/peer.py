"""pythae's contestants: its models with our nets, trained in a plain loop and by its own trainer."""

import itertools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks.training.config import CHECKED, EXACT, LEARNING_RATE, MAX_PIXEL, MODELS, Config
from experiments.benchmarks.training.records import Epoch, Facts, Gradient
from experiments.support.machine import num_cores

OWN_TRAINER = ", its own trainer"


class PeerModel(NamedTuple):
    """make: (config, settings of any model, encoder, decoder) -> the model.

    takes_probabilities: from the decoder, where others take logits.
    """

    make: Callable[[Config, dict, Any, Any], Any]
    takes_probabilities: bool = False


def _vae(config: Config, settings: dict, encoder: Any, decoder: Any) -> Any:
    from pythae.models import VAE, VAEConfig

    return VAE(VAEConfig(**settings), encoder, decoder)


def _hvae_config(config: Config, settings: dict) -> Any:
    from pythae.models import HVAEConfig

    return HVAEConfig(n_lf=config.num_steps, eps_lf=0.1, learn_eps_lf=True, **settings)


def _hvae(config: Config, settings: dict, encoder: Any, decoder: Any) -> Any:
    from pythae.models import HVAE

    return HVAE(_hvae_config(config, settings), encoder, decoder)


def _exact_hvae(config: Config, settings: dict, encoder: Any, decoder: Any) -> Any:
    """With `create_graph`, which keeps the second-order terms."""
    import torch
    from pythae.models import HVAE

    class ExactHVAE(HVAE):
        def _dU_dz(self, z: Any, x: Any) -> Any:
            U = -self._log_p_x_given_z(self.decoder(z)["reconstruction"].reshape(len(x), -1), x).sum()
            return torch.autograd.grad(U, z, create_graph=True)[0] + z

    return ExactHVAE(_hvae_config(config, settings), encoder, decoder)


def _rhvae(config: Config, settings: dict, encoder: Any, decoder: Any) -> Any:
    """With its own metric net, 784-400-(20, 190)."""
    from pythae.models import RHVAE, RHVAEConfig

    return RHVAE(RHVAEConfig(n_lf=config.num_steps, **settings), encoder, decoder)


PEER_MODELS = {
    "VAE": PeerModel(_vae, takes_probabilities=True),
    "HVI": PeerModel(_hvae),
    EXACT: PeerModel(_exact_hvae),
    "RHVAE": PeerModel(_rhvae, takes_probabilities=True),
}


def make_nets(config: Config, image_shape: Any, takes_probabilities: bool) -> tuple[Any, Any]:
    """(encoder, decoder) of the same shape as ours."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from torch import nn

    height, width, channels = image_shape
    num_pixels = height * width * channels

    def layers(*widths: int) -> list[Any]:
        pairs = [(nn.Linear(n, m), nn.Tanh()) for n, m in itertools.pairwise(widths)]
        return [layer for pair in pairs for layer in pair]

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(*layers(num_pixels, *config.hidden))
            self.mean = nn.Linear(config.hidden[-1], config.latent_dim)
            self.log_variance = nn.Linear(config.hidden[-1], config.latent_dim)

        def forward(self, x: Any) -> Any:
            h = self.body(x.reshape(len(x), -1))
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            head = [nn.Linear(config.hidden[0], num_pixels), *([nn.Sigmoid()] * takes_probabilities)]
            self.body = nn.Sequential(*layers(config.latent_dim, *config.hidden[::-1]), *head)

        def forward(self, z: Any) -> Any:
            return ModelOutput(reconstruction=self.body(z).reshape(len(z), channels, height, width))

    return Encoder(), Decoder()


def make_model(config: Config, name: str, image_shape: Any) -> Any:
    """One of PEER_MODELS, with our nets; the seed is set."""
    import torch

    height, width, channels = image_shape
    settings = {
        "input_dim": (channels, height, width),
        "latent_dim": config.latent_dim,
        "reconstruction_loss": "bce",
    }
    chosen = PEER_MODELS[name]
    torch.manual_seed(0)
    return chosen.make(config, settings, *make_nets(config, image_shape, chosen.takes_probabilities))


def build(config: Config, images: np.ndarray, one_core: bool) -> tuple[dict[str, Epoch], dict[str, Facts]]:
    """Epochs by contestant, and what is known of each."""
    import torch

    torch.set_num_threads(1 if one_core else num_cores())
    torch.distributions.Distribution.set_default_validate_args(False)
    logging.disable(logging.INFO)
    grey = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / MAX_PIXEL
    epochs, known = {}, {}
    for name in config.peers:
        model = make_model(config, name, images.shape[1:]).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
        flops = count_flops(model, grey[: config.batch_size]) * config.num_batches
        epochs[name] = plain_epoch(config, model, optimizer, grey)
        if config.extras and not one_core and name in MODELS:
            own = make_model(config, name, images.shape[1:])
            epochs[name + OWN_TRAINER] = trainer_epoch(config, own, grey)
        is_checked = one_core and name in CHECKED
        gradient = check_gradient(config, name, images[:8], grey[:8]) if is_checked else None
        known[name] = Facts(flops=flops, gradient=gradient)
    return epochs, known


def count_flops(model: Any, batch: Any) -> float:
    """Floating-point operations of a batch's gradient, by PyTorch's count."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        model({"data": batch}).loss.backward()
    return float(counter.get_total_flops())


def plain_epoch(config: Config, model: Any, optimizer: Any, grey: Any) -> Epoch:
    """A plain loop over shuffled batches."""
    import torch

    def epoch() -> float:
        total = torch.zeros(())
        used = config.num_batches * config.batch_size
        for indices in torch.randperm(len(grey))[:used].split(config.batch_size):
            loss = model({"data": grey[indices]}).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return -float(total) / config.num_batches

    return epoch


def trainer_epoch(config: Config, model: Any, grey: Any) -> Epoch:
    """An epoch of pythae's `BaseTrainer`, without its progress bars and checkpoints."""
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback

    settings = BaseTrainerConfig(
        per_device_train_batch_size=config.batch_size, learning_rate=LEARNING_RATE, no_cuda=True
    )
    used = grey[: config.num_batches * config.batch_size]
    trainer = BaseTrainer(model, BaseDataset(used, torch.ones(len(used))), training_config=settings)
    trainer.set_optimizer()
    trainer.callback_handler = CallbackHandler([TrainingCallback()], model)
    return lambda: -float(trainer.train_step(1))


def check_gradient(config: Config, name: str, images: np.ndarray, grey: Any) -> Gradient:
    """Of the model's own loss, with the same noise every time."""
    import torch

    model = make_model(config, name, images.shape[1:]).double().train()
    x = {"data": grey.double()}
    weights = list(model.decoder.parameters())
    torch.manual_seed(2)
    directions = [torch.randn_like(weight) for weight in weights]

    def loss() -> Any:
        torch.manual_seed(1)
        return model(x).loss

    def moved(t: float) -> float:
        with torch.no_grad():
            for weight, direction in zip(weights, directions, strict=True):
                weight.add_(direction, alpha=t)
        value = float(loss())
        with torch.no_grad():
            for weight, direction in zip(weights, directions, strict=True):
                weight.sub_(direction, alpha=t)
        return value

    h = 1e-6
    quotient = (moved(h) - moved(-h)) / (2 * h)
    loss().backward()
    automatic = sum(float((w.grad * d).sum()) for w, d in zip(weights, directions, strict=True))
    return Gradient(automatic, quotient)
