"""The methods that meet on the published nets, by name."""

from experiments.configs import Elbo, Fisher, FullCovariance, Hvi, Method, Uha


def _laplace(num_updates: int) -> Method:
    return Elbo(Fisher(num_centre_steps=num_updates, fresh=True))


_RECENTRED = FullCovariance(num_centre_steps=2)
_RECENTRED_ONCE = FullCovariance(num_centre_steps=1)
_AMORTISED = Hvi(_RECENTRED, initial_step_size=0.3)

# The peers', then ours.
METHODS: dict[str, Method] = {
    "vae": Elbo(),
    "iwae5": Elbo(num_samples=5),
    "iwae5_path": Elbo(num_samples=5, path_gradient=True),
    "iwae50": Elbo(num_samples=50),
    "hvi4": Hvi(num_steps=4),
    "hvi16": Hvi(num_steps=16),
    "hvi4_iw5": Hvi(num_steps=4, num_samples=5),
    "vlae1": _laplace(1),
    "vlae2": _laplace(2),
    "vlae4": _laplace(4),
    "uha4": Uha(num_transitions=3),
    "uha8": Uha(num_transitions=7),
    "uha16": Uha(num_transitions=15),
    "uha64": Uha(num_transitions=63),
    "dais8": Uha(num_transitions=7, persistence=0.0),
    "full": Elbo(FullCovariance()),
    "recentred": Elbo(_RECENTRED),
    "recentred_path": Elbo(_RECENTRED, path_gradient=True),
    "recentred_iw5": Elbo(_RECENTRED, num_samples=5),
    "recentred_iw5_path": Elbo(_RECENTRED, num_samples=5, path_gradient=True),
    "recentred1": Elbo(_RECENTRED_ONCE),
    "recentred1_iw5": Elbo(_RECENTRED_ONCE, num_samples=5),
    "amortised": _AMORTISED,
    "amortised2x2": Hvi(_RECENTRED, num_transitions=2, num_steps=2, initial_step_size=0.3),
    "amortised_iw5": Hvi(_RECENTRED, initial_step_size=0.3, num_samples=5),
    "amortised1": Hvi(_RECENTRED_ONCE, initial_step_size=0.3),
    "amortised1_iw5": Hvi(_RECENTRED_ONCE, initial_step_size=0.3, num_samples=5),
    "fisher": Elbo(Fisher(num_centre_steps=1)),
    "fisher_iw5": Elbo(Fisher(num_centre_steps=1), num_samples=5),
    "fisher_hvi4": Hvi(Fisher(num_centre_steps=1), initial_step_size=0.3),
}


def label(name: str) -> str:
    """As a table names it: of the peers' by the papers' names where ours are others."""
    method = METHODS[name]
    if isinstance(method.posterior, Fisher) and method.posterior.fresh:
        # The paper's posterior, but for what is learned of it: the steps, the metric's weight and scales.
        return f"VLAE, T = {method.posterior.num_centre_steps}"
    return method.label
