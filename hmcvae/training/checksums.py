"""Whether the files of a checkpoint are as they were written."""

import json
import zlib
from pathlib import Path

CHECKSUMS = "checksums.json"


def _checksums(place: Path) -> dict[str, str]:
    """CRC-32 of every file that Orbax wrote for the tree and its digest."""
    paths = sorted(
        path for item in ("state", "digest") for path in (place / item).rglob("*") if path.is_file()
    )
    return {path.relative_to(place).as_posix(): f"{zlib.crc32(path.read_bytes()):08x}" for path in paths}


def write_checksums(place: Path) -> None:
    """Beside a checkpoint that is whole."""
    temporary = place / (CHECKSUMS + ".tmp")
    temporary.write_text(json.dumps(_checksums(place), indent=2) + "\n")
    temporary.replace(place / CHECKSUMS)


def damaged_files(place: Path) -> list[str]:
    """Files that are not as they were written; none for a checkpoint whose save was killed before its checksums.

    Found before Orbax reads them: it leaves other reads behind a failed one, whose tracebacks come later.
    """
    if not (place / CHECKSUMS).is_file():
        return []
    try:
        expected = dict(json.loads((place / CHECKSUMS).read_text()))
    except (ValueError, TypeError):
        return [f"{CHECKSUMS} cannot be read"]
    found = _checksums(place)
    changed = [name for name in expected if name in found and found[name] != expected[name]]
    return [f"{name} is missing" for name in expected if name not in found] + [
        f"{name} is damaged" for name in changed
    ]
