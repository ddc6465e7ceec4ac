"""A moving average of the parameters, kept beside any optimizer's state (Polyak & Juditsky 1992)."""

from typing import Any, NamedTuple

import optax

from hmcvae._checks import check_real
from hmcvae.training.state import TrainState
from hmcvae.types import PyTree


class AveragedState(NamedTuple):
    """inner: the optimizer's own.  average: of the parameters, shaped like them."""

    inner: Any
    average: PyTree


def averaged(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """The same optimizer, which also keeps the average a ← decay · a + (1 - decay) · parameters after every step, by
    `optax.incremental_update`; it starts at the parameters, and `average_of` gives it.

    Raises:
        ValueError: unless decay is in [0, 1), and optimizer one of Optax's.
    """
    decay = check_real("decay", decay, 0, 1)
    if decay == 1:
        raise ValueError("decay must be less than 1, got 1.0: the average would never move")
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(f"optimizer must be one of Optax's, such as optax.adam(1e-3), got {optimizer!r}")

    def init(params: PyTree) -> AveragedState:
        return AveragedState(optimizer.init(params), params)

    def update(updates: PyTree, state: Any, params: Any = None) -> tuple[PyTree, Any]:
        updates, inner = optimizer.update(updates, state.inner, params)
        moved = optax.apply_updates(params, updates)
        return updates, AveragedState(inner, optax.incremental_update(moved, state.average, 1 - decay))

    return optax.GradientTransformation(init, update)


def average_of(state: TrainState) -> PyTree:
    """The averaged parameters, {"vae": …, "bound": …}, of a run whose optimizer is `averaged`.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(state.opt_state, AveragedState):
        raise ValueError(
            f"expected the state of a run with training.averaged(optimizer), got {type(state.opt_state).__name__}"
        )
    return state.opt_state.average
