import os
import random
import tracemalloc
from typing import get_args

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import PeerError
from edgellm.link import fields, messages
from edgellm.link.messages import (
    Accept,
    Ack,
    Ask,
    Call,
    Challenge,
    Chunk,
    Failed,
    Finished,
    Hello,
    New,
    Note,
    Ping,
    Pong,
    Result,
    StatusQuery,
    StatusReport,
    Stop,
    Taken,
    Tools,
    Welcome,
    pack,
    text_room,
    unpack,
)

MUTATIONS = 2_000_000 if os.environ.get("EDGELLM_SOAK") else 20_000

FAN = ["set_fan", "Set the fan", {"type": "object", "properties": {"percent": {}}}, 1]

# Each message with the bytes of its payload, by hand.
CASES = [
    (Hello(7, b"", "uno", 68, 0), 0x01, "97 01 07 c400 a3 756e6f 44 00 c400"),
    (
        Hello(2**32 - 1, b"12345678", "", 1028, 4096, b"m" * 16),
        0x01,
        "97 01 ceffffffff c408 3132333435363738 a0 cd0404 cd1000 c410" + "6d" * 16,
    ),
    (Challenge(7, b"c" * 16), 0x0F, "92 07 c410" + "63" * 16),
    (
        Welcome(7, b"12345678", "edgellm", 244, 32768, False),
        0x10,
        "97 01 07 c408 3132333435363738 a7 656467656c6c6d ccf4 cd8000 c2",
    ),
    (Ask(1, 0, "hi"), 0x02, "94 01 00 a2 6869 80"),
    (Ask(300, 5, None, {"max_tokens": 9}), 0x02, "94 cd012c 05 c0 81 aa 6d61785f746f6b656e73 09"),
    (Accept(1, 5), 0x17, "92 01 05"),
    (Chunk(128, "é"), 0x11, "92 cc80 a2 c3a9"),
    (Finished(1, 2, "stop", 3, 4, 5), 0x12, "96 01 02 a4 73746f70 03 04 05"),
    (Taken(1), 0x09, "91 01"),
    (Failed(0, "busy", "", 2000, 3), 0x13, "95 00 a4 62757379 a0 cd07d0 03"),
    (Stop(1), 0x05, "91 01"),
    (New(), 0x0A, "90"),
    (StatusQuery(), 0x06, "90"),
    (StatusReport({"a": None}), 0x16, "91 81 a1 61 c0"),
    (Ping(), 0x04, "90"),
    (Pong(), 0x14, "90"),
    (Ack(), 0x03, ""),
    (Note("x"), 0x1A, "91 a1 78"),
    (Tools([]), 0x07, "90"),
    (Tools([["f", "", {}, 0]]), 0x07, "91 94 a1 66 a0 80 00"),
    (Call(1, "f", {"x": -1}, 500), 0x18, "94 01 a1 66 81 a1 78 ff cd01f4"),
    (Result(1, "ok", 1.5), 0x08, "93 01 a2 6f6b cb3ff8000000000000"),
    (Result(1, "error", [True, {}]), 0x08, "93 01 a5 6572726f72 92 c3 80"),
]


@pytest.mark.parametrize(("message", "kind", "payload"), CASES, ids=lambda case: str(case)[:40])
def test_bytes_by_hand(message, kind, payload):
    assert pack(message) == (kind, bytes.fromhex(payload))
    assert unpack(kind, bytes.fromhex(payload)) == message


def test_every_type_has_a_case_and_its_own_number():
    kinds = get_args(messages.Message)
    assert {type(message) for message, _, _ in CASES} == set(kinds)
    assert len({kind.TYPE for kind in kinds}) == len(kinds)
    assert all(0 < kind.TYPE < 0x80 for kind in kinds)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ([1, 7, b"", "uno", 68, 0], Hello(7, b"", "uno", 68, 0)),
        ([1, 0, "hi"], Ask(1, 0, "hi")),
        ([0, "hello"], Failed(0, "hello")),
    ],
)
def test_what_has_a_default_may_be_left_out(payload, message):
    assert unpack(message.TYPE, msgpack.packb(payload)) == message


def test_no_payload_is_no_elements():
    assert unpack(Ping.TYPE, b"") == Ping()
    assert unpack(Tools.TYPE, b"") == Tools([])
    with pytest.raises(PeerError):
        unpack(Stop.TYPE, b"")


@pytest.mark.parametrize(("message", "kind", "payload"), CASES, ids=lambda case: str(case)[:40])
def test_cut_or_longer_payloads_are_refused(message, kind, payload):
    whole = bytes.fromhex(payload)
    for end in range(1, len(whole)):
        with pytest.raises(PeerError):
            unpack(kind, whole[:end])
    with pytest.raises(PeerError):
        unpack(kind, (whole or b"\x90") + b"\0")


@pytest.mark.parametrize(("message", "kind", "payload"), CASES, ids=lambda case: str(case)[:40])
def test_another_number_of_elements_is_refused(message, kind, payload):
    if kind == Tools.TYPE:
        return  # has as many as there are tools
    elements = msgpack.unpackb(bytes.fromhex(payload) or b"\x90")
    with pytest.raises(PeerError):
        unpack(kind, msgpack.packb([*elements, 1]))
    if elements:
        with pytest.raises(PeerError):
            unpack(kind, msgpack.packb([]))


