"""Where a comparison on published nets may write: over nothing else's, and with what to do where it may not."""

import json
import signal

import pytest

from experiments.published.methods import METHODS
from experiments.published.run import check_places, main
from experiments.published.table import markdown
from experiments.support.failures import StoppedError, told_when_stopped
from tests.support.comparisons import options


def test_pages_with_other_methods_are_kept(tmp_path):
    config = options(tmp_path, methods=("vae",))
    config.place.mkdir(parents=True)
    page = config.place / "published_digits.json"
    page.write_text(json.dumps({"rows": [{"name": name} for name in ("vae", "vae-before", "iwae5")]}))
    with pytest.raises(
        ValueError, match="has rows of iwae5, which would be lost: give these methods too, or another"
    ):
        check_places(config)
    check_places(options(tmp_path, methods=("iwae5", "vae", "hvi4")))
    check_places(options(tmp_path, methods=("vae",), name="another"))


@pytest.mark.parametrize("place", ["vae-seed0", "search/vae-1"])
def test_what_is_in_the_way_of_a_run_is_told_at_once(tmp_path, place):
    config = options(tmp_path, methods=("vae",), num_trials=2)
    (config.place / place).mkdir(parents=True)
    check_places(config)
    (config.place / place / "thesis.txt").write_text("mine")
    with pytest.raises(
        ValueError, match=f"{place} is in the way of a run, and is none; give another --folder"
    ):
        check_places(config)
    (config.place / place / "config.json").write_text("{}")
    check_places(config)


def test_places_that_cannot_be_written_are_named_with_their_option(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="nothing can be written there .*another by --folder"):
        check_places(options(tmp_path, folder=tmp_path / "file"))
    with pytest.raises(OSError, match="nothing can be written there .*another by --results"):
        check_places(options(tmp_path, results=tmp_path / "file"))


def test_methods_are_compared_once(tmp_path):
    assert options(tmp_path, methods=("vae", "iwae5", "vae")).names == ("vae", "iwae5")


def test_help_names_the_methods(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["published", "--help"])
    with pytest.raises(SystemExit):
        main()
    words = capsys.readouterr().out.split()
    assert set(METHODS) < set(words)


def test_a_signal_outside_of_trainings_is_told():
    before = signal.getsignal(signal.SIGTERM)
    message = "stopped by SIGTERM between two trainings"
    with pytest.raises(StoppedError, match=message) as caught, told_when_stopped("between two trainings"):
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.status == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_page_says_what_is_still_to_come():
    report = {
        "config": {},
        "rows": [],
        "net": {"summary": "a net", "source": "ours"},
        "published": [],
        "failed": [],
        "missing": [{"method": "VAE", "seed": 1}],
        "command": "the command",
        "environment": {"device": "cpu", "num_cpus": 2, "jax": "0"},
    }
    assert "**Not yet**: VAE, seed 1." in markdown(report)
    assert "Not yet" not in markdown(report | {"missing": []})
