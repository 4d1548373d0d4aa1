import os
import random
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.link import frames

LIMIT = 244
MUTATIONS = 2_000_000 if os.environ.get("EDGELLM_SOAK") else 20_000

bodies = st.binary(max_size=LIMIT)


def read(data: bytes, limit: int = LIMIT) -> list[bytes]:
    return frames.Decoder(limit).receive(data)


def test_the_bytes_of_a_frame_by_hand():
    # CRC-32 of "1" is 0x83DCEFB7; COBS puts the distance to the next zero byte in front.
    assert frames.encode(b"1") == b"\0" + b"\x06" + b"1" + b"\xb7\xef\xdc\x83" + b"\0"


@pytest.mark.parametrize("size", [0, 1, 68, 240, 244])
def test_overhead(size):
    body = b"\1" * size
    assert len(frames.encode(body)) == size + frames.OVERHEAD


@given(bodies)
def test_round_trip(body):
    frame = frames.encode(body)
    assert b"\0" not in frame[1:-1]
    assert read(frame) == [body]


@given(st.lists(bodies, max_size=8), st.data())
def test_cut_anywhere(sent, data):
    line = b"".join(map(frames.encode, sent))
    decoder = frames.Decoder(LIMIT)
    found = []
    while line:
        cut = data.draw(st.integers(1, len(line)))
        found += decoder.receive(line[:cut])
        line = line[cut:]
    assert found == sent
    assert decoder.errors == 0


def test_byte_by_byte_a_frame_is_complete_with_its_last_zero():
    decoder = frames.Decoder(LIMIT)
    *first, last = frames.encode(b"body")
    assert [decoder.receive(bytes((byte,))) for byte in first] == [[]] * len(first)
    assert decoder.receive(bytes((last,))) == [b"body"]


def test_one_zero_byte_between_frames_is_enough():
    assert read(frames.encode(b"a") + frames.encode(b"b")[1:]) == [b"a", b"b"]


@given(st.binary(max_size=2000), st.lists(st.integers(1, 50), max_size=8), bodies)
def test_in_step_after_any_garbage(garbage, cuts, body):
    decoder = frames.Decoder(LIMIT)
    for cut in cuts:
        decoder.receive(garbage[:cut])
        garbage = garbage[cut:]
    decoder.receive(garbage)
    assert decoder.receive(frames.encode(body))[-1:] == [body]


def test_noise_is_counted_once_between_zero_bytes():
    decoder = frames.Decoder(LIMIT)
    assert decoder.receive(b"junk\0\0\0more") == []
    assert decoder.errors == 1
    decoder.receive(b" junk\0")
    assert decoder.errors == 2


@pytest.mark.parametrize("limit", [36, 68, 249, 250, 251, 1028])
@pytest.mark.parametrize("fill", [b"\0", b"\1"])
def test_limit(limit, fill):
    decoder = frames.Decoder(limit)
    assert decoder.receive(frames.encode(fill * limit)) == [fill * limit]
    found = decoder.receive(frames.encode(fill * (limit + 8)))
    assert found == []
    assert decoder.errors == 1


def test_a_frame_without_an_end_takes_no_memory():
    decoder = frames.Decoder(LIMIT)
    piece = b"x" * 65536
    decoder.receive(piece)
    tracemalloc.start()
    for _ in range(1000):
        decoder.receive(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 256 * 1024
    assert decoder.receive(frames.encode(b"body")) == [b"body"]
    assert decoder.errors == 1


@settings(max_examples=300)
@given(bodies, st.data())
def test_no_single_error_is_taken_for_a_frame(body, data):
    frame = bytearray(frames.encode(body))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= 1 << data.draw(st.integers(0, 7))
    assert read(bytes(frame)) in ([], [body])  # of a zero byte at an end, the rest is sound


def test_mutations():
    """Nothing but what was sent is ever taken for sound, and nothing is held on to."""
    rng = random.Random(1)
    sent = [rng.randbytes(rng.randrange(LIMIT + 1)) for _ in range(16)]
    sound = set(sent)
    decoder = frames.Decoder(LIMIT)
    found = 0
    for _ in range(MUTATIONS):
        frame = bytearray(frames.encode(rng.choice(sent)))
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(frame))
            match rng.randrange(5):
                case 0:
                    frame[at] ^= 1 << rng.randrange(8)
                case 1:
                    frame[at] = rng.choice((0, 1, 17, 19, 255))
                case 2:
                    del frame[at : at + rng.randrange(1, 9)]
                    frame = frame or bytearray(1)
                case 3:
                    frame[at:at] = rng.randbytes(rng.randrange(1, 9))
                case 4:
                    frame[at:at] = frame[: rng.randrange(len(frame))]
        taken = decoder.receive(bytes(frame))
        found += len(taken)
        assert sound.issuperset(taken)
    assert found > MUTATIONS / 5
    assert decoder.errors > MUTATIONS / 5


def test_crc_is_that_of_micropython():
    assert zlib.crc32(b"123456789") == 0xCBF43926
