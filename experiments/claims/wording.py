"""Figures as the pages tell them."""

from experiments.claims.check import load


def fixed(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}"


def percent(share: float) -> str:
    return f"{100 * share:.0f}"


def ratio(value: float) -> str:
    """Two digits, as ratios of speed are told."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def told(*values: float | str, digits: int = 2) -> tuple[str, ...]:
    """Numbers as so many digits; text as it is."""
    return tuple(value if isinstance(value, str) else fixed(value, digits) for value in values)


def ranges(text: str, *pairs: tuple[str, str]) -> tuple[str, tuple[str, ...]]:
    """The text with each @ a range, or one figure where both ends are the same, and its figures."""
    found: list[str] = []
    for low, high in pairs:
        text = text.replace("@", "{}" if low == high else "{} to {}", 1)
        found += [low] if low == high else [low, high]
    return text, tuple(found)


def by_method(name: str, **also: object) -> dict[str, dict]:
    """The rows of a published JSON; of them those with these values in these fields."""
    return {
        r["method"]: r for r in load(name)["rows"] if all(r[field] == value for field, value in also.items())
    }
