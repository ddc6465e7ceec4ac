"""The contestants: trajectories of L steps, of one chain and of many."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from experiments.support.timing import seconds_per_round
from hmcvae import integrators, metrics

# (state, step size) -> the end of a trajectory of L steps, for one chain.
Trajectory = Callable[[integrators.IntegratorState, jax.Array], Any]

# L is 32 at least, so that the one value of log p at the end of a trajectory weighs as little as in practice; but no
# more than 5 seconds hold, and at least 8.
USUAL_STEPS, MAX_SECONDS, MIN_STEPS = 32, 5, 8


def bare_gradient(logdensity_fn: Callable, num_steps: Any, unroll: int = 1) -> Trajectory:
    """The gradients of a trajectory and nothing else; see the benchmark's docstring. A traced L serves calibration."""

    def body(z: jax.Array, tiny: jax.Array) -> jax.Array:
        return z + tiny * jax.grad(logdensity_fn)(z)

    def run(state: integrators.IntegratorState, step_size: jax.Array) -> jax.Array:
        tiny = 1e-7 * step_size
        if not isinstance(num_steps, int):
            return lax.fori_loop(0, num_steps, lambda _, z: body(z, tiny), state.position)
        scanned = lax.scan(lambda z, _: (body(z, tiny), None), state.position, None, num_steps, unroll=unroll)
        return scanned[0]

    return run


def ours(logdensity_fn: Callable, num_steps: int, mass: jax.Array, unroll: int = 1) -> Trajectory:
    step = integrators.leapfrog(logdensity_fn, metrics.diagonal(mass))
    return lambda state, epsilon: integrators.integrate(step, state, epsilon, num_steps, unroll=unroll)[0]


def blackjax_verlet(logdensity_fn: Callable, num_steps: int, mass: jax.Array) -> Trajectory:
    from blackjax.mcmc import integrators as peer
    from blackjax.mcmc import metrics as peer_metrics
    from blackjax.mcmc import trajectory

    kinetic_energy_fn = peer_metrics.gaussian_euclidean(1 / mass).kinetic_energy
    integrate = trajectory.static_integration(peer.velocity_verlet(logdensity_fn, kinetic_energy_fn))

    def run(state: Any, step_size: jax.Array) -> Any:
        return integrate(peer.IntegratorState(*state[:4]), step_size, num_steps)

    return run


def batched(trajectory: Trajectory) -> Callable:
    return jax.jit(jax.vmap(trajectory, (0, None)))


def choose_num_steps(logdensity_fn: Callable, arguments: tuple, seconds: float) -> int:
    """L for a call of about `seconds`."""
    run = jax.jit(
        lambda n, state, epsilon: jax.vmap(bare_gradient(logdensity_fn, n), (0, None))(state, epsilon)
    )
    per_step = seconds_per_round(lambda n: run(n, *arguments), seconds / 4)
    return max(MIN_STEPS, min(max(USUAL_STEPS, round(seconds / per_step)), round(MAX_SECONDS / per_step)))
