"""The benchmark of training writes its table, figures and picture, with and without the peer."""

import dataclasses
import json
import sys

import pytest

from experiments.benchmarks.peers import PYTHAE
from experiments.benchmarks.training import run, tables
from experiments.benchmarks.training.config import EXACT, MODELS, Config, made_up, smaller
from experiments.benchmarks.training.records import EpochTime, Facts, Row, compare, make_row
from experiments.benchmarks.training.workers import measure
from experiments.reporting.reports import NOTES, write_report
from experiments.support.files import read_json
from tests.support.paths import REPOSITORY

TINY = dataclasses.replace(smaller(Config()), hidden=(8,), num_steps=1)


def row(library: str, name: str, seconds: float, num_cores: int = 2) -> Row:
    return make_row(library, name, num_cores, [EpochTime(seconds, 0.9 * seconds, -100.0)] * 3)


def test_without_the_peer_its_rows_say_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pythae", None)  # as if it were not installed
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # in the workers: compiles in half the time
    images = made_up(TINY.num_images)
    report = run.benchmark(dataclasses.replace(TINY, folder=tmp_path), images, "the command")

    ours = [entry for entry in report["rows"] if entry["library"] == "hmcvae"]
    assert [entry["model"] for entry in ours] == list(MODELS)
    for entry in ours:
        assert 0 < entry["least_seconds"] <= entry["seconds"]
        assert len(entry["rounds"]) == TINY.rounds
        assert -800 < entry["bound"] < 0
        assert report["known"]["hmcvae"][entry["model"]]["flops"] > 1e5
    assert json.loads((tmp_path / "bench_training.json").read_text())["rows"] == report["rows"]
    text = (tmp_path / "bench_training.md").read_text()
    assert "`the command`" in text
    assert "| pythae HVAE |  | not measured |" in text
    assert f"Against pythae VAE: not measured. `{PYTHAE.install}`" in text
    assert (tmp_path / "bench_training.png").stat().st_size > 10_000
    assert "pythae is not installed: not measured" in capsys.readouterr().err


def test_ratios_are_to_ours_on_as_many_cores():
    rows = [row("hmcvae", "VAE", 1.0), row("hmcvae", "VAE", 2.0, 1), row("hmcvae", "HVI", 4.0)]
    rows += [row("pythae", "VAE", 3.0), row("pythae", "VAE", 3.0, 1), row("pythae", EXACT, 10.0)]
    compared = compare(rows, ())
    found = {(r.library, r.model, r.variant, r.num_cores): r.seconds_over_ours for r in compared}
    assert found["pythae", "VAE", "", 2] == 3.0
    assert found["pythae", "VAE", "", 1] == 1.5
    assert found["pythae", "HVI", "second-order terms added", 2] == 2.5
    assert found["hmcvae", "VAE", "", 1] == 1.0
    known = {"pythae": {"VAE": Facts(flops=2.7e9)}}
    lines = tables.outcome(compared, known)
    expected = "3.00 × in seconds, 3.00 × in CPU seconds: at least 2 × by the clock and in CPU time."
    assert f"- Against pythae VAE, 2 cores: {expected}" in lines
    assert "- Against pythae VAE, 1 core: 1.50 × in seconds, 1.50 × in CPU seconds: not 2 ×." in lines
    assert "- pythae VAE: 2.7 Gflop an epoch, 1 Gflop per CPU second." in lines


def test_notes_by_hand_are_kept(tmp_path):
    report = read_json(REPOSITORY / "experiments/results/bench_training.json")
    page = tmp_path / "bench_training.md"
    write_report(tmp_path / "bench_training", report, tables.markdown)
    assert page.read_text() == tables.markdown(report)
    page.write_text(f"# Old\n\n{NOTES}\nWhy it is so.\n")
    write_report(tmp_path / "bench_training", report, tables.markdown)
    assert page.read_text() == tables.markdown(report) + f"\n{NOTES}\nWhy it is so.\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 65}, "batch_size must be between 1 and num_images = 64, got 65"),
        ({"rounds": 0}, "rounds must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="expected num_images = 64 images, got 3"):
        run.benchmark(TINY, made_up(3), "")


def test_a_contestant_that_fails_is_named():
    wrong = made_up(TINY.num_images)[..., 0]  # no channels
    with pytest.raises(RuntimeError, match="hmcvae: ValueError"):
        measure(TINY, wrong, ("hmcvae",))
