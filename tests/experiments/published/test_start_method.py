"""Comparisons whose methods all go on from the end of one: what each adds to a model that is trained."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.published import run as published_run
from experiments.published.config import PublishedConfig
from experiments.runs.model import load_run
from experiments.support.files import write_json
from tests.support.comparisons import SMALL, options


def test_a_method_to_start_with_needs_its_folder():
    with pytest.raises(ValueError, match="start_method=vae needs start_from"):
        PublishedConfig("digits", start_method="vae")
    with pytest.raises(ValueError, match="start_method"):
        PublishedConfig("digits", start_from="runs", start_method="no such method")


@pytest.mark.slow
def test_all_methods_go_on_from_one_and_count_what_follows(tmp_path, monkeypatch):
    paces = iter((2.0, 3.0))
    monkeypatch.setattr(
        published_run, "seconds_per_epoch", lambda configs, **_: dict.fromkeys(configs, next(paces))
    )
    first = options(tmp_path, **SMALL, methods=("full",))
    (trained,) = published_run.published(first, "the command")["rows"]

    started, train = [], published_run.trained

    def trained_with(config):
        started.append(config.start_from)
        return train(config)

    monkeypatch.setattr(published_run, "trained", trained_with)
    changes = {"methods": ("vae", "full"), "folder": tmp_path / "further"}
    further = dataclasses.replace(first, start_from=first.place, start_method="full", **changes)
    report = published_run.published(further, "the command")
    assert [own["name"] for own in report["rows"]] == ["full-before", "vae", "full"]
    before, _, full = report["rows"]
    assert started == 2 * [tmp_path / "runs/full-seed0"]
    # The start's figures and its pace are those of the first comparison; the others' epochs are what followed.
    assert before["bound"] == trained["bound"]
    assert [own["epochs"] for own in report["rows"]] == [1.0, 1.0, 1.0]
    assert [own["seconds_per_epoch"] for own in report["rows"]] == [2.0, 3.0, 3.0]
    start = report["curves"]["full"][0][0]
    assert start[0] == 0.0
    for name in ("vae", "full"):
        assert [seconds for seconds, _ in report["curves"][name][0]] == [0.0, 3.0]
        assert report["curves"][name][0][0] == start
    # One epoch from the trained nets is better than the one that trained them, with the posterior that they had.
    assert full["bound"]["mean"] > before["bound"]["mean"]
    decoders = [
        load_run(folder)[3]["vae"]["decoder"]
        for folder in (tmp_path / "runs/full-seed0", tmp_path / "further/vae-seed0")
    ]
    apart = jax.tree.map(lambda own, other: float(np.max(np.abs(own - other))), *decoders)
    # A little, after one epoch; weights from another start are a unit apart.
    assert 0 < max(jax.tree.leaves(apart)) < 0.2
    page = (tmp_path / "further/published_digits.md").read_text()
    assert "All went on from the end of Gaussian (full covariance) in runs; its row is the first" in page
    assert "whose epochs and seconds are counted in" not in page

    other = dataclasses.replace(further, start_method=None, methods=("full",))
    write_json(tmp_path / "further/paces.json", {"asked": further.setting, "paces": {"full": 1.0}})
    with pytest.raises(ValueError, match="give another --folder"):
        published_run.paces(other)
