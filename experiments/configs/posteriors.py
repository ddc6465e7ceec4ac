"""Posteriors as settings: each has its own fields, and knows how to build itself, its label and what it costs."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs.limits import MAX_LOOP
from experiments.support.checks import check_fields, check_number, check_whole
from hmcvae import posteriors
from hmcvae._checks import check_flag


@dataclass(frozen=True)
class Encoder:
    """The encoder's diagonal Gaussian; coordinates are z itself."""

    label: ClassVar[str] = ""
    tag: ClassVar[str] = ""
    differs_in_evaluation: ClassVar[bool] = False

    def build(
        self, num_features: int, latent_dim: int, *, for_evaluation: bool = False
    ) -> posteriors.Posterior:
        """The library's posterior."""
        del num_features, latent_dim, for_evaluation
        return posteriors.mean_field()

    def check(self, latent_dim: int) -> None:
        """Raise ValueError for settings that do not fit the latent dimension: there are none."""

    def derivatives(self, latent_dim: int) -> int:
        """Of log p(x, ·) or of the decoder, for one image."""
        del latent_dim
        return 0

    def start_encoder(self, encoder: Any) -> Any:
        """A trained plain encoder, as this posterior reads it."""
        return encoder

    def learned(self, params: Any) -> dict:
        """What was learned, from the posterior's parameters, as JSON values."""
        del params
        return {}


@dataclass(frozen=True)
class Whitened:
    """A Gaussian in whitened coordinates, which can be refined.

    Attributes:
        num_centre_steps: steps of its centre from the encoder's mean towards the mode: Gauss-Newton steps with the
            Fisher metric, preconditioned gradient steps with the others.
        rank: directions along which its metric is corrected by the decoder's own, one derivative each; 0: none.
        random_directions: draw these directions anew for each image instead of learning them.
        distillation: weight with which its metric is trained towards the decoder's; 0: off.
    """

    num_centre_steps: int = 0
    rank: int = 0
    random_directions: bool = False
    distillation: float = 0.0

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""

    def __post_init__(self):
        checks = {"num_centre_steps": check_whole(0, MAX_LOOP), "rank": check_whole(0)}
        check_fields(self, checks | {"random_directions": check_flag, "distillation": check_number(0)})
        if self.random_directions and not self.rank:
            raise ValueError("random_directions needs a rank of at least 1, got 0")

    def base(self, num_features: int, latent_dim: int) -> posteriors.Posterior:
        """The posterior before it is refined."""
        raise NotImplementedError

    def base_derivatives(self, latent_dim: int) -> int:
        """See `derivatives`."""
        del latent_dim
        return 0

    def build(
        self, num_features: int, latent_dim: int, *, for_evaluation: bool = False
    ) -> posteriors.Posterior:
        """The library's posterior; for evaluation without distillation, which is for training alone."""
        posterior = self.base(num_features, latent_dim)
        if self.rank:
            posterior = posteriors.low_rank(
                posterior, num_features, latent_dim, self.rank, random_directions=self.random_directions
            )
        if self.num_centre_steps:
            posterior = posteriors.gauss_newton(posterior, self.num_centre_steps, fresh=self.is_fresh)
        if self.distillation and not for_evaluation:
            posterior = posteriors.distilled(posterior, self.distillation)
        return posterior

    def check(self, latent_dim: int) -> None:
        """Raise ValueError for settings that do not fit the latent dimension."""
        if self.rank > latent_dim:
            raise ValueError(f"rank must be at most latent_dim = {latent_dim}, got {self.rank}")

    @property
    def is_fresh(self) -> bool:
        """Whether its metric is made anew at each new centre."""
        return False

    @property
    def label(self) -> str:
        """As a table names it."""
        parts = [self.title]
        parts += [f"{'random ' if self.random_directions else ''}rank {self.rank}"] if self.rank else []
        parts += ["distilled"] if self.distillation else []
        afresh = " afresh" if self.is_fresh else ""
        parts += [f"recentred × {self.num_centre_steps}{afresh}"] if self.num_centre_steps else []
        return ", ".join(parts)

    @property
    def differs_in_evaluation(self) -> bool:
        """Whether what is evaluated is not what is trained."""
        return self.distillation > 0

    @property
    def tag(self) -> str:
        """As the names of run folders have it."""
        parts = [f"{self.name}{self.num_centre_steps}{'fresh' if self.is_fresh else ''}"]
        parts += [f"{'random' if self.random_directions else 'rank'}{self.rank}"] if self.rank else []
        parts += [f"distilled{self.distillation:g}"] if self.distillation else []
        return "-".join(parts)

    def derivatives(self, latent_dim: int) -> int:
        """Of log p(x, ·) or of the decoder, for one image: one for each step of the centre, one for each direction of a
        correction, one for distillation, and those of its metric."""
        own = self.num_centre_steps + self.rank + (1 if self.distillation else 0)
        num_metrics = 1 + (self.num_centre_steps if self.is_fresh else 0)
        return own + num_metrics * self.base_derivatives(latent_dim)

    def start_encoder(self, encoder: Any) -> Any:
        """A trained plain encoder, as this posterior reads it."""
        return encoder

    def learned(self, params: Any) -> dict:
        """What was learned, from the posterior's parameters, as JSON values."""
        found: dict = {}
        if self.num_centre_steps:
            found["centre_steps"] = np.asarray(posteriors.step_sizes(params)).tolist()
            params = params["base"]
        if self.rank:
            found["fisher_weight"] = float(np.exp(params["log_weight"]))
            params = params["base"]
        return found | self.base_learned(params)

    def base_learned(self, params: Any) -> dict:
        """See `learned`."""
        del params
        return {}


