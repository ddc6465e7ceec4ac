"""Contestants of other libraries, each with its own warm-up."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from experiments.samplers.geometry.contestants import Contestant, Draws, Lengths, Programs
from experiments.samplers.geometry.posteriors import Form


def blackjax_nuts(
    form: str, name: str = "BlackJAX NUTS", *, low_rank: bool = False, target: float = 0.8
) -> Contestant:
    """Window adaptation (diagonal), or its low-rank adaptation."""

    def make(form: Form, lengths: Lengths) -> Programs:
        import blackjax

        # Of the warm-up nothing is kept but its end; the low-rank one needs its own record.
        options: Any = {} if low_rank else {"adaptation_info_fn": lambda *_: None}
        adaptation = blackjax.window_adaptation_low_rank if low_rank else blackjax.window_adaptation
        warmup: Any = adaptation(blackjax.nuts, form.logdensity_fn, target_acceptance_rate=target, **options)

        def tune(key: Array, start: Array) -> Any:
            (state, parameters), _ = warmup.run(key, start, lengths.num_warmup)
            parameters = dict(parameters)
            return state, parameters

        def draw_one(key: Array, tuned: Any) -> Draws:
            state, parameters = tuned
            step = blackjax.nuts(form.logdensity_fn, **parameters).step
            return _scan(step, form, key, state, lengths.num_samples)

        return _chains(tune, draw_one)

    return Contestant(name, form, make, "blackjax")


def _chains(tune: Callable, draw_one: Callable) -> Programs:
    """Of many chains, side by side."""

    def warm(rng_key: Array, starts: Array) -> Any:
        return jax.vmap(tune)(jax.random.split(rng_key, len(starts)), starts)

    def draw(rng_key: Array, tuned: Any) -> Draws:
        keys = jax.random.split(rng_key, jax.tree.leaves(tuned)[0].shape[0])
        draws = jax.vmap(draw_one)(keys, tuned)
        return draws._replace(acceptance=jnp.mean(draws.acceptance))

    return Programs(warm, draw)


def _scan(step: Callable, form: Form, key: Array, state: Any, num_samples: int) -> Draws:
    def body(state: Any, key: Array) -> tuple[Any, tuple]:
        state, info = step(key, state)
        steps = info.num_integration_steps
        return state, (form.to_common(state.position), steps, info.is_divergent, info.acceptance_rate)

    return Draws(*lax.scan(body, state, jax.random.split(key, num_samples))[1])


def mams(form: str, name: str = "BlackJAX MAMS") -> Contestant:
    """Metropolis-adjusted microcanonical Langevin (arXiv 2503.01707) with BlackJAX's own tuning, at its defaults but
    for the lengths of its first two stages, which share the warm-up."""

    def make(form: Form, lengths: Lengths) -> Programs:
        import blackjax
        from blackjax.mcmc import adjusted_mclmc_dynamic

        make_lengths: Any = adjusted_mclmc_dynamic.make_random_trajectory_length_fn
        kernel = adjusted_mclmc_dynamic.build_kernel(integration_steps_fn=make_lengths(True))

        def tune(key: Array, start: Array) -> Any:
            key_init, key_tune = jax.random.split(key)
            state: Any = adjusted_mclmc_dynamic.init(start, form.logdensity_fn, key_init)
            state, parameters, _ = blackjax.adjusted_mclmc_find_L_and_step_size(
                kernel,
                form.logdensity_fn,
                lengths.num_warmup,
                state,
                key_tune,
                0.9,
                frac_tune1=0.5,
                frac_tune2=0.5,
            )
            return state, (parameters.L, parameters.step_size, parameters.inverse_mass_matrix)

        def draw_one(key: Array, tuned: Any) -> Draws:
            state, (length, step_size, inverse) = tuned

            def step(key: Array, state: Any) -> tuple[Any, Any]:
                average = (length / step_size,)
                return kernel(
                    key,
                    state,
                    form.logdensity_fn,
                    step_size,
                    inverse_mass_matrix=inverse,
                    integration_steps_params=average,
                )

            draws = _scan(step, form, key, state, lengths.num_samples)
            return draws._replace(gradients=2 * draws.gradients)  # McLachlan's integrator: two a step

        return _chains(tune, draw_one)

    return Contestant(name, form, make, "blackjax")


def numpyro_nuts(form: str, name: str = "NumPyro NUTS") -> Contestant:
    """Its kernel by its own functions `init` and `sample`, in one program as its vectorised chains are."""

    def make(form: Form, lengths: Lengths) -> Programs:
        from numpyro.infer import NUTS

        def kernel() -> Any:
            return NUTS(potential_fn=lambda z: -form.logdensity_fn(z))

        def tune(key: Array, start: Array) -> Any:
            own = kernel()
            state = own.init(key, lengths.num_warmup, start, (), {})
            return lax.fori_loop(0, lengths.num_warmup, lambda _, state: own.sample(state, (), {}), state)

        def draw_one(key: Array, tuned: Any) -> Draws:
            own = kernel()
            jax.eval_shape(
                lambda: own.init(key, lengths.num_warmup, tuned.z, (), {})
            )  # sets its functions up

            def body(state: Any, _: None) -> tuple[Any, tuple]:
                state = own.sample(state, (), {})
                return state, (form.to_common(state.z), state.num_steps, state.diverging, state.accept_prob)

            start = tuned._replace(rng_key=key)
            return Draws(*lax.scan(body, start, None, length=lengths.num_samples)[1])

        return _chains(tune, draw_one)

    return Contestant(name, form, make, "numpyro")


def nutpie_nuts(form: str, name: str = "nutpie", low_rank: bool = False) -> Contestant:
    """Through a Python function that calls the jitted density: about 20 µs a gradient more than a compiled model's.
    nutpie tunes and draws in one call; `measure` shares its seconds out by the gradients."""

    def make(form: Form, lengths: Lengths) -> Programs:
        import nutpie
        from nutpie.compiled_pyfunc import from_pyfunc

        program = jax.jit(jax.value_and_grad(form.logdensity_fn))
        dimension = len(form.start)

        def logp(z: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = program(z)
            return float(value), np.asarray(gradient)

        def warm(rng_key: Array, starts: Array) -> Any:
            logp(np.asarray(starts[0]))
            return np.asarray(starts)

        def draw(rng_key: Array, starts: Any) -> Draws:
            model = from_pyfunc(
                dimension,
                lambda: logp,
                lambda *_: lambda z: {"z": z},
                [np.dtype(np.float64)],
                [(dimension,)],
                ["z"],
                make_initial_point_fn=lambda seed: starts[seed % len(starts)],
            )
            trace: Any = nutpie.sample(
                model,
                draws=lengths.num_samples,
                tune=lengths.num_warmup,
                chains=len(starts),
                seed=int(jax.random.randint(rng_key, (), 0, 2**31 - 1)),
                low_rank_modified_mass_matrix=low_rank,
                progress_bar=False,
            )
            stats, before = trace.sample_stats, trace.warmup_sample_stats
            common = jax.jit(jax.vmap(jax.vmap(form.to_common)))(np.asarray(trace.posterior["z"]))
            steps = np.asarray(stats["n_steps"])
            draws = Draws(common, steps, np.asarray(stats["diverging"]), np.nan)
            return draws, float(np.sum(before["n_steps"]))  # type: ignore[return-value]

        return Programs(warm, draw, is_jax=False)

    return Contestant(name, form, make, "nutpie")
