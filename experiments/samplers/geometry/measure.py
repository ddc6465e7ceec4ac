"""One contestant on one posterior: its programs, and a row for each seed."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from experiments.samplers.geometry.contestants import Contestant, Draws, Lengths, Programs
from experiments.samplers.geometry.posteriors import Posterior
from experiments.support.timing import Stopwatch, timed
from hmcvae.samplers import diagnostics
from hmcvae.samplers.effective import ess_mean


class Bench:
    """The compiled programs of a contestant; one `row` a seed."""

    def __init__(self, posterior: Posterior, contestant: Contestant, num_chains: int):
        self.posterior, self.contestant, self.num_chains = posterior, contestant, num_chains
        self.form = posterior.forms[contestant.form]
        self.lengths = Lengths(posterior.num_warmup, posterior.num_samples)
        programs = contestant.make(self.form, self.lengths)
        self.is_jax = programs.is_jax
        with Stopwatch() as watch:
            self.programs = self._compile(programs) if programs.is_jax else programs
        self.compile_seconds = watch.elapsed.seconds

    def _compile(self, programs: Programs) -> Programs:
        key, starts = jax.random.key(0), self.form.starts(jax.random.key(0), self.num_chains)
        warm = jax.jit(programs.warm).lower(key, starts).compile()
        tuned = jax.eval_shape(programs.warm, key, starts)
        draw = jax.jit(programs.draw).lower(key, tuned).compile()
        return Programs(warm, draw)

    def row(self, seed: int) -> dict:
        keys = jax.random.split(jax.random.key(1000 + seed), 3)
        starts = self.form.starts(keys[0], self.num_chains)
        tuned, warming = timed(lambda: self.programs.warm(keys[1], starts))
        if self.is_jax:
            draws, drawing = timed(lambda: self.programs.draw(keys[2], tuned))
            warm_seconds, seconds = warming.seconds, drawing.seconds
        else:  # tunes and draws in one call
            (draws, before), both = timed(lambda: self.programs.draw(keys[2], tuned))
            share = before / (before + float(np.sum(draws.gradients)))
            warm_seconds, seconds = share * both.seconds, (1 - share) * both.seconds
        return {
            "posterior": self.posterior.name,
            "contestant": self.contestant.name,
            "library": self.contestant.library,
            "form": self.contestant.form,
            "seed": seed,
            "compile_seconds": self.compile_seconds if self.is_jax else warming.seconds,
            "warm_seconds": warm_seconds,
            "seconds": seconds,
            **figures(self.posterior, jax.tree.map(np.asarray, draws)),
        }


def figures(posterior: Posterior, draws: Draws) -> dict:
    """What the draws are worth."""
    common = np.asarray(draws.common, np.float64)
    judged = common if posterior.judged is None else common[..., list(posterior.judged)]
    is_finite = bool(np.isfinite(judged).all())
    total = float(common.shape[0] * common.shape[1])
    ess = ess_square = rhat = np.zeros(1)
    if is_finite:
        ess, ess_square = (
            np.minimum(diagnostics.effective_draws(ess_mean, x), total) for x in (judged, judged**2)
        )
        rhat = diagnostics.rhat(judged)
    return {
        "ess": _spread(ess),
        "ess_square": _spread(ess_square),
        "least_ess": float(min(ess.min(), ess_square.min())),
        "rhat": float(rhat.max()),
        "gradients": float(np.sum(draws.gradients)),
        "failed": int(np.sum(draws.failed)),
        "num_transitions": int(total),
        "acceptance": None if np.isnan(draws.acceptance) else float(draws.acceptance),
        "watched": {w.name: expectation(w.function(common)) for w in posterior.watched},
    }


def _spread(values: Float[np.ndarray, " d"]) -> list[float]:
    """Least, median, greatest."""
    return [float(f(values)) for f in (np.min, np.median, np.max)]


def expectation(values: Float[np.ndarray, "chain draw"]) -> dict[str, Any]:
    """The mean of each chain and of all, and its standard error: from the effective size, or from what the chains'
    means say, if that is more (a chain that never sees a tail knows nothing of its own error)."""
    means = values.mean(axis=1)
    size = float(diagnostics.effective_draws(ess_mean, values[..., None])[0])
    by_size = values.std() / np.sqrt(max(size, 1.0))
    by_chains = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else 0.0
    return {"mean": float(values.mean()), "error": float(max(by_size, by_chains)), "chains": means.tolist()}


def shortened(posterior: Posterior, divisor: int) -> Posterior:
    """With a part of the transitions, for a smoke run."""
    parts = {name: max(20, getattr(posterior, name) // divisor) for name in ("num_warmup", "num_samples")}
    return replace(posterior, **parts) if divisor > 1 else posterior
