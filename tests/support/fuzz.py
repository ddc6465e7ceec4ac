"""Bad inputs drawn by Hypothesis: the same ones in every run, and what may come of them."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

# How many cases each fuzz test draws, by its name.
CASES: dict[str, int] = {}


def fuzz(num_cases: int) -> Callable[[Any], Any]:
    """Settings of a fuzz test that draws so many cases."""

    def decorate(test: Any) -> Any:
        CASES[test.__name__] = num_cases
        return settings(
            max_examples=num_cases,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )(test)

    return decorate


def refused_clearly(error: BaseException) -> bool:
    """Whether an error is one that a user can mend: a ValueError with words, or a type that the tests' checker, which
    stands before the library's own checks, refuses."""
    is_of_types = type(error).__name__ in ("TypeCheckError", "BeartypeCallHintParamViolation")
    return is_of_types or (isinstance(error, (ValueError, OSError)) and len(str(error)) > 10)


def refusal(function: Callable[[], Any], *kinds: type[Exception]) -> str | None:
    """What a function says as it refuses, by an error of these kinds; None where it does not."""
    try:
        function()
    except kinds as error:
        return str(error)
    return None


# What JSON can hold, and Python's own.
NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**30]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.booleans(),
)
JUNK = st.one_of(
    st.none(),
    NUMBERS,
    st.text(max_size=6),
    st.lists(NUMBERS, max_size=3),
    st.lists(st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=4), NUMBERS, max_size=2),
    st.lists(st.lists(NUMBERS, max_size=2), max_size=2),
)
_SHAPES = st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
_DTYPES = st.one_of(
    st_numpy.boolean_dtypes(),
    st_numpy.integer_dtypes(),
    st_numpy.unsigned_integer_dtypes(),
    st_numpy.floating_dtypes(sizes=(16, 32, 64)),
    st_numpy.complex_number_dtypes(sizes=(64, 128)),
    st_numpy.unicode_string_dtypes(max_len=3),
    st_numpy.byte_string_dtypes(max_len=3),
    st_numpy.datetime64_dtypes(),
    st.just(np.dtype(object)),
    st.just(np.dtype([("a", "i4"), ("b", "f4")])),
)


@st.composite
def arrays(draw: Any) -> Any:
    """Arrays of all kinds, and what is none."""
    kind = draw(
        st.sampled_from(["numpy"] * 8 + ["near", "near", "jax", "masked", "ragged", "matrix", "junk"])
    )
    if kind == "junk":
        return draw(JUNK)
    if kind == "ragged":
        return draw(st.lists(st.lists(st.floats(), max_size=3), min_size=1, max_size=3))
    if kind == "near":  # nearly what is wanted: images in [0, 1] with one wrong entry
        values = np.zeros(draw(st.sampled_from([(2, 2, 2, 1), (3, 2, 2, 1), (2, 2), (4,)])))
        values.flat[draw(st.integers(0, values.size - 1))] = draw(st.floats())
        with np.errstate(over="ignore"):
            return values.astype(draw(st.sampled_from([np.float16, np.float32, np.float64])))
    dtype = draw(_DTYPES)
    if dtype.hasobject:
        shape = draw(_SHAPES)
        return np.array([draw(JUNK) for _ in range(math.prod(shape))] + [None], object)[:-1].reshape(shape)
    values = draw(st_numpy.arrays(dtype, draw(_SHAPES)))
    if kind == "masked":
        return np.ma.MaskedArray(values, mask=np.ones(values.shape, bool))
    if kind == "jax" and values.dtype.kind in "biufc":
        return jnp.asarray(values.astype(values.dtype.newbyteorder("=")))
    return values


@st.composite
def damages(draw: Any) -> Callable[[bytes], bytes]:
    """What happens to a file: bytes that are flipped, left out, put in, or cut off."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "flip", "flip", "cut", "insert", "remove", "zero"]),
                st.floats(0, 1, exclude_max=True),
                st.binary(min_size=1, max_size=4),
                st.booleans(),
            ),
            min_size=1,
            max_size=3,
        )
    )

    def damage(raw: bytes) -> bytes:
        for kind, place, own, is_early in steps:
            index = int(place * (min(len(raw), 64) if is_early else len(raw)))
            if kind == "flip":
                raw = (
                    raw[:index]
                    + bytes(a ^ b for a, b in zip(raw[index:], own, strict=False))
                    + raw[index + len(own) :]
                )
            elif kind == "cut":
                raw = raw[:index]
            elif kind == "insert":
                raw = raw[:index] + own + raw[index:]
            elif kind == "remove":
                raw = raw[:index] + raw[index + len(own) :]
            else:
                raw = raw[:index] + bytes(len(own)) + raw[index + len(own) :]
        return raw

    return damage


@st.composite
def changed_json(draw: Any, values: Any) -> Any:
    """JSON values with one to three of their parts changed, left out, or of a name that is not known."""
    import copy

    values = copy.deepcopy(values)
    for _ in range(draw(st.integers(1, 3))):
        place = values
        while True:
            inner = [key for key, own in place.items() if isinstance(own, dict) and own]
            if not inner or draw(st.booleans()):
                break
            place = place[draw(st.sampled_from(sorted(inner)))]
        name = draw(st.sampled_from(sorted(place))) if place else "a"
        kind = draw(st.sampled_from(["change"] * 5 + ["remove", "add"]))
        if kind == "change":
            place[name] = draw(JUNK)
        elif kind == "remove":
            place.pop(name, None)
        else:
            place[draw(st.text(max_size=5))] = draw(JUNK)
    return values
