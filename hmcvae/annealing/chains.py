"""Annealed chains of Hamiltonian Monte Carlo, from a Gaussian to a posterior or back."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hmcvae import integrators, metrics
from hmcvae._checks import check_count, check_real
from hmcvae._random import happens, normal
from hmcvae.types import LogDensityFn, PRNGKey, Scalar, Vector

# Of the step size: the acceptance aimed at (Beskos et al. 2013 for HMC), and how fast it is approached.
TARGET_ACCEPTANCE, ADAPTATION_RATE, FIRST_STEP_SIZE = 0.65, 0.3, 0.3
NUM_PILOT_CHAINS = 4


class Path(NamedTuple):
    """The two ends, as functions of y."""

    start_fn: LogDensityFn
    target_fn: LogDensityFn

    def logdensity_fn(self, beta: Scalar) -> LogDensityFn:
        return lambda y: (1 - beta) * self.start_fn(y) + beta * self.target_fn(y)


class _Chain(NamedTuple):
    """start, target: the log densities of the path's ends at y."""

    position: Vector
    start: Scalar
    target: Scalar
    log_weight: Scalar


def sigmoid_schedule(num_temperatures: int, steepness: float = 4.0) -> Float[Array, " n"]:
    """0 = β_0 < … < β_T = 1, closer together at both ends (Grosse et al. 2015; Wu et al. 2017, section 4).

    Raises:
        ValueError: unless num_temperatures is a whole number of at least 1 and steepness a positive number.
    """
    num_temperatures = check_count("num_temperatures", num_temperatures, 1)
    steepness = check_real("steepness", steepness, 0.0, is_open=True)
    values = jax.nn.sigmoid(steepness * jnp.linspace(-1.0, 1.0, num_temperatures + 1))
    return (values - values[0]) / (values[-1] - values[0])


def _hmc(rng_key: PRNGKey, path: Path, beta: Scalar, chain: _Chain, epsilon: Scalar, num_steps: int):
    """(chain, acceptance probability): one HMC transition on p_β, which it leaves invariant for any ε."""
    momentum_key, accept_key = jax.random.split(rng_key)
    position = chain.position
    momentum = normal(momentum_key, position.shape, position.dtype)
    logdensity_fn = path.logdensity_fn(beta)
    first, gradient = jax.value_and_grad(logdensity_fn)(position)
    state = integrators.IntegratorState(position, momentum, first, gradient)
    leapfrog = integrators.leapfrog(logdensity_fn, metrics.identity())
    end, _ = integrators.integrate(leapfrog, state, epsilon, num_steps)
    change = end.logdensity - first - 0.5 * (jnp.sum(end.momentum**2) - jnp.sum(momentum**2))
    acceptance = jnp.where(jnp.isfinite(change), jnp.exp(jnp.minimum(change, 0.0)), 0.0)
    is_accepted = happens(accept_key, acceptance)
    moved = _Chain(end.position, path.start_fn(end.position), path.target_fn(end.position), chain.log_weight)
    return jax.tree.map(lambda a, b: jnp.where(is_accepted, a, b), moved, chain), acceptance


def begin_chain(path: Path, position: Vector) -> _Chain:
    zero = jnp.zeros((), position.dtype)
    return _Chain(position, path.start_fn(position), path.target_fn(position), zero)


def run_chain(
    rng_key: PRNGKey,
    path: Path,
    positions: Float[Array, "k d"],
    betas: Float[Array, " n"],
    step_sizes: Float[Array, " T"] | None,
    num_steps: int,
    is_reverse: bool,
) -> tuple[Float[Array, " k"], Scalar, Float[Array, " T"]]:
    """(log weights, mean acceptance, step sizes) of K chains along β_0 < … < β_T, or backwards.

    With step_sizes None they are adapted on the way, to the mean acceptance of the chains: for a pilot run, since the
    transitions then depend on the chains' past. Given, one for each transition, they keep the weights unbiased.
    """
    num_chains, num_transitions = len(positions), len(betas) - 1
    dtype = positions.dtype
    is_pilot = step_sizes is None
    fixed = jnp.ones(num_transitions, dtype) if step_sizes is None else step_sizes

    def add_weight(chain: _Chain, gap: Scalar) -> _Chain:
        return chain._replace(log_weight=chain.log_weight + gap * (chain.target - chain.start))

    def move(carry: tuple[_Chain, Scalar], inputs: tuple):
        chains, log_step = carry
        key, beta, gap, given = inputs
        epsilon = jnp.exp(log_step) if is_pilot else given

        def one(key: PRNGKey, chain: _Chain):
            # y_{t-1} is where the weight is taken, on either way: before a move to it, or after one from it.
            if not is_reverse:
                chain = add_weight(chain, gap)
            chain, acceptance = _hmc(key, path, beta, chain, epsilon, num_steps)
            return (add_weight(chain, gap) if is_reverse else chain), acceptance

        chains, acceptance = jax.vmap(one)(jax.random.split(key, num_chains), chains)
        rate = jnp.mean(acceptance)
        log_step = log_step + ADAPTATION_RATE * (rate - TARGET_ACCEPTANCE)
        return (chains, log_step.astype(dtype)), (rate, epsilon)

    keys = jax.random.split(rng_key, num_transitions)
    chains = jax.vmap(lambda y: begin_chain(path, y))(positions)
    first = jnp.asarray(jnp.log(FIRST_STEP_SIZE), dtype)
    inputs = (keys, betas[1:], jnp.diff(betas), fixed)
    (chains, _), (rates, used) = lax.scan(move, (chains, first), inputs, reverse=is_reverse)
    return chains.log_weight, jnp.mean(rates), used
