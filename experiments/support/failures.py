"""How a script ends that cannot go on: in one line that says what to do, and an exit status that is not 0."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hmcvae.training import LostProcessError, NotFiniteError

# What JAX and Orbax say of a full disk and of too little memory, in exceptions of kinds of their own.
FULL = ("No space left on device", "RESOURCE_EXHAUSTED", "Out of memory", "Unable to allocate")

# At once: what TensorBoard's threads and exit handlers still have to write to a full disk, they print as tracebacks; a
# process whose peers are gone would wait for them at its exit; and what Ctrl-C left half done in a library's event loop
# complains when it is collected.
_leave: Callable[[int], object] = os._exit


def fail_cleanly(main: Callable[[], object]) -> None:
    """Run a script's main: errors that a user can mend, a full disk and Ctrl-C end in their message, not in a
    traceback. What is in neither list is a defect, and keeps its traceback."""
    try:
        main()
    except KeyboardInterrupt as error:
        _end(_line("interrupted", error), 130)
    except StoppedError as error:
        print(_line(str(error), error), file=sys.stderr)
        sys.exit(error.status)
    except Exception as error:
        is_full = _is_full(error)
        if not is_full and not isinstance(
            error, (ValueError, OSError, ImportError, NotFiniteError, LostProcessError)
        ):
            raise
        line = _line(f"error: {_what(error)}", error)
        if not is_full and not isinstance(error, LostProcessError):
            sys.exit(line)
        _end(line, 1)


def _end(line: str, status: int) -> None:
    try:
        print(line, file=sys.stderr, flush=True)
        sys.stdout.flush()
    except OSError:  # nobody reads on: `| tee` ends by the same Ctrl-C
        pass
    _leave(status)


class StoppedError(Exception):
    """A run that a signal has asked to stop, and that has saved what it did."""

    def __init__(self, number: int, where: str):
        super().__init__(f"stopped by {signal.Signals(number).name} {where}")
        self.status = 128 + number


@contextmanager
def stopping(*numbers: int) -> Iterator[Callable[[], int]]:
    """Within the block these signals do not end the process: `asked() -> number of the one that came, or 0` is there to
    be looked at where it is good to stop. A second one ends it as it always does. In the main thread alone."""
    came: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        del frame
        came.append(number)
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            signal.signal(number, note)
    try:
        yield lambda: came[0] if came else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def advised(advice: str) -> Iterator[None]:
    """What to do where the block is interrupted, or runs out of disk or memory."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, (KeyboardInterrupt, StoppedError)) or _is_full(error):
            error.add_note(advice)
        raise


@contextmanager
def told_when_stopped(where: str) -> Iterator[None]:
    """Within the block SIGTERM ends what runs at once, by a StoppedError that says where: for what is not saved in
    parts, and done again. In the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        del frame
        raise StoppedError(number, where)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def resume_advice(folder: Path) -> str:
    """How to go on with a training in this folder."""
    return f"go on with it by the same command and --resume --run-dir {folder}"


def _line(what: str, error: BaseException) -> str:
    return "; ".join([what, *getattr(error, "__notes__", [])])


def _what(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left for {error.filename or 'the files'}"
    if _is_full(error) and not isinstance(error, (ValueError, OSError)):
        return f"{type(error).__name__}: " + (str(error).strip().splitlines() or ["out of memory"])[0][:300]
    return str(error) or type(error).__name__


def _is_full(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    ):
        return True
    return any(words in str(error) for words in FULL)