@pytest.mark.parametrize(
    ("kind", "elements"),
    [
        (Hello.TYPE, [2, 7, b"", "uno", 68, 0, b""]),
        (Hello.TYPE, [1, 2**32, b"", "uno", 68, 0, b""]),
        (Hello.TYPE, [1, -1, b"", "uno", 68, 0, b""]),
        (Hello.TYPE, [1, 7.0, b"", "uno", 68, 0, b""]),
        (Hello.TYPE, [1, True, b"", "uno", 68, 0, b""]),
        (Hello.TYPE, [1, 7, b"1234567", "uno", 68, 0, b""]),
        (Hello.TYPE, [1, 7, "", "uno", 68, 0, b""]),
        (Hello.TYPE, [1, 7, b"", "u" * 65, 68, 0, b""]),
        (Hello.TYPE, [1, 7, b"", "é" * 33, 68, 0, b""]),
        (Hello.TYPE, [1, 7, b"", b"uno", 68, 0, b""]),
        (Hello.TYPE, [1, 7, b"", "uno", 35, 0, b""]),
        (Hello.TYPE, [1, 7, b"", "uno", 1029, 0, b""]),
        (Ask.TYPE, [0, 0, "hi"]),
        (Ask.TYPE, [1, 0, "x" * (fields.MAX_QUESTION + 1)]),
        (Ask.TYPE, [1, 0, "hi", []]),
        (Ask.TYPE, [1, 0, "hi", {1: 2}]),
        (Ask.TYPE, [1, 0, "hi", {"a": b"bytes"}]),
        (Ask.TYPE, [1, 0, "hi", {"a": float("nan")}]),
        (Ask.TYPE, [1, 0, "hi", {"a": float("inf")}]),
        (Ask.TYPE, [1, 0, "hi", {"a": msgpack.Timestamp(1)}]),
        (Ask.TYPE, [1, 0, "hi", {"a": msgpack.ExtType(5, b"")}]),
        (Chunk.TYPE, [0, None]),
        (Finished.TYPE, [1, 2, "boredom", 3, 4, 5]),
        (Tools.TYPE, [[]] * (fields.MAX_TOOLS + 1)),
        (Tools.TYPE, [[b""]]),
        (Call.TYPE, [1, "f", None, 5]),
        (Result.TYPE, [1, "OK", 1]),
        (Result.TYPE, [1, "ok", "x" * fields.MAX_RESULT]),
        (Result.TYPE, [1, "ok", b""]),
        (0x7F, []),
        (0x00, []),
        (Ping.TYPE, {}),
        (Ping.TYPE, None),
    ],
)
def test_refused(kind, elements):
    with pytest.raises(PeerError):
        unpack(kind, msgpack.packb(elements))


def test_an_error_doesnt_tell_what_it_was_about():
    """Errors are logged; the words of a session aren't."""
    with pytest.raises(PeerError) as error:
        unpack(Ask.TYPE, msgpack.packb([1, "secret words", "secret words"]))
    assert str(error.value) == "Ask: got must be a whole number from 0 to 4294967295"
    with pytest.raises(PeerError) as error:
        unpack(Ask.TYPE, b"\xa5words")
    assert "words" not in str(error.value)


def test_unsound_text_is_refused():
    with pytest.raises(PeerError):
        unpack(Note.TYPE, b"\x91\xa2\xc3\x28")
    with pytest.raises(PeerError):
        unpack(Note.TYPE, b"\x91\xa3\xed\xa0\x80")  # half of a surrogate pair


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("number", [-(2**63), 2**64 - 1])
def test_whole_numbers_have_64_bits(number):
    assert unpack(*pack(Result(1, "ok", [number]))) == Result(1, "ok", [number])
    with pytest.raises(ValueError, match="64 bits"):
        pack(Result(1, "ok", [number + (1 if number > 0 else -1)]))


def test_nesting():
    packed = pack(Result(1, "ok", nested(fields.MAX_DEPTH)))
    assert unpack(*packed) == Result(1, "ok", nested(fields.MAX_DEPTH))
    with pytest.raises(PeerError):
        unpack(Result.TYPE, msgpack.packb([1, "ok", nested(fields.MAX_DEPTH + 1)]))


def test_number_of_elements():
    few = [[1] * 1000] * 4
    assert unpack(*pack(StatusReport({"a": few}))) == StatusReport({"a": few})
    for many in ([[1] * 1000] * 5, [1] * (fields.MAX_ITEMS + 1)):
        with pytest.raises(PeerError):
            unpack(StatusReport.TYPE, msgpack.packb([{"a": many}]))


