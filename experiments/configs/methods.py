"""Methods as settings: each has its own fields, and knows how to build its bound, its label, its tag and its cost."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from experiments.configs.evidence import BaseMethod, Elbo, dimension, sigmoid
from experiments.configs.limits import MAX_LOOP, MAX_WIDTH
from experiments.configs.posteriors import Fisher, Posterior
from experiments.support.checks import check_above_zero, check_fields, check_number, check_whole
from hmcvae import bounds, networks, solvers, transitions
from hmcvae._checks import check_flag
from hmcvae.bounds import Bound
from hmcvae.vae import VAE


@dataclass(frozen=True)
class _Dynamics(BaseMethod):
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
        d = dimension(vae)
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
            "step_sizes": (self.max_step_size * sigmoid(chain["step_size"])).tolist()
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
        """See `BaseMethod.one_draw`."""
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
        """See `BaseMethod.one_draw`."""
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
            found["position_dependence"] = sigmoid(metric["dependence"]).tolist()
        return found


@dataclass(frozen=True)
class Hierarchical(_Dynamics):
    """HVI whose masses depend on the position, explicitly: the first half of the coordinates sets those of the second.

    Attributes:
        mass_hidden: hidden units of the network that gives the masses from x and the first half; 0: they are
            log-linear in the first half.
    """

    mass_hidden: int = 0

    name: ClassVar[str] = "hierarchical"

    def __post_init__(self):
        super().__post_init__()
        check_fields(self, {"mass_hidden": check_whole(0, MAX_WIDTH)})

    def check(self, latent_dim: int) -> None:
        """See `BaseMethod.check`."""
        super().check(latent_dim)
        if latent_dim < 2:
            raise ValueError(
                f"latent_dim must be at least 2, for two blocks of coordinates, got {latent_dim}"
            )

    def one_draw(self, vae: VAE, num_features: int, *, for_evaluation: bool = False) -> Bound:
        """See `BaseMethod.one_draw`."""
        d, options = dimension(vae), self.dynamics(vae, num_features, for_evaluation)
        posterior, annealed = options.pop("posterior"), options.pop("annealed")
        num_transitions, mass = options.pop("num_transitions"), None
        if self.mass_hidden:
            mass = networks.mass_model(num_features, d // 2, d - d // 2, self.mass_hidden)
        transition = transitions.hierarchical(d, mass=mass, **options)
        return bounds.markov_chain(
            vae, transition, num_transitions, posterior=posterior, annealed=annealed, name=self.name
        )

    @property
    def label(self) -> str:
        """As a table names it."""
        masses = f"a network's, {self.mass_hidden} units" if self.mass_hidden else "log-linear"
        return super().label.replace(self.name.upper(), f"HVI, hierarchical masses ({masses})", 1)

    @property
    def tag(self) -> str:
        """As the names of run folders have it."""
        return super().tag + (f"-masses{self.mass_hidden}" if self.mass_hidden else "")

    def masses(self, chain: Any) -> dict:
        """Those of the first half."""
        return {"log_masses": np.asarray(chain["metric"]["log_mass"]).tolist()}


@dataclass(frozen=True)
class Uha(BaseMethod):
    """Uncorrected Hamiltonian annealing: single leapfrog steps along a learned path, between which a learned share of
    the momentum is kept.

    Attributes:
        num_transitions: T, temperatures with a step; K = T + 1 of the papers.
        persistence: share of the momentum that is kept, in [0, 1); None: learned.
        initial_step_size: of the learned steps, in units of the coordinates over the square root of the masses.
        max_step_size: the bound that the learned steps stay below.
    """

    num_transitions: int = 3
    persistence: float | None = None
    initial_step_size: float = 0.1
    max_step_size: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        checks = {
            "num_transitions": check_whole(1, MAX_LOOP),
            "persistence": check_number(0, 1, optional=True),
        }
        positive = {"initial_step_size": check_above_zero, "max_step_size": check_above_zero}
        check_fields(self, checks | positive)

    def one_draw(self, vae: VAE, num_features: int, *, for_evaluation: bool = False) -> Bound:
        """See `BaseMethod.one_draw`."""
        d = dimension(vae)
        return bounds.uha(
            vae,
            posterior=self.posterior.build(num_features, d, for_evaluation=for_evaluation),
            num_transitions=self.num_transitions,
            persistence=self.persistence,
            initial_step_size=self.initial_step_size,
            max_step_size=self.max_step_size,
        )

    def proposals(self, vae: VAE, num_features: int) -> dict[str, Bound]:
        """The posterior's own draws, and those of the chain's end."""
        own = self.one_draw(vae, num_features, for_evaluation=True)
        return super().proposals(vae, num_features) | {"uha": own}

    @property
    def label(self) -> str:
        """As a table names it."""
        name = "UHA" if self.persistence is None else f"DAIS, η = {self.persistence:g}"
        name += f" ({self.posterior.label})" if self.posterior.label else ""
        return f"{name}, {self.num_transitions + 1} densities" + self._samples_label

    @property
    def tag(self) -> str:
        """As the names of run folders have it."""
        held = "" if self.persistence is None else f"keep{self.persistence:g}"
        return "-".join(part for part in ("uha", self.posterior.tag, f"{self.num_transitions}{held}") if part)

    @property
    def chain_length(self) -> tuple[int, int]:
        """(T, L): transitions of the chain, and steps of each."""
        return self.num_transitions, 1

    def derivatives(self, latent_dim: int) -> int:
        """See `Elbo.derivatives`: one for each transition, and one for the start."""
        return self.num_samples * (self.posterior.derivatives(latent_dim) + self.num_transitions + 1)

    def learned(self, params: Any) -> dict:
        """Step sizes, masses, the momentum's persistence and inverse temperatures too."""
        chain = params["chain"]
        found = super().learned(params) | {
            "step_sizes": (self.max_step_size * sigmoid(chain["step_size"])).tolist(),
            "log_masses": np.asarray(chain["log_mass"]).tolist(),
            "inverse_temperatures": np.asarray(bounds.inverse_temperatures(params["schedule"])).tolist(),
        }
        return found | (
            {"persistence": sigmoid(chain["persistence"]).tolist()} if self.persistence is None else {}
        )


Method = Elbo | Hvi | Hierarchical | Rhvi | Uha
METHODS = {own.__name__: own for own in (Elbo, Hvi, Hierarchical, Rhvi, Uha)}