@dataclass(frozen=True)
class MeanField(Whitened):
    """The encoder's diagonal Gaussian, in the coordinates in which it is N(0, I): per-example masses."""

    name: ClassVar[str] = "mean_field"
    title: ClassVar[str] = "per-example masses"

    def base(self, num_features: int, latent_dim: int) -> posteriors.Posterior:
        """See `Whitened.base`."""
        del num_features, latent_dim
        return posteriors.mean_field(whitened=True)


@dataclass(frozen=True)
class FullCovariance(Whitened):
    """A Gaussian of full covariance from a head on the encoder's features: an amortised metric."""

    name: ClassVar[str] = "full_covariance"
    title: ClassVar[str] = "full covariance"

    def base(self, num_features: int, latent_dim: int) -> posteriors.Posterior:
        """See `Whitened.base`."""
        return posteriors.full_covariance(num_features, latent_dim)


@dataclass(frozen=True)
class Fisher(Whitened):
    """A Gaussian whose precision is the decoder's Fisher information at the encoder's mean.

    Attributes:
        fresh: make the precision anew at each new centre: with T steps of the centre, the Laplace approximation of the
            Variational Laplace Auto-encoder (Park, Kim & Kim 2019), with learned steps, weight and scales.
    """

    fresh: bool = False

    name: ClassVar[str] = "fisher"
    title: ClassVar[str] = "Fisher"

    def __post_init__(self):
        super().__post_init__()
        check_fields(self, {"fresh": check_flag})
        if self.fresh and not self.num_centre_steps:
            raise ValueError("fresh needs num_centre_steps of at least 1, got 0")

    @property
    def is_fresh(self) -> bool:
        """Whether its metric is made anew at each new centre."""
        return self.fresh

    def base(self, num_features: int, latent_dim: int) -> posteriors.Posterior:
        """See `Whitened.base`."""
        del num_features
        return posteriors.fisher(latent_dim)

    def base_derivatives(self, latent_dim: int) -> int:
        """See `derivatives`."""
        return latent_dim

    def start_encoder(self, encoder: Any) -> Any:
        """It reads the encoder's scales in whitened coordinates, where they are of the order of one."""
        head = encoder["params"]["GaussianHead_0"]
        head = head | {"log_scale": jax.tree.map(jnp.zeros_like, head["log_scale"])}
        return {"params": encoder["params"] | {"GaussianHead_0": head}}

    def base_learned(self, params: Any) -> dict:
        """See `learned`."""
        precision = np.exp(np.asarray(params["log_precision"])).tolist()
        return {"fisher_weight": float(np.exp(params["log_weight"])), "precision": precision}


@dataclass(frozen=True)
class SketchedFisher(Fisher):
    """`Fisher`, estimated from a few random derivatives.

    Attributes:
        num_probes: of them.
    """

    num_probes: int = 8

    name: ClassVar[str] = "sketched_fisher"
    title: ClassVar[str] = "sketched Fisher"

    def __post_init__(self):
        super().__post_init__()
        check_fields(self, {"num_probes": check_whole(1, MAX_LOOP)})

    def base(self, num_features: int, latent_dim: int) -> posteriors.Posterior:
        """See `Whitened.base`."""
        del num_features
        return posteriors.fisher(latent_dim, self.num_probes)

    def base_derivatives(self, latent_dim: int) -> int:
        """See `derivatives`."""
        del latent_dim
        return self.num_probes


Posterior = Encoder | MeanField | FullCovariance | Fisher | SketchedFisher
POSTERIORS = {own.__name__: own for own in (Encoder, MeanField, FullCovariance, Fisher, SketchedFisher)}
