"""What all methods share, and the methods without dynamics."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.configs.limits import MAX_LOOP
from experiments.configs.posteriors import Encoder, Posterior
from experiments.support.checks import check_fields, check_whole
from hmcvae import bounds
from hmcvae._checks import check_flag
from hmcvae.bounds import Bound
from hmcvae.vae import VAE


@dataclass(frozen=True)
class BaseMethod:
    """What all methods share.

    Attributes:
        posterior: q(z | x), and its coordinates.
        num_samples: K, draws of the bound in one importance-weighted term; 1: the plain bound.
    """

    posterior: Posterior = field(default_factory=Encoder)
    num_samples: int = 1

    def __post_init__(self):
        check_fields(self, {"num_samples": check_whole(1, MAX_LOOP)})

    def one_draw(self, vae: VAE, num_features: int, *, for_evaluation: bool = False) -> Bound:
        """The bound of a single draw; for evaluation, implicit solves are to tolerance and nothing is distilled."""
        raise NotImplementedError

    def build(self, vae: VAE, num_features: int, *, for_evaluation: bool = False) -> Bound:
        """The bound that is trained, or with `for_evaluation` evaluated."""
        bound = self.one_draw(vae, num_features, for_evaluation=for_evaluation)
        return bounds.importance_weighted(bound, self.num_samples) if self.num_samples > 1 else bound

    def proposals(self, vae: VAE, num_features: int) -> dict[str, Bound]:
        """Bounds of a single draw whose weights estimate p(x): the posterior's own, first."""
        posterior = self.posterior.build(num_features, dimension(vae), for_evaluation=True)
        return {"encoder": bounds.elbo(vae, posterior=posterior)}

    def check(self, latent_dim: int) -> None:
        """Raise ValueError for settings that do not fit the latent dimension."""
        self.posterior.check(latent_dim)

    @property
    def _samples_label(self) -> str:
        return f", K = {self.num_samples}" if self.num_samples > 1 else ""

    @property
    def differs_in_evaluation(self) -> bool:
        """Whether the bound that is evaluated is not the one that is trained."""
        return self.posterior.differs_in_evaluation

    @property
    def is_plain_vae(self) -> bool:
        """Whether this is the bound of Kingma & Welling (2014)."""
        return False

    @property
    def chain_length(self) -> tuple[int, int]:
        """(T, L): transitions of the chain, and steps of each."""
        return 0, 0

    def learned(self, params: Any) -> dict:
        """What was learned, from the bound's parameters, as JSON values."""
        return self.posterior.learned(params["posterior"])


@dataclass(frozen=True)
class Elbo(BaseMethod):
    """The evidence lower bound: a VAE, or with several samples an importance-weighted auto-encoder (IWAE).

    Attributes:
        path_gradient: estimate the gradient by sticking the landing, or with several samples doubly reparameterised.
    """

    path_gradient: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_fields(self, {"path_gradient": check_flag})
        if self.path_gradient and self.posterior.differs_in_evaluation:
            raise ValueError(
                "path_gradient would leave a distilled posterior untaught: set distillation to 0"
            )

    def build(self, vae: VAE, num_features: int, *, for_evaluation: bool = False) -> Bound:
        """See `BaseMethod.build`."""
        if not self.path_gradient:
            return super().build(vae, num_features, for_evaluation=for_evaluation)
        posterior = self.posterior.build(num_features, dimension(vae), for_evaluation=for_evaluation)
        if self.num_samples == 1:
            return bounds.elbo(vae, posterior=posterior, gradient="sticking_the_landing")
        return bounds.iwae(
            vae, posterior=posterior, num_samples=self.num_samples, gradient="doubly_reparameterised"
        )

    def one_draw(self, vae: VAE, num_features: int, *, for_evaluation: bool = False) -> Bound:
        """See `BaseMethod.one_draw`."""
        posterior = self.posterior.build(num_features, dimension(vae), for_evaluation=for_evaluation)
        return bounds.elbo(vae, posterior=posterior)

    @property
    def label(self) -> str:
        """As a table names it."""
        own = "IWAE" if self.num_samples > 1 else "VAE"
        name = f"Gaussian ({self.posterior.label})" if self.posterior.label else own
        return name + self._samples_label + (", path gradient" if self.path_gradient else "")

    @property
    def tag(self) -> str:
        """As the names of run folders have it."""
        own = "iwae" if self.num_samples > 1 else "vae"
        parts = (own, self.posterior.tag, "path" if self.path_gradient else "")
        return "-".join(part for part in parts if part)

    @property
    def is_plain_vae(self) -> bool:
        """Whether this is the bound of Kingma & Welling (2014)."""
        return isinstance(self.posterior, Encoder) and self.num_samples == 1

    def derivatives(self, latent_dim: int) -> int:
        """How often the bound of one image differentiates log p(x, ·) or the decoder, besides the loss's own gradient,
        which counts as one for each sample where there is nothing else."""
        return self.num_samples * max(self.posterior.derivatives(latent_dim), 1)


def sigmoid(raw: Any) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(raw)))


def dimension(vae: VAE) -> int:
    if vae.latent_dim is None:
        raise ValueError("a method needs a VAE that says its latent_dim, got None")
    return vae.latent_dim
