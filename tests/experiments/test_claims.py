"""The published tables and sentences agree with the JSON they come from, and the check sees what does not."""

import re

import pytest

from experiments.claims import check as claims
from experiments.claims import pages as claims_list
from experiments.claims import run
from experiments.claims.check import PAGE, README, Claim
from experiments.comparison import table as compare_table
from experiments.study import tables as study_tables

PAGES = {page: (claims.ROOT / page).read_text() for page in (README, PAGE)}


def test_what_is_published_agrees_with_its_json():
    """`python -m experiments.claims --write` mends tables and figures; words are for a person."""
    assert [f"{problem.page}: {problem.words}" for problem in run.problems()] == []


def figures_of(claim: Claim, page: str) -> list[tuple[int, int]]:
    plain = claims._plain(PAGES[page])
    match = claims._pattern(claim).search(plain.text)
    assert match is not None
    return [
        (plain.places[a], plain.places[b - 1] + 1)
        for a, b in (match.span(i + 1) for i in range(match.re.groups))
    ]


@pytest.mark.parametrize("page", [README, PAGE])
def test_any_wrong_figure_is_found_and_mended(page):
    """The last digit of each figure of each claim, one after the other."""
    own = [claim for claim in claims_list.claims() if claim.page == page and claim.figures]
    assert len(own) > 5
    for claim in own:
        for start, end in figures_of(claim, page):
            digit = PAGES[page][end - 1]
            wrong = PAGES[page][: end - 1] + str((int(digit) + 1) % 10) + PAGES[page][end:]
            found = list(claims.check_claims({page: wrong}, [claim]))
            assert len(found) == 1, (claim.text, PAGES[page][start:end])
            assert found[0].mended == PAGES[page]


def test_a_sentence_that_is_gone_is_found():
    claim = next(c for c in claims_list.claims() if c.page == README and c.figures)
    (found,) = claims.check_claims({README: "nothing"}, [claim])
    assert found.words.startswith("not there: ")
    assert found.mended is None


@pytest.mark.parametrize(
    ("added", "is_found"),
    [
        ("It is worth 3.2 nats.", True),
        ("It closes **72 %** of it.", True),
        ("12 × as fast.", True),
        ("| method | 5 |\n| VAE | 7 |\n", True),
        ("Means of 300 images, 4 steps.", False),
        ("`--seconds 4.5`", False),
    ],
)
def test_figures_from_nowhere_are_found(added, is_found):
    assert bool(claims.uncovered(added, [])) == is_found
    claim = Claim(README, added.split("\n")[-2] if "\n" in added else added, None, "said so")
    rest = claims.uncovered(added, [claim])
    assert len(rest) == (1 if "method" in added else 0)


def test_what_comes_from_no_json_says_why():
    assert all(claim.figures is not None or claim.why for claim in claims_list.claims())


def test_a_table_and_a_block_that_were_changed_are_found(monkeypatch):
    assert set(claims_list.TABLES) == {path.stem for path in claims.RESULTS.glob("*.json")}
    changed = PAGES[PAGE].replace("| VAE | -", "| VAE | -9", 1)
    assert changed != PAGES[PAGE]
    (found,) = claims.check_blocks(PAGE, changed, claims_list.BLOCKS)
    assert found.mended == PAGES[PAGE]
    monkeypatch.setitem(claims_list.TABLES, "mnist_long", lambda report: "another")
    (found,) = run.check_tables()
    assert found == ("experiments/results/mnist_long.md", "is not what mnist_long.json makes", "another")


def test_log_likelihood_is_told_by_annealing_where_there_is_any():
    """Of the same comparison, before and after it was pinned."""
    made = claims.load("mnist_bounds")
    pinned = {
        "log_likelihood_ais": {"mean": -95.0, "error": 0.1, "values": [-95.0] * 3},
        "gap": {"mean": 5.0, "error": 0.1},
        "ess_ais": 6.25,
        "num_chains": 8,
        "width": {"mean": 0.07, "error": 0.01},
        "num_made": 50,
        "ess": 9.0,
        "ess_encoder": 9.0,
        "low_ess": 0.875,
        "low_ess_encoder": 0.5,
    }
    rows = [row | pinned for row in made["rows"]]
    rows[-1]["log_likelihood_ais"] = {"mean": -92.3, "error": 0.1, "values": [-92.3] * 3}
    after = made | {"rows": rows, "config": made["config"] | {"eval_temperatures": 300}}
    for make in (compare_table.short_table, compare_table.markdown):
        text = make(after)
        assert "-95.00 ± 0.10 (6.2)" in text
        assert "0.07 ± 0.01" in text
        assert "(9)" in text
        assert "300 temperatures, 8 chains" in text
        assert "**Caution**: up to 88% of the images have fewer than 100 effective draws" in text
        heads, rule, first = text.splitlines()[:3]
        assert heads.count("|") == rule.count("|") == first.count("|")
    unknown = [{name: value for name, value in row.items() if "low_ess" not in name} for row in rows]
    assert "draws was not kept" in compare_table.markdown(after | {"rows": unknown})
    even = [row | {"low_ess": 0.0, "low_ess_encoder": 0.0} for row in rows]
    assert "Caution" not in compare_table.markdown(after | {"rows": even})
    assert "and 2.7 of log p(x) over the VAE" in compare_table.prose(after)
    for row in rows:
        row |= {"ess": 150.0, "ess_encoder": 120.0, "low_ess": 0.0, "log_likelihood_ais": None}
        row |= {"low_ess_encoder": 0.0}
    text = compare_table.markdown(after)
    assert "Caution" not in text
    assert "(150)" in text
    assert "of log p(x) over" not in compare_table.prose(after)


def test_a_method_that_failed_is_no_baseline():
    text = study_tables.markdown(claims.load("mnist_position"))
    (row,) = re.findall(r"^\| 2 \| HVI-4 \| 1 .*$", text, re.M)
    assert "| **failed** |" in row
    assert "-9204%" not in text
