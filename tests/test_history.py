"""Histories: records packed and unpacked, and what they add up to."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.errors import FormatError
from edgellm.history.records import (
    Answered,
    Asked,
    Called,
    Created,
    Declared,
    Failed,
    Forgotten,
    History,
    Record,
    pack,
    unpack,
)

FILE = Path("file")


def asked(number: int, past: int = 100, text: str = "why?", call: int = 1) -> Asked:
    return Asked(number, text, 5, None, {"type": "null"}, "7", "model", past, call, float(number))


def answered(number: int, text: str = "so.") -> Answered:
    return Answered(number, text, None, "stop", 3, 9, 1, 0.5, 2.0)


def added(*records: Record) -> History:
    found = History()
    for record in records:
        found.add(record)
    return found


def restored(payloads: list[bytes]) -> History:
    return added(*(record for one in payloads for record in unpack(one, FILE)))


RECORDS: list[Record] = [
    Created("name"),
    Declared(({"name": "fan", "parameters": {"type": "object"}},)),
    asked(1),
    Called(1, "", "fan", {"speed": 2.5, "on": [True, None]}, True, {"rpm": 900}),
    Called(2, "", "fan", {}, False, "no such fan"),
    answered(1),
    asked(2, 1),
    Failed(2),
    Forgotten(),
    Created("name", 5, 12, 3.5),
    Asked(2**53, "\ud800", None, 2.5, None, str(2**64 - 1), "", 0, 1, 0.0),
    Answered(3, "abc", "c", "length", 0, 0, 0, 0.0, 0.0),
]


def test_records_survive_being_packed() -> None:
    assert unpack(pack(RECORDS), FILE) == RECORDS
    assert unpack(pack([]), FILE) == []


def test_what_msgpack_cannot_hold_is_still_packed() -> None:
    (record,) = unpack(pack([Called(1, "", "f", {"n": 10**30}, True, 0)]), FILE)
    assert record == Called(1, "", "f", {"n": "1" + "0" * 30}, True, 0)


def test_a_devices_map_may_have_any_keys() -> None:
    value = {1: {2.5: None}, b"x": [True], None: 1, False: {"": 0}}
    called = Called(1, "", "f", {}, True, value)
    assert unpack(pack([called]), FILE) == [called]
    with pytest.raises(FormatError, match="msgpack"):
        unpack(pack([Called(1, "", "f", {}, True, {(1, 2): 3})]), FILE)


@pytest.mark.parametrize(
    "rows",
    [
        5,
        [5],
        [{}],
        [{"invented": {}}],
        [{"failed": {"number": 1}, "forgotten": {}}],
        [{"failed": {}}],
        [{"failed": {"number": "1"}}],
        [{"failed": {"number": True}}],
        [{"failed": {"number": 2**53 + 1}}],
        [{"failed": {"number": 1, "more": 1}}],
        [{"failed": [1]}],
        [{"declared": {"tools": {}}}],
        [{"asked": {**asked(1).__dict__, "seed": "x"}}],
        [{"asked": {**asked(1).__dict__, "seed": "1" * 5000}}],
        [{"asked": {**asked(1).__dict__, "time": float("nan")}}],
    ],
)
def test_what_is_no_record_is_refused(rows: object) -> None:
    with pytest.raises(FormatError, match=r"^file: "):
        unpack(msgpack.packb(rows), FILE)


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_hostile_payloads_give_one_kind_of_error(payload: bytes) -> None:
    with contextlib.suppress(FormatError):
        unpack(payload, FILE)


def test_deep_and_broken_payloads_are_refused() -> None:
    for payload in (b"", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xc1", b"\x90\x90"):
        with pytest.raises(FormatError, match=r"^file: record"):
            unpack(payload, FILE)


def test_turns_add_up() -> None:
    found = added(*RECORDS[:6])
    assert (found.name, found.number, found.call, found.time) == ("name", 1, 1, 1.0)
    (turn,) = found.turns
    assert [call.number for call in turn.calls] == [1, 2]
    assert turn.answered == answered(1)
    assert turn.tools == found.tools
    assert found.open is None
    found.add(asked(2, 1, call=65))
    assert found.open is found.turns[1]
    found.add(Failed(2))
    assert (len(found.turns), found.number, found.call) == (1, 2, 65)
    found.add(Forgotten())
    assert (found.turns, found.number, found.tools) == ([], 2, turn.tools)


def test_an_interrupted_question_gives_way_to_the_next() -> None:
    found = added(asked(1), answered(1), asked(2), asked(3))
    assert [turn.asked.number for turn in found.turns] == [1, 3]


def test_an_answer_may_be_replaced_until_the_next_question() -> None:
    found = added(asked(1), answered(1), answered(1, "again"), asked(2), answered(1, "late"))
    assert found.turns[0].answered == answered(1, "again")
    assert found.open is found.turns[1]


def test_turns_that_the_prompt_lacked_are_gone() -> None:
    found = added(asked(1), answered(1), asked(2), answered(2), asked(3, past=1))
    assert [turn.asked.number for turn in found.turns] == [2, 3]
    assert added(asked(1), answered(1), asked(2, past=0)).turns[0].asked.number == 2


def test_records_that_make_no_sense_change_nothing() -> None:
    found = added(answered(1), Called(1, "", "f", {}, True, 0), Failed(1))
    assert found == History()
    found = added(asked(2), answered(1), Failed(1))
    assert found.open is not None


@pytest.mark.parametrize("count", range(len(RECORDS[:10])))
def test_a_history_written_whole_is_the_same(count: int) -> None:
    found = added(*RECORDS[:count])
    again = restored(found.payloads(1 << 20))
    assert again == found


def test_the_tools_of_a_question_stay_those_it_was_asked_with() -> None:
    found = added(Declared(["old"]), asked(1), Declared(["new"]))
    again = restored(found.payloads(1 << 20))
    assert again.open is not None
    assert (list(again.open.tools), list(again.tools)) == (["old"], ["new"])


def test_the_oldest_turns_go_where_room_is_short() -> None:
    found = added(*(each for n in range(1, 11) for each in (asked(n, text="x" * 900), answered(n))))
    payloads = found.payloads(3500)
    assert sum(map(len, payloads)) < 3700
    assert [turn.asked.number for turn in found.turns] == [8, 9, 10]
    assert restored(payloads) == found
    found.payloads(10)
    assert [turn.asked.number for turn in found.turns] == [10]
