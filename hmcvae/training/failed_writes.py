"""What Orbax and TensorStore print of a write that failed, beside the error that they raise."""

import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

_lock = threading.Lock()
_within: list[contextlib.ExitStack] = []


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the tracebacks that Orbax logs of errors that it also raises, and without those of the writes that were
    under way when one failed: they end into an event loop that is closed, 40 tracebacks a checkpoint. Several threads
    may be within; the last one out puts back what was there."""
    with _lock:
        if not _within:
            what_was = contextlib.ExitStack()
            what_was.enter_context(_only_critical(logging.getLogger("absl")))
            what_was.enter_context(_without_closed_loops())
        else:
            what_was = _within[-1]
        _within.append(what_was)
    try:
        yield
    except Exception:  # asyncio tells of the others when they are collected, at any later moment
        asyncio = logging.getLogger("asyncio")
        if _is_not_orbaxs not in asyncio.filters:
            asyncio.addFilter(_is_not_orbaxs)
        raise
    finally:
        with _lock:
            _within.pop()
            if not _within:
                what_was.close()


def _is_not_orbaxs(record: logging.LogRecord) -> bool:
    """Whether asyncio logs something else than the end of a write that nobody waited for."""
    if not record.exc_info or "never retrieved" not in record.getMessage():
        return True
    frames = traceback.walk_tb(record.exc_info[2])
    return not any(str(frame.f_globals.get("__name__")).startswith("orbax.") for frame, _ in frames)


@contextlib.contextmanager
def _only_critical(logger: logging.Logger) -> Iterator[None]:
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _without_closed_loops() -> Iterator[None]:
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        if sys.unraisablehook is hook:  # not where someone has put in another one meanwhile
            sys.unraisablehook = before
