"""Damage for the fuzzer.

To bytes (flips, cuts, swaps, insertions) and to JSON values (types, keys, sizes, depth).
"""

import copy
import json
from typing import Any, NamedTuple

from hypothesis import strategies as st

DEEP = 3_000  # more than Python's recursion limit


class Damaged(NamedTuple):
    """A damaged text or value, and what was done to it."""

    what: str
    value: Any
    first: int = 0  # the first byte that differs, for damaged bytes


@st.composite
def damaged_bytes(draw, data: bytes) -> Damaged:
    """One to three changes to bytes.

    Bits flipped, ranges cut, swapped, repeated, overwritten, random bytes put in.
    """
    result, steps = bytearray(data), []
    for _ in range(draw(st.integers(1, 3))):
        at, end = sorted((draw(st.integers(0, len(result))), draw(st.integers(0, len(result)))))
        end = min(end, at + draw(st.sampled_from([1, 2, 4, 8, 64, len(data)])))
        kind = draw(st.sampled_from(["flip", "cut", "end", "repeat", "swap", "fill", "insert"]))
        if kind == "flip" and at < len(result):
            result[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del result[at:end]
        elif kind == "end":
            del result[at:]
        elif kind == "repeat":
            result[end:end] = result[at:end]
        elif kind == "swap":
            result[at:end] = result[at:end][::-1]
        elif kind == "fill":
            result[at:end] = bytes([draw(st.sampled_from([0, 0x20, 0x7F, 0x80, 0xFF]))]) * (
                end - at
            )
        else:
            result[at:at] = draw(st.binary(min_size=1, max_size=9))
        steps.append(f"{kind} {at}:{end}")
    value = bytes(result)
    first = next(
        (i for i, (old, new) in enumerate(zip(data, value)) if old != new),
        min(len(data), len(value)),
    )
    return Damaged(", ".join(steps), value, first)


def odd_values() -> st.SearchStrategy:
    """JSON values that a reader does not expect.

    Other types, edges of numbers, long and nested ones.
    """
    return st.one_of(
        st.sampled_from(
            [
                None,
                True,
                False,
                0,
                1,
                -1,
                2,
                0.5,
                -0.0,
                1e308,
                2**31,
                3_000_000_000,
                2**63,
                2**64,
                10**30,
                float("nan"),
                float("inf"),
                "",
                "1",
                "16",
                "x" * 1_000,
                "../../etc/passwd",
                "/etc/passwd",
                "a\0b",
                "\ud800",
                "\x1b[2J",
                [],
                {},
                [1],
                ["a"],
                [[]],
                {"a": 1},
                [None] * 50,
            ]
        ),
        st.integers(-5, 300),
        st.text(max_size=8),
        st.floats(allow_nan=False, width=32),
        st.builds(nested, st.sampled_from([2, 30, DEEP]), st.booleans()),
    )


def nested(depth: int, in_lists: bool) -> Any:
    """Lists or objects in one another."""
    value: Any = 0
    for _ in range(depth):
        value = [value] if in_lists else {"a": value}
    return value


@st.composite
def damaged_values(
    draw, value: Any, odd: st.SearchStrategy | None = None, most: int = 3
) -> Damaged:
    """One to `most` changes to a JSON value.

    A node replaced, removed, renamed, doubled, or exchanged with another.
    """
    value, steps = copy.deepcopy(value), []
    odd = odd_values() if odd is None else odd
    for _ in range(draw(st.integers(1, most))):
        places = [place for place in _places(value) if place]
        if not places or draw(st.integers(0, 60)) == 0:
            return Damaged("whole value", _copied(draw(odd)))
        place = draw(st.sampled_from(places))
        parent, key = _parent(value, place), place[-1]
        kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "exchange"]))
        if kind == "replace":
            parent[key] = _copied(draw(odd))
        elif kind == "remove":
            del parent[key]
        elif kind == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from([f"{key}_", "", "type", "__metadata__"]))] = _copied(
                draw(odd)
            )
        elif kind == "exchange":
            other = draw(st.sampled_from(places))
            parent[key] = _copied(_parent(value, other)[other[-1]])
        steps.append(f"{kind} {'/'.join(map(str, place))}")
    return Damaged(", ".join(steps), value)


def _copied(value: Any) -> Any:
    """A copy, so that a later change does not reach the strategy's own values.

    What is too deep for that is cut.
    """
    try:
        return copy.deepcopy(value)
    except RecursionError:
        return nested(DEEP, isinstance(value, list))


def as_json(value: Any) -> str:
    """The JSON text of a value, at whatever depth."""
    try:
        return json.dumps(value)
    except RecursionError:
        return _flat(value)


def _flat(value: Any) -> str:
    """Text of a value that is too deep for `json.dumps`.

    Of its deep part only the outermost chain is kept.
    """
    opened, closed = [], []
    while isinstance(value, (list, dict)) and value:
        if isinstance(value, list):
            opened.append("[")
            closed.append("]")
            value = value[-1]
        else:
            key, value = list(value.items())[-1]
            opened.append("{" + json.dumps(key) + ":")
            closed.append("}")
    return "".join(opened) + "0" + "".join(reversed(closed))


def _places(value: Any, most: int = 400) -> list[tuple]:
    """Paths to the nodes of a value."""
    places, waiting = [], [((), value)]
    while waiting and len(places) < most:
        place, node = waiting.pop(0)
        places.append(place)
        items = (
            node.items()
            if isinstance(node, dict)
            else enumerate(node)
            if isinstance(node, list)
            else ()
        )
        if len(place) < 8:
            waiting += [((*place, key), child) for key, child in items]
    return places


def _parent(value: Any, place: tuple) -> Any:
    for key in place[:-1]:
        value = value[key]
    return value
