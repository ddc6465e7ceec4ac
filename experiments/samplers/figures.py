"""The pictures of `experiments.compare_samplers`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments.reporting.plots import plt, save_figure
from experiments.samplers.measures import Curve
from experiments.samplers.targets import Target, View
from hmcvae import integrators

NUM_STEPS = 25  # of a trajectory


class Dynamics(NamedTuple):
    """A sampler's trajectories.

    integrator_fn: (logdensity_fn, metric) -> step.  step_size, metric: as tuned.
    """

    integrator_fn: Callable[..., Any]
    step_size: float
    metric: Any


def make_trajectory(target: Target, dynamics: Dynamics, num_steps: int = NUM_STEPS) -> Callable:
    """(start [d], key) -> positions along one trajectory, [num_steps + 1 at most, d]: it ends where a solve fails or
    the numbers are no longer finite."""
    metric, step = dynamics.metric, dynamics.integrator_fn(target.logdensity_fn, dynamics.metric)

    @jax.jit
    def walk(start: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        momentum = metric.sample_momentum(key, start)

        def body(state: Any, _: None):
            state, info = step(state, dynamics.step_size)
            return state, (state.position, info.converged)

        first = integrators.init(target.logdensity_fn, metric, start, momentum)
        return jax.lax.scan(body, first, None, length=num_steps)[1]

    def trajectory(start: np.ndarray, key: jax.Array) -> np.ndarray:
        path, converged = map(np.asarray, walk(jnp.asarray(start, float), key))
        good = np.cumprod(converged & np.isfinite(path).all(axis=1)).astype(bool)
        return np.concatenate([start[None], path[good]])

    return trajectory


def draw_trajectories(pictured: Sequence[tuple[Target, View, Mapping[str, Dynamics]]], path: Path) -> None:
    """A row for each target, a column for each method."""
    num_methods = max((len(found) for _, _, found in pictured), default=1)
    figure, grid = plt.subplots(
        len(pictured), num_methods, figsize=(5 * num_methods, 4.2 * len(pictured)), squeeze=False
    )
    for (target, view, found), axes_row in zip(pictured, grid, strict=True):
        x, y = (np.linspace(*limits, 240) for limits in (view.window[:2], view.window[2:]))
        points = jnp.asarray(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2))
        logs = np.asarray(jax.vmap(target.logdensity_fn)(points)).reshape(240, 240)
        levels = logs.max() - np.array([12, 8, 5, 3, 1.5, 0.5])
        for (method, dynamics), axes in zip(found.items(), axes_row, strict=True):
            axes.contour(x, y, logs, levels, colors="0.75", linewidths=0.8, linestyles="solid")
            _draw_walks(axes, target, view, dynamics)
            axes.set_title(f"{target.name}: {method}, step size {dynamics.step_size:.2g}", fontsize=10)
    figure.suptitle(
        f"{NUM_STEPS} steps from each square; ellipses: three steps at unit speed in the metric, "
        "{z' : (z' - z)ᵀ G(z) (z' - z) = (3ε)²}; grey: log density",
        fontsize=10,
    )
    figure.tight_layout()
    save_figure(figure, path)


def _draw_walks(axes: Axes, target: Target, view: View, dynamics: Dynamics) -> None:
    trajectory = make_trajectory(target, dynamics)
    for index, start in enumerate(view.starts):
        walk, color = trajectory(start, jax.random.key(index)), f"C{index}"
        axes.plot(*walk.T, "-o", color=color, ms=2.5, lw=1.1)
        axes.plot(*walk[0], "s", color=color, ms=6)
        axes.fill(*_ellipse(dynamics, start), color=color, alpha=0.25, lw=0)
    axes.set_xlim(*view.window[:2])
    axes.set_ylim(*view.window[2:])
    axes.set_xlabel(view.names[0])
    axes.set_ylabel(view.names[1])


def _ellipse(dynamics: Dynamics, z: np.ndarray) -> np.ndarray:
    """Where three steps at unit speed in the metric would lead, [2, n]."""
    angles = np.linspace(0, 2 * np.pi, 100)
    circle = np.stack([np.cos(angles), np.sin(angles)])
    lower = np.linalg.cholesky(np.asarray(dynamics.metric.tensor(jnp.asarray(z, float))))
    return z[:, None] + 3 * dynamics.step_size * np.linalg.solve(lower.T, circle)


def draw_convergence(curves: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """Errors of running moments, against derivatives and against seconds, a row for each target."""
    figure, grid = plt.subplots(len(curves), 2, figsize=(9.5, 2.6 * len(curves)), squeeze=False, sharey="row")
    for (name, methods), (left, right) in zip(curves.items(), grid, strict=True):
        for index, (method, curve) in enumerate(methods.items()):
            for axes, spent in ((left, curve.derivatives), (right, curve.seconds)):
                axes.loglog(spent[4:], curve.errors[4:], color=f"C{index}", label=method, lw=1.5)
        for axes in (left, right):
            axes.grid(alpha=0.3)
            axes.set_title(name, fontsize=10)
        left.set_ylabel("error of running moments,\nposterior s.d.")
    grid[-1][0].set_xlabel("derivatives taken by one chain")
    grid[-1][1].set_xlabel("seconds, all chains side by side")
    grid[0][0].legend(fontsize=9)
    figure.tight_layout()
    save_figure(figure, path)
