"""A training by several processes, from the command line: killed, gone on with, and told in one line what is wrong."""

import json
import signal
import subprocess
import time

import numpy as np
import pytest

from experiments.runs import training as train
from tests.support.processes import free_port, output_of, start_module
from tests.support.runs import metrics_of, tiny

OPTIONS = ["--preset", "digits_vae", "--latent-dim", "2", "--hidden", "6", "--batch-size", "500"]
OPTIONS += ["--eval-samples", "3", "--eval-images", "12"]


def start(*arguments: str, num_devices: int = 1) -> subprocess.Popen:
    return start_module("experiments.train", *OPTIONS, *arguments, num_devices=num_devices)


def assert_same_as_alone(folder, options: list[str]) -> None:
    """The run is gone on with to its end, and its metrics are those of one that was left alone."""
    output_of(start("--run-dir", str(folder), *options, "--resume"), 300)
    alone = folder.parent / "alone"
    output_of(start("--run-dir", str(alone), *options), 300)
    assert metrics_of(folder) == metrics_of(alone)


def start_both(*arguments: str) -> list[subprocess.Popen]:
    joined = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2"]
    return [start(*joined, "--process-id", str(index), *arguments) for index in range(2)]


def wait_for_records(folder, count: int) -> None:
    for _ in range(3000):
        path = folder / "metrics.jsonl"
        if path.is_file() and len(path.read_text().splitlines()) >= count:
            return
        time.sleep(0.1)
    raise TimeoutError(f"no {count} records in {folder}")


@pytest.mark.slow
def test_when_one_of_two_is_killed_the_other_stops_and_both_go_on(tmp_path):
    folder = tmp_path / "run"
    both = start_both("--run-dir", str(folder), "--num-epochs", "20000")
    wait_for_records(folder, 3)
    both[1].kill()
    _, error = both[0].communicate(timeout=300)
    assert both[0].returncode not in (0, None)
    assert "another task died" in error or "cannot reach the others" in error
    both[1].communicate()
    num_done = len(metrics_of(folder))
    both = start_both("--run-dir", str(folder), "--num-epochs", str(num_done + 2), "--resume")
    for process in both:
        output_of(process, 600)
    train.train(tiny(tmp_path / "alone", num_epochs=num_done + 2), quiet=True)
    ours, alone = metrics_of(folder), metrics_of(tmp_path / "alone")
    assert [record["epoch"] for record in ours] == list(range(1, num_done + 3))
    for name in ("bound", "test_bound"):
        values = [[record[name] for record in records] for records in (ours, alone)]
        np.testing.assert_allclose(*values, rtol=2e-4)
    assert json.loads((folder / "evaluation.json").read_text())["epoch"] == num_done + 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "3"], "devices must be at most the 2 that there are, got 3"),
        (["--devices", "2", "--batch-size", "3"], "batch_size must be a multiple of the 2 devices, got 3"),
        (["--process-id", "1"], "process 1 of 1 needs the coordinator's address, HOST:PORT, got None"),
        (
            ["--coordinator", "127.0.0.1:1", "--num-processes", "2", "--process-id", "2"],
            "process_id must be below num_processes = 2, got 2",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(arguments, message, tmp_path):
    process = start("--run-dir", str(tmp_path / "run"), *arguments, num_devices=2)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert error.strip().splitlines()[-1] == f"error: {message}"


def test_devices_of_one_process_give_the_same_run(tmp_path):
    process = start("--run-dir", str(tmp_path / "two"), "--devices", "0", "--num-epochs", "3", num_devices=2)
    output_of(process, 300)
    train.train(tiny(tmp_path / "one"), quiet=True)
    for name in ("bound", "test_bound", "grad_norm"):
        values = [[record[name] for record in metrics_of(tmp_path / run)] for run in ("two", "one")]
        np.testing.assert_allclose(*values, rtol=2e-4)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_after_its_epoch_in_one_line(tmp_path, number, status):
    folder = tmp_path / "run"
    process = start("--run-dir", str(folder), "--num-epochs", "20000")
    wait_for_records(folder, 3)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)  # all of its epochs would take longer
    assert process.returncode == status
    last = error.strip().splitlines()[-1]
    num_done = len(metrics_of(folder))
    assert last.endswith(f"go on with it by the same command and --resume --run-dir {folder}")
    assert "Traceback" not in error
    if number == signal.SIGTERM:
        assert last.startswith(f"stopped by SIGTERM after epoch {num_done}")
        assert (folder / "checkpoints" / str(num_done)).is_dir()


def test_a_run_of_long_epochs_stops_in_one_and_goes_on_with_it(tmp_path):
    """Killed in its first epoch, and asked to stop in another; at the end it is the run that was left alone."""
    folder, options = tmp_path / "run", ["--batch-size", "10", "--steps-per-save", "10", "--num-epochs", "2"]
    process = start("--run-dir", str(folder), *options)
    for _ in range(3000):
        if any((folder / "partial").glob("[0-9]*")):
            break
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert metrics_of(folder) == []
    process = start("--run-dir", str(folder), *options, "--resume")
    wait_for_records(folder, 1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    last = error.strip().splitlines()[-1]
    assert last.startswith(("stopped by SIGTERM in epoch 2, after step ", "stopped by SIGTERM after epoch 1"))
    assert_same_as_alone(folder, options)


@pytest.mark.slow
def test_six_kills_at_random_moments_change_nothing(tmp_path):
    """Each after an epoch of its own, most of them while a checkpoint is being written; the last run ends by itself."""
    random, folder = np.random.default_rng(7), tmp_path / "run"
    options, done = ["--num-epochs", "150"], 0
    for attempt in range(6):
        process = start("--run-dir", str(folder), *options, *(["--resume"] if attempt else []))
        wait_for_records(folder, done + 1)
        time.sleep(random.uniform(0, 0.5))
        process.kill()
        _, error = process.communicate()
        assert process.returncode == -signal.SIGKILL, error[-2000:]
        done = len(metrics_of(folder))
        assert done < 140
    assert_same_as_alone(folder, options)
    results = [json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("run", "alone")]
    assert results[0]["proposals"]["encoder"]["bound"] == results[1]["proposals"]["encoder"]["bound"]