@pytest.mark.parametrize(
    "payload",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x00",
        b"\xdc\x03\xff" * 10000,
        b"\x91" * 32768,
        b"\x81\xa1a" * 10000,
        b"\x91" * 500 + b"\xdc\x04\x00" + b"\x90" * 1024,
    ],
    ids=lambda payload: payload[:4].hex(),
)
def test_declared_sizes_cost_nothing(payload):
    tracemalloc.start()
    for kind in (Ask.TYPE, Tools.TYPE):
        with pytest.raises(PeerError):
            unpack(kind, payload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize(
    "message",
    [
        Ask(0, 0, "hi"),
        Chunk(-1, "x"),
        Note("\ud800"),
        Tools([1] * 65),
        Call(1, "f", {"x": float("nan")}, 1),
        Result(1, "ok", object()),
        Finished(1, 1, "boredom", 1, 1, 1),
    ],
    ids=lambda message: type(message).__name__,
)
def test_our_own_mistakes_are_another_error(message):
    with pytest.raises(ValueError, match=r".") as error:
        pack(message)
    assert not isinstance(error.value, PeerError)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)
maps = st.dictionaries(st.text(max_size=8), values, max_size=4)
u32 = st.integers(0, 2**32 - 1)
ids = st.integers(1, 2**32 - 1)
words = st.text(max_size=200)
names = st.text(max_size=16)
mtus = st.integers(fields.MIN_MTU, fields.MAX_MTU)
sixteen = st.binary(min_size=16, max_size=16)
token = st.binary(min_size=8, max_size=8)
everything = st.one_of(
    st.builds(Hello, u32, st.just(b"") | token, names, mtus, u32, st.just(b"") | sixteen),
    st.builds(Challenge, u32, sixteen),
    st.builds(Welcome, u32, token, names, mtus, u32, st.booleans()),
    st.builds(Ask, ids, u32, st.none() | words, maps),
    st.builds(Accept, ids, u32),
    st.builds(Chunk, u32, words),
    st.builds(
        Finished, ids, u32, st.sampled_from(["stop", "length", "cancel", "deadline"]), u32, u32, u32
    ),
    st.builds(Taken, ids),
    st.builds(Failed, u32, names, words, u32, u32),
    st.builds(Stop, ids),
    st.builds(New),
    st.builds(StatusQuery),
    st.builds(StatusReport, maps),
    st.builds(Ping),
    st.builds(Pong),
    st.builds(Ack),
    st.builds(Note, words),
    st.builds(Tools, st.lists(values, max_size=8)),
    st.builds(Call, ids, names, maps, u32),
    st.builds(Result, ids, st.sampled_from(["ok", "error"]), values),
)


@given(everything)
def test_round_trip(message):
    assert unpack(*pack(message)) == message


@given(st.integers(0, 255), st.binary(max_size=100))
def test_anything_else_is_a_peers_error(kind, payload):
    try:
        message = unpack(kind, payload)
    except PeerError:
        return
    assert unpack(*pack(message)) == message  # sound, if it isn't refused


@given(st.integers(0, 127), values | st.lists(values))
def test_any_value_is_a_message_or_a_peers_error(kind, value):
    try:
        message = unpack(kind, msgpack.packb(value))
    except PeerError:
        return
    assert unpack(*pack(message)) == message


@given(u32, st.integers(fields.MIN_MTU - 4, fields.MAX_MTU - 4))
def test_text_room_is_exact(offset, payload):
    room = text_room(offset, payload)
    assert len(pack(Chunk(offset, "x" * room))[1]) <= payload
    assert len(pack(Chunk(offset, "x" * (room + 1)))[1]) > payload


def test_mutations():
    rng = random.Random(2)
    sound = [pack(message) for message, _, _ in CASES]
    sound.append(pack(Tools([FAN] * 3)))
    boundaries = [
        b"\xc0", b"\xc1", b"\xc4\xff", b"\xc7\0\0", b"\xca\x7f\xc0\0\0", b"\xcf" + b"\xff" * 8,
        b"\xd3\x80" + b"\0" * 7, b"\xd9\xff", b"\xdb\xff\xff\xff\xff", b"\xdc\xff\xff",
        b"\xdd\x7f\xff\xff\xff", b"\xdf\0\0\xff\xff", b"\xd6\xff\0\0\0\0",
    ]  # fmt: skip
    taken = refused = 0
    tracemalloc.start()
    for _ in range(MUTATIONS):
        kind, payload = rng.choice(sound)
        mutated = bytearray(payload or b"\x90")
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(mutated) + 1)
            match rng.randrange(5):
                case 0 if at < len(mutated):
                    mutated[at] ^= 1 << rng.randrange(8)
                case 1:
                    mutated[at : at + rng.randrange(3)] = rng.choice(boundaries)
                case 2:
                    del mutated[at : at + rng.randrange(1, 5)]
                case 3:
                    mutated[at:at] = rng.randbytes(rng.randrange(1, 5))
                case 4:
                    mutated[at:at] = mutated[: rng.randrange(len(mutated) + 1)] * 3
        if rng.random() < 0.1:
            kind = rng.randrange(256)
        try:
            message = unpack(kind, bytes(mutated))
        except PeerError:
            refused += 1
        else:
            taken += 1
            pack(message)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken > MUTATIONS / 50
    assert refused > MUTATIONS / 2
    assert held < 1 << 20
    assert peak < 16 << 20
