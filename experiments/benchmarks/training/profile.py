"""What the time of an epoch goes to, from JAX's profiler.

Each of XLA's operations is one event with a name, and in the compiled program's text that name comes with its place in
the code.
"""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

PRODUCTS, RANDOM, REST, OTHER = (
    "matrix products",
    "random numbers",
    "the rest of the gradient",
    "optimizer and loop",
)


def shares(compiled: Any, epoch: Callable[[], Any]) -> dict[str, float]:
    """The share of each kind of work, the largest first; empty where there is no such profile."""
    kinds, total = kinds_of_operations(compiled.as_text()), {}
    for name, nanoseconds in profiled(epoch):
        kind = kinds.get(name)
        if kind is not None:
            total[kind] = total.get(kind, 0.0) + nanoseconds
    whole = sum(total.values())
    return {kind: value / whole for kind, value in sorted(total.items(), key=lambda entry: -entry[1])}


def kinds_of_operations(text: str) -> dict[str, str | None]:
    """The kind of each operation in a compiled program's text; None for those that hold others."""
    bodies, lines, body = {}, {}, ""
    for line in text.splitlines():
        opened = re.match(r"(?:ENTRY )?%(\S+) \(.*\{$", line)
        if opened:
            body = opened[1]
        bodies[body] = bodies.get(body, "") + line
        named = re.match(r"\s+(?:ROOT )?%(\S+) = ", line)
        if named:
            lines[named[1]] = line
    return {name: kind_of(line, bodies) for name, line in lines.items()}


def kind_of(line: str, bodies: dict[str, str]) -> str | None:
    """Of one operation: its line, and the text of what it calls."""
    if re.search(r" (while|call|conditional)\(", line):
        return None
    called = re.search(r"calls=%([^ ,]+)", line)
    if re.search(r" dot\(", line + bodies.get(called[1] if called else "", "")):
        return PRODUCTS
    found = re.search(r'op_name="([^"]*)"', line)
    place = found[1] if found else ""
    if re.search(r"random|threefry|normal|shuffle|erf_inv", place):
        return RANDOM
    return REST if "jvp(" in place else OTHER


def profiled(epoch: Callable[[], Any]) -> list[tuple[str, float]]:
    """(name, nanoseconds) of each event of an epoch."""
    reader = getattr(jax.profiler, "ProfileData", None)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            epoch()
        paths = list(Path(folder).rglob("*.xplane.pb"))
        if reader is None or not paths:
            return []
        planes = reader.from_file(str(paths[0])).planes
        events = [event for plane in planes for line in plane.lines for event in line.events]
        return [(event.name, event.duration_ns) for event in events]
