"""Models written for other libraries, as log densities to sample from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hmcvae._bijections import ours_in_models
from hmcvae._checks import check_count, check_function, check_key
from hmcvae._numpyro import numpyro_module
from hmcvae.types import PRNGKey, PyTree, Scalar

__all__ = ["NumpyroModel", "numpyro_model"]


class NumpyroModel(NamedTuple):
    """A NumPyro model, ready for `hmcvae.sample`. Positions are dictionaries by site, unconstrained.

    logdensity_fn: position -> the log joint density of the latent sites and the data, as a density over unconstrained
        positions (log-Jacobians included).
    start: `(rng_key, num_chains) -> positions` with a leading chain axis, uniform in (-2, 2) as Stan's are, each tried
        again until its density is finite.
    constrain: positions, with any leading axes such as (chain, draw), -> the sites' own values, and those of
        `numpyro.deterministic`.
    """

    logdensity_fn: Callable[[PyTree], Scalar]
    start: Callable[[PRNGKey, int], PyTree]
    constrain: Callable[[PyTree], PyTree]


def numpyro_model(model: Callable, *args: Any, **kwargs: Any) -> NumpyroModel:
    """The posterior of a NumPyro model given its arguments, data among them.

        model = hmcvae.interop.numpyro_model(eight_schools, y, sigma)
        algorithm = hmcvae.nuts(model.logdensity_fn, 0.1)
        samples = hmcvae.sample(key, algorithm, model.start(key, 4), num_samples=1000, num_warmup=1000)
        values = model.constrain(samples.position)

    Sites that are discrete have no gradient and are refused: sum them out in the model. `subsample`, which draws other
    data each time, is refused, too.

    Needs the package `numpyro`.

    Raises:
        ValueError: for a model that is not a function, that has no latent sites, or latent sites that are discrete or
            subsampled; whose sites depend on values; or that draws random numbers beside its sites; from `start`, if no
            start of finite density is found.
    """
    check_function("model", model, "a NumPyro model")
    numpyro = numpyro_module()
    util = numpyro_module("numpyro.infer.util")
    _check_sites(numpyro, model, args, kwargs)

    @ours_in_models()
    def initialise(rng_keys: Any) -> Any:
        try:
            return util.initialize_model(rng_keys, model, model_args=args, model_kwargs=kwargs)
        except RuntimeError as error:
            raise ValueError(f"expected a model with a start of finite density, got: {error}") from error

    # The functions do not depend on the key, which finds a start alone.
    found = initialise(jax.random.key(0))
    try:
        jax.eval_shape(found.potential_fn, found.param_info.z)
    except jax.errors.ConcretizationTypeError as error:
        raise ValueError(
            f"expected a model whose sites are the same for all values, got one that branches on them: {error}"
        ) from error
    shapes = {name: jnp.shape(value) for name, value in found.param_info.z.items()}

    def check(position: PyTree) -> None:
        if not isinstance(position, dict) or set(position) != set(shapes):
            came = sorted(position) if isinstance(position, dict) else type(position).__name__
            raise ValueError(f"expected a dictionary of the sites {sorted(shapes)}, got {came}")

    @ours_in_models()
    def logdensity_fn(position: PyTree) -> Scalar:
        check(position)
        _check_shapes(position, shapes)
        return -found.potential_fn(position)

    def start(rng_key: PRNGKey, num_chains: int) -> PyTree:
        num_chains = check_count("num_chains", num_chains, 1)
        return initialise(jax.random.split(check_key(rng_key), num_chains)).param_info.z

    @ours_in_models()
    def constrain(position: PyTree) -> PyTree:
        check(position)
        name, own = next(iter(shapes.items()))
        function = found.postprocess_fn
        for _ in range(jnp.ndim(position[name]) - len(own)):
            function = jax.vmap(function)
        return function(position)

    return NumpyroModel(logdensity_fn, start, constrain)


def _check_shapes(position: dict, shapes: dict[str, tuple[int, ...]]) -> None:
    for name, expected in shapes.items():
        if jnp.shape(position[name]) != expected:
            raise ValueError(f"expected {name} of shape {expected}, got {jnp.shape(position[name])}")


def _check_sites(numpyro: Any, model: Callable, args: tuple, kwargs: dict) -> None:
    """Raise ValueError for a model whose latent sites cannot be sampled by gradients, or whose density is random."""
    strategies, util = (numpyro_module(f"numpyro.infer.{name}") for name in ("initialization", "util"))
    seeded = numpyro.handlers.seed(model, jax.random.key(0))
    # Values of improper priors cannot be drawn.
    started = numpyro.handlers.substitute(seeded, substitute_fn=strategies.init_to_uniform)
    trace = numpyro.handlers.trace(started).get_trace(*args, **kwargs)
    for name, site in trace.items():
        size, part = site["args"] if site["type"] == "plate" else (0, None)
        if part is not None and part != size:
            raise ValueError(
                f"expected all of the data at every evaluation, got the subsampled plate {name!r}"
            )
    latent = [name for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]]
    discrete = [name for name in latent if trace[name]["fn"].support.is_discrete]
    if discrete:
        raise ValueError(
            f"expected continuous latent sites, got the discrete {discrete}: sum them out in the model"
        )
    if not latent:
        raise ValueError("expected a model with latent sites, got none")
    values = {name: trace[name]["value"] for name in latent}

    def density(seed: int) -> Any:
        own = numpyro.handlers.seed(model, jax.random.key(seed))
        return util.log_density(own, args, kwargs, values)[0]

    first, second = density(0), density(1)
    if not bool((first == second) | (jnp.isnan(first) & jnp.isnan(second))):
        raise ValueError(
            f"expected a model with one density, got log densities of {first:.6g} and {second:.6g} of the same values: "
            "it draws random numbers that are no sites (numpyro.prng_key), which would be frozen"
        )
