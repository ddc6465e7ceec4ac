"""What the published pages claim, held to the JSON it comes from: `python -m experiments.claims [--write]`.

Every table experiments/results/NAME.md is made again from NAME.json, with what a person wrote below it kept; every
figure of the pages' results stands in a sentence or row of this room, which says where it comes from, or in one that
says why it comes from no JSON. Without --write what differs is printed; with it tables, blocks and figures are mended,
and words are left alone.
"""

import sys
from collections.abc import Iterator

from experiments.claims.check import RESULTS, ROOT, Problem, check_blocks, check_claims, load, uncovered
from experiments.claims.pages import BLOCKS, PAGES, TABLES, claims
from experiments.reporting.reports import with_notes


def problems() -> list[Problem]:
    """All that differs in the published pages and tables."""
    pages = {page: (ROOT / page).read_text() for page in PAGES}
    found = list(check_claims(pages, claims()))
    for page, section in PAGES.items():
        found += check_blocks(page, pages[page], BLOCKS)
        own = [claim for claim in claims() if claim.page == page]
        found += [
            Problem(page, f"comes from nowhere: {where}") for where in uncovered(section(pages[page]), own)
        ]
    return [*found, *check_tables()]


def check_tables() -> Iterator[Problem]:
    """Tables that are not what their JSON makes."""
    for name, markdown in TABLES.items():
        path = RESULTS / f"{name}.md"
        made = with_notes(markdown(load(name)), path)
        if path.read_text() != made:
            page = str(path.relative_to(ROOT))
            yield Problem(page, f"is not what {name}.json makes", made)


def main() -> None:
    if sys.argv[1:] not in ([], ["--write"]):
        raise ValueError(f"expected nothing or --write, got {' '.join(sys.argv[1:])}")
    found = problems()
    while sys.argv[1:] and (mendable := [problem for problem in found if problem.mended is not None]):
        (ROOT / mendable[0].page).write_text(mendable[0].mended or "")
        print(f"mended: {mendable[0].page} {mendable[0].words}")
        found = problems()
    for problem in found:
        print(f"{problem.page}: {problem.words}")
    if found:
        raise ValueError(f"{len(found)} claims differ from their JSON")
