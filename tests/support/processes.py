"""Programs that tests start as processes of their own."""

import os
import signal
import socket
import subprocess
import sys

from tests.support.paths import REPOSITORY


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


def start_module(module: str, *arguments: str, num_devices: int = 1) -> subprocess.Popen:
    """`python -m module …` with so many virtual devices, which can be interrupted: in the background of a shell tests
    are started with that signal ignored, and what they start would inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={num_devices}"
    environment = {**os.environ, "XLA_FLAGS": flags.strip()}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(process: subprocess.Popen, timeout: float) -> str:
    """What it has printed, once it has ended well."""
    out, error = process.communicate(timeout=timeout)
    assert process.returncode == 0, error[-3000:]
    return out
