"""A claim of a page, and how it is held to the JSON it comes from.

A sentence is text with a {} for each figure. In the pages it may be broken over lines and have bold parts.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from experiments.support.files import read_json

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments/results"
README, PAGE = "README.md", "experiments/results/README.md"
NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
# A figure: in a row of a table any number, else one with decimals or thousands, or with a unit.
UNITS = r"nats|%|×|seconds|minutes|s\b|bits|standard errors|points|times"
FIGURE = re.compile(rf"(?<![\w.,-]){NUMBER}(?![\w]|[.,]\d)")
WITH_UNIT = re.compile(rf"{NUMBER}(?: to {NUMBER}| and {NUMBER}|-{NUMBER})?\s*(?:{UNITS})")
BLOCK = re.compile(r"(<!-- made from (\w+)\.json: (\w+) -->\n)(.*?)(<!-- end -->)", re.S)


@dataclass(frozen=True)
class Claim:
    """`text` stands on `page`, with these figures; or without `figures`, it stands there and `why` says why its numbers
    are in no JSON."""

    page: str
    text: str
    figures: tuple[str, ...] | None = None
    why: str = ""


def table(page: str, rows: list[tuple[str, tuple[str, ...]]]) -> Claim:
    """The rows of one table, one below the other: a row by itself may stand in another one too."""
    return Claim(page, "\n".join(text for text, _ in rows), tuple(f for _, figures in rows for f in figures))


class Problem(NamedTuple):
    """What differs, and what the page would be without it (None: a person must see to it)."""

    page: str
    words: str
    mended: str | None = None


def load(name: str) -> dict:
    """A published JSON."""
    return read_json(RESULTS / f"{name}.json")


class _Plain(NamedTuple):
    """A page without its bold marks, and where each character stands in the page."""

    text: str
    places: list[int]


def _plain(text: str) -> _Plain:
    marks = {place for match in re.finditer(r"\*\*", text) for place in range(*match.span())}
    places = [place for place in range(len(text)) if place not in marks]
    return _Plain("".join(text[place] for place in places), places)


def _pattern(claim: Claim) -> re.Pattern:
    words = re.sub(r"\s+", " ", claim.text.replace("**", "").strip())
    parts = [r"\s+".join(re.escape(word) for word in part.split(" ")) for part in words.split("{}")]
    return re.compile(f"({NUMBER})".join(parts) if claim.figures is not None else r"\s*".join(parts))


def check_claims(pages: dict[str, str], claims: list[Claim]) -> Iterator[Problem]:
    """Sentences that are not there, or have other figures."""
    for claim in claims:
        text = pages[claim.page]
        plain = _plain(text)
        found = list(_pattern(claim).finditer(plain.text))
        if not found:
            yield Problem(claim.page, f"not there: {_filled(claim)!r}")
        for match in found:
            wrong = [
                (match.span(i + 1), own) for i, own in enumerate(claim.figures or ()) if match[i + 1] != own
            ]
            if wrong:
                mended = text
                for (start, end), own in reversed(wrong):
                    mended = mended[: plain.places[start]] + own + mended[plain.places[end - 1] + 1 :]
                says = re.sub(r"\s+", " ", match[0])
                yield Problem(claim.page, f"says {says!r}, its JSON {_filled(claim)!r}", mended)


def _filled(claim: Claim) -> str:
    return claim.text.format(*claim.figures) if claim.figures is not None else claim.text


def check_blocks(page: str, text: str, makers: dict[str, Callable[[dict], str]]) -> Iterator[Problem]:
    """Blocks <!-- made from NAME.json: MAKER --> … <!-- end --> that are not what MAKER makes."""
    for match in BLOCK.finditer(text):
        made = makers[match[3]](load(match[2]))
        if match[4] != made:
            mended = text[: match.start(4)] + made + text[match.end(4) :]
            yield Problem(
                page, f"the block made from {match[2]}.json by {match[3]} is not what it makes", mended
            )


def uncovered(text: str, claims: list[Claim]) -> list[str]:
    """Figures of a page's results that are in no claim, with the words around them. Code, comments, links and blocks
    are left out."""
    plain = _plain(text).text
    hidden = bytearray(len(plain))
    hide = [BLOCK, re.compile(r"```.*?```", re.S), re.compile(r"`[^`]*`"), re.compile(r"<!--.*?-->", re.S)]
    hide += [re.compile(r"!?\[[^\]]*\]\([^)]*\)"), *map(_pattern, claims)]
    for pattern in hide:
        for match in pattern.finditer(plain):
            hidden[match.start() : match.end()] = b"\1" * len(match[0])
    rows = {m.span() for m in re.finditer(r"^\|.*$(?!\n\|-)", plain, re.M)}  # but for their heads
    units = [m.span() for m in WITH_UNIT.finditer(plain)]
    missing = []
    for match in FIGURE.finditer(plain):
        inside = any(a <= match.start() < b for a, b in rows) or any(a <= match.start() < b for a, b in units)
        is_figure = inside or "." in match[0] or "," in match[0]
        if is_figure and not all(hidden[match.start() : match.end()]):
            around = plain[max(0, match.start() - 40) : match.end() + 40]
            missing.append(re.sub(r"\s+", " ", f"{match[0]} in …{around}…"))
    return missing
