"""Where the figures of a command go, and how commands end."""

import errno
import importlib
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.comparison.run import CompareConfig
from experiments.published.config import PublishedConfig
from experiments.samplers.comparison import SamplersConfig
from experiments.samplers.logistic import LogisticConfig
from experiments.study.report import ReportConfig
from experiments.support import failures
from hmcvae.training import NotFiniteError
from tests.support.paths import REPOSITORY
from tests.support.runs import files_of


def test_an_unknown_preset_is_one_line_on_the_command_line():
    command = [sys.executable, "-m", "experiments.train", "--preset", "nope"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: preset must be one of digits, ")


@pytest.mark.parametrize(
    "kind", [ValueError, FileExistsError, FileNotFoundError, ImportError, NotFiniteError]
)
def test_errors_that_a_user_can_mend_end_in_their_message(kind):
    def main():
        raise kind("do this")

    with pytest.raises(SystemExit, match="error: do this"):
        failures.fail_cleanly(main)


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        failures.fail_cleanly(lambda: 1 / 0)


def test_nothing_published_is_written_over_by_default():
    own = [
        SamplersConfig().results,
        LogisticConfig().results,
        CompareConfig().results,
        ReportConfig(Path("s")).results,
        PublishedConfig("burda").results,
    ]
    for name in ("bounds", "training", "integrators", "riemannian"):
        own.append(importlib.import_module(f"experiments.benchmarks.{name}.config").Config().folder)
    assert not any("results" in str(path) for path in own if path)


class Runtime(RuntimeError):
    """As JAX's."""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted; go on"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 1, "error: no space left for a/b; go on"),
        (
            Runtime("RESOURCE_EXHAUSTED: Out of memory allocating\nmore"),
            1,
            "error: Runtime: RESOURCE_EXHAUSTED",
        ),
        (MemoryError("Unable to allocate 3 TiB"), 1, "error: MemoryError: Unable to allocate"),
        (PermissionError(errno.EACCES, "Permission denied", "c"), 1, "error: .*Permission denied: 'c'$"),
    ],
)
def test_what_stops_a_command_is_one_line_with_advice(error, code, line, capsys, monkeypatch):
    monkeypatch.setattr(failures, "_leave", sys.exit)  # os._exit would end the tests

    def main():
        with failures.advised("go on"):
            raise error

    with pytest.raises(SystemExit) as caught:
        failures.fail_cleanly(main)
    said = capsys.readouterr().err.strip() or str(caught.value.code)
    assert (caught.value.code if isinstance(caught.value.code, int) else 1) == code
    (only,) = said.splitlines()
    assert re.match(line, only)


@pytest.mark.slow
def test_a_training_that_is_interrupted_says_how_to_go_on(tmp_path):
    folder = tmp_path / "run"
    arguments = ["--preset", "digits_vae", "--num-epochs", "100000", "--run-dir", str(folder)]
    # Whoever runs the tests in the background has Ctrl-C ignored, and children inherit that.
    program = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "runpy.run_module('experiments.train', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", program, *arguments]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    while not (folder / "metrics.jsonl").is_file() or not (folder / "metrics.jsonl").read_text():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip() and "epoch/s" not in line]
    expected = f"interrupted; go on with it by the same command and --resume --run-dir {folder}"
    assert lines[-1] == expected
    assert "Traceback" not in said
    assert len(files_of(folder)) > 3
