"""What a host may say that is broken, or wants to break the device."""

from __future__ import annotations

import random
import zlib

import msgpack

from edgellm.link import frames
from edgellm.link.messages import (
    Accept,
    Ask,
    Call,
    Challenge,
    Chunk,
    Failed,
    Finished,
    Hello,
    Message,
    Note,
    StatusReport,
    Stop,
    Welcome,
    pack,
)
from edgellm.link.send_queue import MORE

VALUES = (0, 1, 2, -1, 2**63, 1.5, None, True, "", "hello", "auth", b"", bytes(8), [], [0], {})


def frame(some: random.Random, seq: int, number: int) -> bytes:
    """A frame with anything in it; most are sound, and hold messages that may be sound, too.
    `number` is that of the question under way."""
    kind, payload = pack(some_message(some, some.choice((number, number, 2, 2**32 - 1))))
    if some.random() < 0.1:
        payload = msgpack.packb([some.choice(VALUES) for _ in range(some.randrange(8))])
    if some.random() < 0.3:
        payload = mutated(some, payload)
    if some.random() < 0.1:
        kind |= MORE
    framed = frames.encode(bytes((kind, seq, some.choice((0, 1, seq)), 8)) + payload)
    return some.choice((framed, framed, mutated(some, framed)))


def some_message(some: random.Random, number: int) -> Message:
    """Anything that a host may say, or not."""
    text = some.choice(("", "x", "ä" * 30, "hello\0"))
    offset = some.choice((0, 1, 5, 2**32 - 1))
    return some.choice(
        (
            Welcome(some.choice((1, number)), some.randbytes(8), text, 244, 32768, True),
            Welcome(1, b"12345678", "", 36, 0, False),
            Challenge(number, some.randbytes(16)),
            Accept(number, offset),
            Chunk(offset, text),
            Finished(number, len(text), "stop", 1, 1, zlib.crc32(text.encode())),
            Failed(number, some.choice(("busy", "unknown", "hello", "auth", "any")), text),
            Failed(0, some.choice(("busy", "tools", "hello", "auth", "any")), text, 10, 3),
            StatusReport({text: [1, {}]}),
            Note(text),
            Call(number, some.choice(("fan", text)), {"percent": offset}, 1000),
            Ask(number, 0, text),
            Hello(number, b"", "", 244, 100),
            Stop(number),
        )
    )


def mutated(some: random.Random, data: bytes) -> bytes:
    spoiled = bytearray(data or b"\0")
    for _ in range(some.randint(1, 4)):
        at = some.randrange(len(spoiled))
        spoiled[at : at + some.randint(0, 2)] = some.randbytes(some.randint(0, 3))
        spoiled = spoiled or bytearray(1)
    return bytes(spoiled)
