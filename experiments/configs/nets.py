"""The nets of published tables, one a row: what they are, and the figures that others have of them."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from experiments.configs.config import TrainConfig
from experiments.configs.methods import Method
from experiments.configs.training import Options

_IWAE = "Burda et al. 2016"
_UHA = "Geffner & Domke 2021"
_VLAE = "Park et al. 2019, read off its poster's bars, ± 0.02"
_SALIMANS = "Salimans et al. 2015, second-hand"
_SAMPLES = "5000 importance samples"
_WEIGHTS = "importance weights from the encoder"
_UNKNOWN = "optimiser and epochs not known"
_EPOCHS = "Adam, GPU; epochs not known"
_ANNEALED = "AIS, 10,000 temperatures"
_DAIS = "Zhang et al. 2021"
_LONG = "Adam, batch 20, 3280 epochs"


class Published(NamedTuple):
    """What others report. bound, log_likelihood: nats on the test set; None: not told.  how: its estimator.
    differs: in what it is not a run of ours."""

    method: str
    bound: float | None
    log_likelihood: float | None
    how: str
    source: str
    differs: str


@dataclass(frozen=True)
class Net:
    """A published net and its data.

    Attributes:
        summary: in a few words.
        source: whose it is.
        published: others' figures on it.
        dataset, likelihood, latent_dim, architecture, hidden, activation: see `TrainConfig`.
        batch_size: of our trainings.
        num_validation: images held out of the training set.
    """

    summary: str
    source: str
    hidden: tuple[int, ...]
    latent_dim: int
    activation: Literal["tanh", "softplus", "relu", "elu"]
    published: tuple[Published, ...] = ()
    architecture: Literal["mlp", "conv"] = "mlp"
    dataset: str = "mnist"
    likelihood: Literal["bernoulli", "gaussian", "discretised_logistic"] = "bernoulli"
    batch_size: int = 100
    num_validation: int = 1000

    def config(self, method: Method, training: Options | None = None, **changes: Any) -> TrainConfig:
        """A run of a method on this net."""
        if training is None:
            training = Options(num_epochs=100, batch_size=self.batch_size, clip_norm=100.0)
        own: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("dataset", "likelihood", "latent_dim", "architecture", "hidden", "activation")
        }
        own |= {"num_validation": self.num_validation} | changes
        return TrainConfig(method=method, training=training, **own)


def _uha_row(method: str, bound: float, log_likelihood: float) -> Published:
    return Published(method, bound, log_likelihood, "AIS, 2000 temperatures", _UHA, _EPOCHS)


_BURDA: dict[str, Any] = {"hidden": (200, 200), "latent_dim": 50, "activation": "tanh"}
_CONV: dict[str, Any] = {"latent_dim": 32, "activation": "softplus", "architecture": "conv"}


def _salimans(hidden: int, *rows: tuple[str, float | None, float]) -> Net:
    published = tuple(
        Published(method, bound, value, _WEIGHTS, _SALIMANS, _UNKNOWN) for method, bound, value in rows
    )
    return Net(
        f"conv, 32 latents, n_h = {hidden}, MNIST, dynamic",
        _SALIMANS,
        (hidden,),
        published=published,
        **_CONV,
    )


NETS: dict[str, Net] = {
    "digits": Net(
        "64-100-100-8 tanh, scikit-learn's digits, to try things out",
        "ours",
        (100, 100),
        8,
        "tanh",
        dataset="digits",
        num_validation=200,
    ),
    "burda": Net(
        "784-200-200-50 tanh, MNIST, dynamic",
        _IWAE,
        published=(
            Published("VAE", None, -86.76, _SAMPLES, _IWAE, _LONG),
            Published("IWAE, K = 5", None, -85.54, _SAMPLES, _IWAE, _LONG),
            Published("IWAE, K = 50", None, -84.78, _SAMPLES, _IWAE, _LONG),
            Published("DAIS, S × K = 50", None, -84.45, _ANNEALED, _DAIS, _EPOCHS),
            Published("IWAE, 500 samples", None, -83.87, _ANNEALED, _DAIS, _EPOCHS),
            Published("DAIS, S × K = 500", None, -83.62, _ANNEALED, _DAIS, _EPOCHS),
        ),
        **_BURDA,
    ),
    "burda_static": Net(
        "784-200-200-50 tanh, MNIST, static",
        _IWAE,
        published=(
            Published("VAE", None, -88.71, _SAMPLES, _IWAE, _LONG),
            Published("IWAE, K = 5", None, -87.63, _SAMPLES, _IWAE, _LONG),
            Published("IWAE, K = 50", None, -87.10, _SAMPLES, _IWAE, _LONG),
            Published(
                "IWAE, K = 50, run again", None, -86.71, _SAMPLES, "an independent re-run", "not known"
            ),
        ),
        dataset="binarized_mnist",
        **_BURDA,
    ),
    "vlae": Net(
        "784-500-500-50 ReLU, MNIST, dynamic",
        "Park et al. 2019",
        (500, 500),
        50,
        "relu",
        published=tuple(
            Published(method, None, value, _SAMPLES, _VLAE, "chooses its checkpoint on the test set")
            for method, value in (
                ("VAE", -85.40),
                ("semi-amortised", -85.12),
                ("Householder flow", -85.24),
                ("IAF, T = 4", -83.82),
                ("VLAE, T = 4", -83.62),
            )
        ),
    ),
    "uha": Net(
        "784-450-64 ReLU, MNIST, dynamic",
        _UHA,
        (450,),
        64,
        "relu",
        published=(
            _uha_row("VAE", -93.4, -88.5),
            _uha_row("UHA, 8 densities", -89.8, -87.5),
            _uha_row("UHA, 16 densities", -88.8, -87.2),
            _uha_row("UHA, 64 densities", -87.6, -86.9),
            _uha_row("IWAE, K = 8", -90.5, -87.6),
            _uha_row("IWAE, K = 64", -89.0, -87.2),
        ),
    ),
    "salimans_300": _salimans(300, ("VAE", None, -83.20)),
    "salimans_450": _salimans(450),
    "salimans_800": _salimans(800, ("HVI, 16 leapfrog steps", -83.49, -81.94)),
    "cifar10": Net(
        "conv, 128 latents, n_h = 450, CIFAR-10, discretised logistic",
        "the net of Salimans et al. 2015",
        (450,),
        128,
        "softplus",
        architecture="conv",
        dataset="cifar10",
        likelihood="discretised_logistic",
        num_validation=500,
    ),
}
