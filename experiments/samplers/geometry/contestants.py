"""What a contestant is, and ours."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

import hmcvae
from experiments.samplers import measures
from experiments.samplers.geometry.posteriors import Form
from hmcvae import integrators, solvers
from hmcvae.samplers.draws import Samples


class Lengths(NamedTuple):
    """Transitions of each chain, for the warm-up and kept."""

    num_warmup: int
    num_samples: int


class Draws(NamedTuple):
    """common: draws in the posterior's common coordinates, [chain, draw, k].  gradients: taken for each, [chain, draw];
    for implicit integrators derivatives of any kind.  failed: divergent, not solved or not retraced.  acceptance: the
    mean."""

    common: Any
    gradients: Any
    failed: Any
    acceptance: Any


class Programs(NamedTuple):
    """warm: (rng_key, starts [chain, d]) -> what was tuned.  draw: (rng_key, tuned) -> Draws.  Both can be jitted, but
    for those of `is_compiled` False, which run as they are."""

    warm: Callable[[Array, Array], Any]
    draw: Callable[[Array, Any], Draws]
    is_jax: bool = True


class Contestant(NamedTuple):
    """A sampler on a form of a posterior.

    name: in tables.  form: the form's name.  make: (form, lengths) -> Programs.  library: that it is of.
    package: that must be installed.
    """

    name: str
    form: str
    make: Callable[[Form, Lengths], Programs]
    library: str = "hmcvae"

    @property
    def is_ours(self) -> bool:
        return self.library == "hmcvae"


def ours(
    name: str,
    form: str,
    build: Callable[[Form], Any],
    *,
    target: float = 0.8,
    mass: str | None = None,
    gradients: int = 1,
) -> Contestant:
    """A kernel of hmcvae, tuned by `hmcvae.sample`; build: form -> algorithm.  gradients: of an integrator's step."""

    def make(form: Form, lengths: Lengths) -> Programs:
        algorithm = build(form)

        def common(state: Any) -> Array:
            return form.to_common(state.position)

        def warm(rng_key: Array, starts: Array) -> Any:
            found = hmcvae.sample(
                rng_key,
                algorithm,
                starts,
                num_samples=1,
                num_warmup=lengths.num_warmup,
                target_acceptance=target,
                adapt_mass=mass,
                record=common,
            )
            return found.end, found.adaptation.step_size, found.adaptation.metric

        def draw(rng_key: Array, tuned: Any) -> Draws:
            positions, step_size, metric = tuned
            tuned_algorithm = algorithm._replace(step_size=step_size, metric=metric)
            samples = hmcvae.sample(
                rng_key, tuned_algorithm, positions, num_samples=lengths.num_samples, record=common
            )
            draws = _draws(samples)
            return draws._replace(gradients=gradients * draws.gradients)

        return Programs(warm, draw)

    return Contestant(name, form, make)


def _draws(samples: Samples) -> Draws:
    info = samples.info
    failed = info.is_divergent | ~info.solver.converged | ~info.is_reversible
    gradients = measures.derivatives_of(info)
    return Draws(samples.position, gradients, failed, jnp.mean(info.acceptance_rate))


def _nuts(form: Form, **settings: Any) -> Any:
    if form.metric is None:
        return hmcvae.nuts(form.logdensity_fn, 0.1, **settings)
    return hmcvae.nuts(form.logdensity_fn, 0.1, form.metric, **settings)


def nuts(form: str, name: str = "NUTS, diagonal mass", mass: str = "diagonal", **options: Any) -> Contestant:
    """With masses from the warm-up."""
    return ours(name, form, lambda form: _nuts(form._replace(metric=None)), mass=mass, **options)


def nuts_as_given(form: str, name: str, **options: Any) -> Contestant:
    """NUTS with the form's metric, which is kept."""
    return ours(name, form, _nuts, **options)


def hierarchical_nuts(form: str, name: str = "NUTS, hierarchical metric", target: float = 0.9) -> Contestant:
    build = partial(_nuts, integrator=integrators.hierarchical_leapfrog)
    return ours(name, form, build, mass="hierarchical", target=target)


def hierarchical_hmc(form: str, max_steps: int, name: str = "HMC, hierarchical metric") -> Contestant:
    """1 to max_steps steps: trees turn back when the many coordinates of the last block do, long before the first has
    gone anywhere."""

    def build(form: Form) -> Any:
        steps, integrator = hmcvae.uniform_steps(1, max_steps), integrators.hierarchical_leapfrog
        return hmcvae.hmc(form.logdensity_fn, 0.1, steps, form.metric, integrator=integrator)

    return ours(name, form, build, mass="hierarchical", target=0.9)


def hmc(form: str, max_steps: int, name: str = "HMC, diagonal mass", **options: Any) -> Contestant:
    """1 to max_steps of McLachlan's steps, two gradients each, whose energy errors in many dimensions are the smaller;
    with the form's metric if it has one."""

    def build(form: Form) -> Any:
        metric = hmcvae.metrics.identity() if form.metric is None else form.metric
        steps = hmcvae.uniform_steps(1, max_steps)
        return hmcvae.hmc(form.logdensity_fn, 0.1, steps, metric, integrator=integrators.mclachlan)

    return ours(name, form, build, gradients=2, **options)


def rmhmc(
    form: str, max_steps: int, name: str, solver: Any = None, target: float = 0.9, **options: Any
) -> Contestant:
    """The generalized leapfrog, 1 to max_steps steps."""

    def build(form: Form) -> Any:
        steps = hmcvae.uniform_steps(1, max_steps)
        return hmcvae.rmhmc(
            form.logdensity_fn, 0.1, steps, form.metric, solver=solver or solvers.fixed_point()
        )

    return ours(name, form, build, target=target, **options)


def riemannian_nuts(
    form: str, name: str, solver: Any = None, target: float = 0.9, **options: Any
) -> Contestant:
    build = partial(
        _nuts,
        integrator=partial(integrators.generalized_leapfrog, solver=solver or solvers.fixed_point()),
        max_depth=8,
    )
    return ours(name, form, build, target=target, **options)


def low_rank(form: str) -> tuple[Contestant, ...]:
    """NUTS with the low-rank mass of `sample(…, adapt_mass="low_rank")`, where this version has it."""
    if not hasattr(hmcvae.metrics, "low_rank"):
        return ()
    return (nuts(form, "NUTS, low-rank mass", "low_rank"),)
