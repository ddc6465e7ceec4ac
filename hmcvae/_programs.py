"""Compiled programs that live exactly as long as the objects they were made for.

`jax.jit` with a model as a static argument has two faults: it wants the model hashable, which a model of plain
callables need not be, and its cache keeps the model, with all that its functions close over, to the end of the process.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax


class Programs:
    """`function(*objects, *arguments, **static)`, compiled once for each tuple of objects and each set of shapes.

    Objects count by identity: two that are equal are still two. What is kept knows the objects by weak references
    alone, so that when one of them goes, its programs go with it, and with these whatever constants the objects' own
    functions brought in.

    Args:
        function: pure; its objects are for its body to call, not values of the program.
        static_names: keyword arguments that are part of the program.
    """

    def __init__(self, function: Callable, static_names: Sequence[str] = ()):
        self._function = function
        self._static_names = tuple(static_names)
        self._table: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def of(self, *objects: Any) -> Any:
        """The jitted `(*arguments, **static) -> result` for these objects: weakly referenced, and hashed by identity
        (a class with `__eq__` of its own would mix two of them up)."""
        table = self._table
        for owner in objects[:-1]:
            table = table.setdefault(owner, weakref.WeakKeyDictionary())
        last = objects[-1]
        if last not in table:
            table[last] = self._compile([weakref.ref(owner) for owner in objects])
        return table[last]

    def _compile(self, references: list[weakref.ref]) -> Any:
        function = self._function

        # Traced while the caller holds the objects, so that each reference is alive.
        def program(*arguments: Any, **static: Any) -> Any:
            return function(*(reference() for reference in references), *arguments, **static)

        return jax.jit(program, static_argnames=self._static_names)
