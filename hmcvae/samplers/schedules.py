"""Which transitions of a warm-up do what."""

from typing import Any, NamedTuple

import numpy as np

from hmcvae._checks import check_count


class Schedule(NamedTuple):
    """What each warm-up transition does; three bool arrays [num_warmup].

    collects: its draws feed the covariance.
    ends_window: after it the mass is set and the covariance starts afresh.
    restarts: before it a reasonable step size is sought and dual averaging starts afresh.
    """

    collects: np.ndarray
    ends_window: np.ndarray
    restarts: np.ndarray


def step_size_schedule(num_warmup: Any) -> Schedule:
    """The step size alone, from the first transition to the last.

    Raises:
        ValueError: for a negative count.
    """
    num_warmup = check_count("num_warmup", num_warmup, 0)
    collects, ends, restarts = (np.zeros(num_warmup, bool) for _ in range(3))
    restarts[:1] = True
    return Schedule(collects, ends, restarts)


def window_schedule(num_warmup: Any, *, initial: Any = 75, window: Any = 25, final: Any = 50) -> Schedule:
    """Stan's three stages (reference manual, "HMC algorithm parameters: automatic parameter tuning").

    First the step size alone, to reach the typical set; then windows of draws for the mass, each twice as long
    as the one before, the last one stretched to the end of its stage; at last the step size alone. A warm-up
    too short for the given lengths splits 15 : 75 : 10, with ten transitions at least for the last stage: a step size
    is not found in fewer. One under 20 transitions adapts the step size alone.

    Raises:
        ValueError: for a negative count, or a window without transitions.
    """
    schedule = step_size_schedule(num_warmup)
    num_warmup = len(schedule.restarts)
    initial, final = check_count("initial", initial, 0), check_count("final", final, 0)
    window = check_count("window", window, 1)
    if num_warmup < 20:
        return schedule
    if initial + window + final > num_warmup:
        initial, final = int(0.15 * num_warmup), max(10, int(0.1 * num_warmup))
        window = num_warmup - initial - final
    start, stop = initial, num_warmup - final
    schedule.collects[start:stop] = True
    while start < stop:
        # A window is stretched when the next, twice as long, would not fit behind it.
        end = start + window if start + 3 * window <= stop else stop
        schedule.ends_window[end - 1] = True
        schedule.restarts[end : end + 1] = True
        start, window = end, 2 * window
    return schedule
