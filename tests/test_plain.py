"""Dataclasses as plain data, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm import plain
from edgellm.errors import FormatError


@dataclass(frozen=True)
class Part:
    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class Whole:
    count: int
    kind: Literal["big", "small"]
    parts: tuple[Part, ...]
    spare: Part | None = None
    marks: frozenset[int] = frozenset()
    table: Mapping[str, float] = field(default_factory=dict)
    done: bool | None = None


FINITE = st.floats(allow_nan=False, allow_infinity=False)
PARTS = st.builds(Part, st.text(), FINITE)
WHOLES = st.builds(
    Whole,
    st.integers(-plain.LARGEST, plain.LARGEST),
    st.sampled_from(["big", "small"]),
    st.lists(PARTS).map(tuple),
    st.none() | PARTS,
    st.frozensets(st.integers(0, 99)),
    st.dictionaries(st.text(), FINITE),
    st.none() | st.booleans(),
)


@given(WHOLES)
def test_what_was_made_plain_is_read_again(whole: Whole) -> None:
    packed = msgpack.packb(plain.plain(whole), unicode_errors="surrogatepass")
    content = msgpack.unpackb(packed, unicode_errors="surrogatepass")
    assert plain.read(Whole, content, "file", "") == whole


SOUND = {"count": 1, "kind": "big", "parts": [{"name": "x"}]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": 1.5}, "top.count is 1.5; a value of type int"),
        ({"count": True}, "top.count is True"),
        ({"count": 1 << 60}, "top.count is 1152921504606846976; at most"),
        ({"count": None}, "top.count is None"),
        ({"kind": "middling"}, "top.kind is 'middling'; one of 'big', 'small'"),
        ({"kind": ["big"]}, "top.kind"),
        ({"parts": {}}, "top.parts is {}; a list"),
        ({"parts": [{"name": "x"}, 3]}, r"top.parts\[1\] is 3; a map"),
        ({"parts": [{"name": b"x"}]}, r"top.parts\[0\].name is b'x'"),
        ({"parts": [{}]}, r"top.parts\[0\].name is 'missing'"),
        ({"parts": [{"name": "x", "weight": float("inf")}]}, "weight is inf; it must be finite"),
        ({"parts": [{"name": "x", "weight": 1 << 60}]}, "weight"),
        ({"table": {1: 1.0}}, "top.table"),
        ({"table": {"a": "b"}}, r"top.table.a is 'b'"),
        ({"marks": [1, "x"]}, r"top.marks\[1\]"),
        ({"other": 1}, "top is 'other'; there is no such field"),
    ],
)
def test_anything_else_is_refused_by_name(change: dict[str, object], said: str) -> None:
    with pytest.raises(FormatError, match=said):
        plain.read(Whole, {**SOUND, **change}, "file", "top")


@pytest.mark.parametrize("data", [None, [], "x", {1: 2}, {}])
def test_what_is_no_map_of_fields_is_refused(data: object) -> None:
    with pytest.raises(FormatError):
        plain.read(Whole, data, "file", "top")


def test_an_object_may_be_anything() -> None:
    @dataclass(frozen=True)
    class Loose:
        value: object
        values: Mapping[str, object]

    for value in (None, 1, "x", b"x", [1, {"a": None}], {1: 2}):
        found = plain.read(Loose, {"value": value, "values": {"v": value}}, "file", "top")
        assert found == Loose(value, {"v": value})
    with pytest.raises(FormatError, match=r"top\.values"):
        plain.read(Loose, {"value": 1, "values": {1: 1}}, "file", "top")
