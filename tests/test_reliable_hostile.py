"""The link and anything at all."""

import math
import random
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from link_ends import HELLO, SOAK, WELCOME, frame, opened, seen

from edgellm.link import frames
from edgellm.link.messages import (
    Ack,
    Ask,
    Chunk,
    Failed,
    New,
    Note,
    Ping,
    Stop,
    Taken,
    pack,
    unpack,
)
from edgellm.link.send_queue import MORE


@given(st.lists(st.binary(max_size=60), max_size=30), st.floats(0, 5))
def test_any_bodies(bodies, step):
    host, _ = opened()
    now = 0.0
    host.send(Chunk(0, "x" * 1000))
    for body in bodies:
        host.receive(frames.encode(body), now)
        host.output(now)
        assert host.deadline() is None or not math.isnan(host.deadline())
        now += step


def test_hostile_frames():
    """Sound frames with anything in them: no exception, no loop, no growth."""
    rng = random.Random(9)
    count = 2_000_000 if SOAK else 20_000
    payloads = [
        pack(message)[1]
        for message in (HELLO, WELCOME, Ask(1, 0, "hi"), Chunk(0, "x"), New(), Stop(1), Note("y"))
    ]
    kinds = [HELLO.TYPE, Ack.TYPE, Ping.TYPE, Ask.TYPE, Chunk.TYPE, Failed.TYPE, Note.TYPE]
    host, _ = opened(baud=115200)
    now, offset, written = 0.0, 0, 0
    tracemalloc.start()
    for number in range(count):
        if host.waiting < 500:
            host.send(Chunk(offset, "answer " * 9))
            offset += 63
        head = rng.choice(kinds) | rng.choice((0, 0, MORE))
        seq = host._expected + rng.choice((0, 0, 0, 1, -1, 7, 200)) & 0xFF
        ack = host._base + rng.choice((0, 0, 1, 2, 8, 9, 255)) & 0xFF
        payload = rng.choice(payloads) if rng.random() < 0.5 else rng.randbytes(rng.randrange(240))
        host.receive(frame((head, payload), seq, ack, rng.choice((0, 1, 8, 255))), now)
        written += len(host.output(now))
        now += rng.choice((0.0, 0.001, 0.05))
        if number % 5000 == 4999:
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert host.peer_errors > count / 10
    assert written < now * 11520 + count * 100
    # The link still works.
    host.reset(244, 4096)
    assert host.receive(frame(Taken(1)), now) == [Taken(1)]


def test_idle_links_are_small():
    tracemalloc.start()
    links = [opened()[0] for _ in range(100)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / len(links) < 8 * 1024


def test_what_was_sent_can_be_unpacked():
    host, _ = opened()
    host.send(Chunk(0, "ab"))
    (sent,) = seen(host.output(0.0))
    assert unpack(sent.type, sent.payload) == Chunk(0, "ab")
    assert sent.credit == 8
