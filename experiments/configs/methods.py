"""Methods as settings: each has its own fields, and knows how to build its bound, its label, its tag and its cost."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from experiments.configs.limits import MAX_LOOP, MAX_WIDTH
from experiments.configs.posteriors import Encoder, Fisher, Posterior
from experiments.support.checks import check_above_zero, check_fields, check_number, check_whole
from hmcvae import bounds, networks, solvers
from hmcvae._checks import check_flag
from hmcvae.bounds import Bound
from hmcvae.vae import VAE


@dataclass(frozen=True)
class _Method:
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
        posterior = self.posterior.build(num_features, _dimension(vae), for_evaluation=True)
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
class Elbo(_Method):
    """The evidence lower bound: a VAE, or with several samples an importance-weighted auto-encoder (IWAE)."""

    def one_draw(self, vae: VAE, num_features: int, *, for_evaluation: bool = False) -> Bound:
        """See `_Method.one_draw`."""
        posterior = self.posterior.build(num_features, _dimension(vae), for_evaluation=for_evaluation)
        return bounds.elbo(vae, posterior=posterior)

    @property
    def label(self) -> str:
        """As a table names it."""
        own = "IWAE" if self.num_samples > 1 else "VAE"
        name = f"Gaussian ({self.posterior.label})" if self.posterior.label else own
        return name + self._samples_label

    @property
    def tag(self) -> str:
        """As the names of run folders have it."""
        own = "iwae" if self.num_samples > 1 else "vae"
        return "-".join(part for part in (own, self.posterior.tag) if part)

    @property
    def is_plain_vae(self) -> bool:
        """Whether this is the bound of Kingma & Welling (2014)."""
        return isinstance(self.posterior, Encoder) and self.num_samples == 1

    def derivatives(self, latent_dim: int) -> int:
        """How often the bound of one image differentiates log p(x, ·) or the decoder, besides the loss's own gradient,
        which counts as one for each sample where there is nothing else."""
        return self.num_samples * max(self.posterior.derivatives(latent_dim), 1)


@dataclass(frozen=True)
class _Dynamics(_Method):
    """What flat and Riemannian dynamics share.

    Attributes:
        num_transitions: T, transitions of the chain.
        num_steps: L, steps of each transition.
        annealed: run the dynamics along a learned path from q(z | x) to p(x, z).
        initial_step_size: of the learned step, in units of the coordinates over the square root of the masses.
        max_step_size: the bound that the learned step stays below.
        learned_momentum: learn the momentum's own distribution q(v | x, z) as well as the reverse model r(v | x, z).
        reverse_hidden: hidden units of the reverse model.
    """

    num_transitions: int = 1
    num_steps: int = 4
    annealed: bool = False
    initial_step_size: float = 0.1
    max_step_size: float = 1.0
    learned_momentum: bool = True
    reverse_hidden: int = 200

    name: ClassVar[str] = ""

    def __post_init__(self):
        super().__post_init__()
        check_fields(
            self,
            {
                "num_transitions": check_whole(1, MAX_LOOP),
                "num_steps": check_whole(0, MAX_LOOP),
                "annealed": check_flag,
                "initial_step_size": check_above_zero,
                "max_step_size": check_above_zero,
                "learned_momentum": check_flag,
                "reverse_hidden": check_whole(1, MAX_WIDTH),
            },
        )
        if self.num_transitions * self.num_steps > MAX_LOOP:
            raise ValueError(
                f"num_transitions times num_steps must be at most {MAX_LOOP}, got {self.num_transitions} and "
                f"{self.num_steps}"
            )

    def dynamics(self, vae: VAE, num_features: int, for_evaluation: bool) -> dict[str, Any]:
        """The arguments that `bounds.hvi` and `bounds.rhvi` share."""
        d = _dimension(vae)
        conditional = networks.reverse_model(num_features, d, self.reverse_hidden)
        return {
            "posterior": self.posterior.build(num_features, d, for_evaluation=for_evaluation),
            "reverse": conditional,
            "momentum": conditional if self.learned_momentum else None,
            "num_transitions": self.num_transitions,
            "num_steps": self.num_steps,
            "initial_step_size": self.initial_step_size,
            "max_step_size": self.max_step_size,
            "annealed": self.annealed,
        }

    def proposals(self, vae: VAE, num_features: int) -> dict[str, Bound]:
        """The posterior's own draws, and those of the chain's end."""
        own = self.one_draw(vae, num_features, for_evaluation=True)
        return super().proposals(vae, num_features) | {self.name: own}

    @property
    def label(self) -> str:
        """As a table names it."""
        name = self.name.upper() + (f" ({self.posterior.label})" if self.posterior.label else "")
        name += f", {self.num_steps} leapfrog step" + ("s" if self.num_steps != 1 else "")
        name += f" × {self.num_transitions}" if self.num_transitions > 1 else ""
        name += ", annealed" if self.annealed else ""
        name += "" if self.learned_momentum else ", standard momentum"
        return name + self._samples_label

    @property
    def tag(self) -> str:
        """As the names of run folders have it."""
        chain = f"{self.num_transitions}x{self.num_steps}{'annealed' if self.annealed else ''}"
        chain += "" if self.learned_momentum else "standard"
        return "-".join(part for part in (self.name, self.posterior.tag, chain) if part)

    @property
    def chain_length(self) -> tuple[int, int]:
        """(T, L): transitions of the chain, and steps of each."""
        return self.num_transitions, self.num_steps

    def derivatives(self, latent_dim: int) -> int:
        """See `Elbo.derivatives`: L + 1 for each transition of an annealed path, else L and one for the start."""
        return self.num_samples * (
            self.posterior.derivatives(latent_dim) + self.chain_derivatives(latent_dim)
        )

    def chain_derivatives(self, latent_dim: int) -> int:
        """Those of the dynamics."""
        del latent_dim
        return self.num_transitions * self.num_steps + (self.num_transitions if self.annealed else 1)

    def learned(self, params: Any) -> dict:
        """Step sizes, masses and inverse temperatures too."""
        chain = params["chain"]
        found = super().learned(params) | {
            "step_sizes": (self.max_step_size * _sigmoid(chain["step_size"])).tolist()
        }
        if self.annealed:
            found["inverse_temperatures"] = np.asarray(
                bounds.inverse_temperatures(params["schedule"])
            ).tolist()
        return found | self.masses(chain)

    def masses(self, chain: Any) -> dict:
        """See `learned`."""
        return {"log_masses": np.asarray(chain["log_mass"]).tolist()}


@dataclass(frozen=True)
class Hvi(_Dynamics):
    """Hamiltonian variational inference (HVI): leapfrog steps in the coordinates of the posterior.

    Attributes:
        per_coordinate_steps: learn a step size for each coordinate.
    """

    per_coordinate_steps: bool = False

    name: ClassVar[str] = "hvi"

    def __post_init__(self):
        super().__post_init__()
        check_fields(self, {"per_coordinate_steps": check_flag})

    def one_draw(self, vae: VAE, num_features: int, *, for_evaluation: bool = False) -> Bound:
        """See `_Method.one_draw`."""
        dynamics = self.dynamics(vae, num_features, for_evaluation)
        return bounds.hvi(vae, per_coordinate_steps=self.per_coordinate_steps, **dynamics)


@dataclass(frozen=True)
class Rhvi(_Dynamics):
    """Riemannian HVI: implicit steps, with a position-dependent metric.

    Attributes:
        position_dependence: κ of the metric, in [0, 1]: how much of it depends on the position; None: learned.
        num_iterations: of each implicit solve in training; 0: to tolerance, with implicit derivatives, as evaluation
            always does.
    """

    posterior: Posterior = field(default_factory=lambda: Fisher(num_centre_steps=1))
    position_dependence: float | None = None
    num_iterations: int = 0

    name: ClassVar[str] = "rhvi"

    def __post_init__(self):
        super().__post_init__()
        checks = {"position_dependence": check_number(0, 1, optional=True)}
        check_fields(self, checks | {"num_iterations": check_whole(0, MAX_LOOP)})

    def one_draw(self, vae: VAE, num_features: int, *, for_evaluation: bool = False) -> Bound:
        """See `_Method.one_draw`."""
        solver = solvers.DEFAULT
        if self.num_iterations and not for_evaluation:
            solver = solvers.fixed_point(num_iterations=self.num_iterations, differentiate="unrolled")
        dynamics = self.dynamics(vae, num_features, for_evaluation)
        return bounds.rhvi(vae, position_dependence=self.position_dependence, solver=solver, **dynamics)

    @property
    def differs_in_evaluation(self) -> bool:
        """Its solves are then to tolerance."""
        return self.num_iterations > 0 or super().differs_in_evaluation

    @property
    def tag(self) -> str:
        """As the names of run folders have it."""
        held = self.position_dependence
        return super().tag + (f"-dependence{held:g}" if held is not None else "")

    def chain_derivatives(self, latent_dim: int) -> int:
        """An implicit step's are not fixed: they are counted as its metric's, at the start of each transition and at
        the end of each step, and its gradient."""
        steps = self.num_transitions * self.num_steps
        return super().chain_derivatives(latent_dim) + latent_dim * (steps + self.num_transitions)

    def masses(self, chain: Any) -> dict:
        """The constant part of the metric, and how much depends on the position."""
        metric, found = chain["metric"], {}
        if "log_mass" in metric:
            found["log_masses"] = np.asarray(metric["log_mass"]).tolist()
        if "dependence" in metric:
            found["position_dependence"] = _sigmoid(metric["dependence"]).tolist()
        return found


Method = Elbo | Hvi | Rhvi
METHODS = {own.__name__: own for own in (Elbo, Hvi, Rhvi)}


def _sigmoid(raw: Any) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(raw)))


def _dimension(vae: VAE) -> int:
    if vae.latent_dim is None:
        raise ValueError("a method needs a VAE that says its latent_dim, got None")
    return vae.latent_dim
