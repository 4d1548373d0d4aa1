from __future__ import annotations

from edgellm.link import frames
from edgellm.link.messages import Ack, Ask, Chunk, Failed, Hello, StatusQuery, pack
from edgellm.link.send_queue import MORE
from edgellm.link.trace import MAX_JOINED, MAX_SHOWN, Trace


def frame(head: int, payload: bytes, seq: int = 0) -> bytes:
    return frames.encode(bytes((head, seq, 7, 8)) + payload)


def test_messages() -> None:
    trace = Trace()
    messages = [Hello(5, b"", "me", 244, 0), Ask(1, 0, "why?"), StatusQuery(), Ack(), Chunk(0, "b")]
    told = trace.lines(b"login: " + b"".join(frame(*pack(message)) for message in messages))
    header = "seq 0 ack 7 credit 8"
    assert told == [
        f"HELLO {header} nonce=5, token=b'', name='me', mtu=244, room=0, mac=b''",
        f"ASK {header} id=1, got=0, text='why?', options={{}}",
        f"STATUS {header}",
        f"ACK {header}",
        f"TEXT {header} offset=0, text='b'",
        "noise: 1 times between sound frames",
    ]
    assert trace.lines(b"") == []


def test_messages_of_several_frames() -> None:
    kind, payload = pack(Ask(1, 0, "x" * 300))
    first, second, last = payload[:100], payload[100:200], payload[200:]
    trace = Trace()
    told = trace.lines(frame(kind | MORE, first, 255))
    told += trace.lines(frame(kind | MORE, second, 0))
    told += trace.lines(frame(*pack(Ack())))
    told += trace.lines(frame(kind | MORE, first, 255) + frame(kind, last, 1))
    assert told[:2] == [
        "02 seq 255 ack 7 credit 8 100 bytes, part of a message",
        "02 seq 0 ack 7 credit 8 100 bytes, part of a message",
    ]
    assert told[2].startswith("ACK ")
    assert told[3].endswith("100 bytes, again or too early")
    assert told[4].startswith("ASK seq 1 ack 7 credit 8 id=1, got=0, text='xxx")
    assert told[4].endswith("...")
    assert len(told[4]) < MAX_SHOWN + 40


def test_what_is_no_message() -> None:
    trace = Trace()
    told = trace.lines(
        frames.encode(b"abc") + frame(0x7F, b"") + frame(Failed.TYPE, b"\xc1", 3) + b"\0abc\0"
    )
    assert told[0] == "frame without a header: 61 62 63"
    assert told[1].startswith("7F seq 0 ack 7 credit 8 0 bytes: message of unknown type")
    assert told[2].startswith("13 seq 3 ack 7 credit 8 1 bytes: ")
    assert told[3] == "noise: 1 times between sound frames"


def test_a_message_without_an_end_takes_no_memory() -> None:
    trace = Trace()
    for number in range(200):
        trace.lines(frame(Ask.TYPE | MORE, b"x" * 1000, number % 256))
    assert len(trace._parts) == MAX_JOINED
