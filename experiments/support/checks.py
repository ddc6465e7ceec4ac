"""Checks of a config's numbers when it is made, from a table of its fields."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hmcvae._checks import MAX_COUNT, check_count, check_positive, check_real

Check = Callable[[str, Any], Any]


def check_whole(minimum: int, maximum: int = MAX_COUNT) -> Check:
    """A whole number from minimum to maximum."""

    def check(name: str, value: Any) -> int:
        number = check_count(name, value, minimum)
        if number > maximum:
            raise ValueError(f"{name} must be at most {maximum}, got {number}")
        return number

    return check


def check_path(name: str, value: Any) -> Path | None:
    """A path, or None."""
    if value is None or isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{name} must be a path, got {value!r}")
    return Path(value)


def check_text(name: str, value: Any) -> str | None:
    """Text, or None."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} must be text, got {value!r}")
    return value


def check_choices(name: str, values: Any, options: Iterable[str]) -> None:
    """Names, each of them one of the options.

    Raises:
        ValueError: for another one, or no sequence.
    """
    if not isinstance(values, (tuple, list)):
        raise ValueError(f"{name} must be a tuple of names, got {values!r}")
    known = tuple(options)
    for value in values:
        if value not in known:
            raise ValueError(f"{name} must be among {', '.join(known)}, got {value!r}")


def check_above_zero(name: str, value: Any) -> float:
    """A finite number above 0."""
    check_positive(name, value)
    return check_real(name, value)


def check_number(
    minimum: float = -np.inf, maximum: float = np.inf, *, is_open: bool = False, optional: bool = False
) -> Check:
    """A finite number in the range; or None, where it is optional."""

    def check(name: str, value: Any) -> float | None:
        if value is None and optional:
            return None
        return check_real(name, value, minimum, maximum, is_open=is_open)

    return check


def check_images(minimum: int = 2) -> Check:
    """A number of images to average over: 0 for all, or at least 2, for a standard error."""

    def check(name: str, value: Any) -> int:
        number = check_count(name, value, 0)
        if 0 < number < minimum:
            raise ValueError(
                f"{name} must be 0 (all) or at least {minimum}, for a standard error; got {number}"
            )
        return number

    return check


def check_fields(config: Any, checks: Mapping[str, Check]) -> None:
    """Check the fields of a frozen dataclass, each entry of those that are tuples, and keep the normalised
    values (NumPy's numbers become Python's, for JSON).

    Raises:
        ValueError: for the first that is not what it should be.
    """
    kinds = {own.name: str(own.type) for own in dataclasses.fields(config)}
    for name, check in checks.items():
        value = getattr(config, name)
        if kinds[name].startswith("tuple"):
            if not isinstance(value, (tuple, list)):
                raise ValueError(f"{name} must be a tuple, got {value!r}")
            found: Any = tuple(check(name, entry) for entry in value)
        else:
            found = check(name, value)
        object.__setattr__(config, name, found)
