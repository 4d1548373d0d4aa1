import math
import os
import random
import tracemalloc
import zlib
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from line_simulator import BAD, CLEAN, UNPLUGGED, Conditions, Line, talk

from edgellm.errors import LinkError
from edgellm.link import frames, reliable
from edgellm.link.messages import (
    Accept,
    Ack,
    Ask,
    Call,
    Chunk,
    Failed,
    Finished,
    Hello,
    New,
    Note,
    Ping,
    Pong,
    Result,
    StatusReport,
    Stop,
    Taken,
    Tools,
    Welcome,
    pack,
    unpack,
)
from edgellm.link.reliable import Reliable
from edgellm.link.send_queue import MORE

SOAK = bool(os.environ.get("EDGELLM_SOAK"))

HELLO = Hello(7, b"", "uno", 244, 4096)
WELCOME = Welcome(7, b"12345678", "edgellm", 244, 32768, False)


def opened(mtu=244, room=4096, window=8, baud=None, device_baud=None):
    """Host and device with an open connection; the arguments are the device's, but for `baud`."""
    host = Reliable(baud=baud)
    device = Reliable(mtu=mtu, room=room, window=window, baud=device_baud or baud)
    device.send(replace(HELLO, mtu=mtu, room=room))
    (hello,) = host.receive(device.output(0.0), 0.0)
    host.reset(hello.mtu, hello.room)
    host.send(replace(WELCOME, mtu=host.mtu, room=host.room))
    (welcome,) = device.receive(host.output(0.0), 0.0)
    device.reset(welcome.mtu, welcome.room)
    return host, device


def exchange(a, b, now=0.0):
    """Carry bytes without loss until both rest; what each end received."""
    got = [], []
    while True:
        there, back = a.output(now), b.output(now)
        if not there and not back:
            return got
        got[1].extend(b.receive(there, now))
        got[0].extend(a.receive(back, now))


def frame(message, seq=0, ack=0, credit=8, head=None):
    kind, payload = message if isinstance(message, tuple) else pack(message)
    return frames.encode(bytes((kind if head is None else head, seq, ack, credit)) + payload)


@dataclass(frozen=True)
class Seen:
    type: int
    seq: int
    ack: int
    credit: int
    payload: bytes


def seen(data):
    decoder = frames.Decoder(1028)
    found = [Seen(*body[:4], body[4:]) for body in decoder.receive(data)]
    assert decoder.errors == 0
    return found


def types(data):
    return [each.type for each in seen(data)]


# Opening


def test_closed_only_the_handshake_passes():
    link = Reliable()
    assert link.receive(frame(HELLO), 0.0) == [HELLO]
    assert link.receive(frame(Taken(1)) + frame(Ping()) + frame(Ack()), 0.0) == []
    assert link.strangers == 3
    link.receive(b"noise\0", 0.0)
    assert link.output(0.0) == b""
    assert link.deadline() is None
    with pytest.raises(RuntimeError):
        link.send(Taken(1))


@pytest.mark.parametrize("code", ["hello", "auth"])
def test_refusals_pass_a_closed_link(code):
    link, peer = Reliable(), Reliable()
    link.send(Failed(0, code, "no"))
    assert peer.receive(link.output(0.0), 0.0) == [Failed(0, code, "no")]


def test_reset_begins_anew():
    host, device = opened()
    device.send(Ask(1, 0, "hi"))
    assert exchange(host, device) == ([Ask(1, 0, "hi")], [])
    host.send(Chunk(0, "lost"))
    host.send(WELCOME)
    host.reset(244, 4096)
    device.reset(244, 32768)
    host.send(Accept(1, 0))
    data = host.output(0.0)
    assert [(each.type, each.seq) for each in seen(data)] == [(Welcome.TYPE, 0), (Accept.TYPE, 0)]
    assert device.receive(data, 0.0) == [WELCOME, Accept(1, 0)]
    assert host.waiting == len(pack(Accept(1, 0))[1])


def test_close_drops_all():
    host, device = opened()
    host.send(Note("lost"))
    host.output(0.0)
    device.send(Taken(1))
    host.close()
    assert host.waiting == 0
    assert host.receive(device.output(0.0), 0.0) == []
    assert host.output(10.0) == b""
    assert host.deadline() is None


# Carrying


def test_messages_arrive_in_order():
    host, device = opened()
    to_host = [Ask(1, 0, "é" * 8000), Tools([["f", "x" * 200, {}, 0]] * 20), Result(1, "ok", 5)]
    to_device = [
        Accept(1, 0),
        Chunk(0, "abc"),
        Call(1, "f", {"x": [1.5, None]}, 100),
        StatusReport({"text": "y" * 3000}),
        Finished(1, 3, "stop", 1, 1, 1),
    ]
    for message in to_host:
        device.send(message)
    for message in to_device:
        host.send(message)
    assert exchange(host, device) == (to_host, to_device)
    assert host.waiting == device.waiting == 0
    assert host.deadline() is device.deadline() is None


def test_numbers_wrap_around():
    host, device = opened()
    sent = [Accept(1 + number, number) for number in range(1000)]
    got = []
    for message in sent:
        host.send(message)
        got += exchange(host, device)[1]
    assert got == sent
    assert host.frames_lost == 0


@given(st.lists(st.text(max_size=300), max_size=20), st.sampled_from([36, 68, 244]))
def test_text_is_joined_and_cut_at_whole_characters(pieces, mtu):
    host, device = opened(mtu=mtu, room=0)
    offset = 0
    for piece in pieces:
        host.send(Chunk(offset, piece))
        offset += len(piece.encode())
    got = b""
    for chunk in exchange(host, device)[1]:
        assert chunk.offset == len(got)
        assert chunk.text
        got += chunk.text.encode()
    assert got.decode() == "".join(pieces)


def test_small_pieces_share_frames():
    host, device = opened()
    for offset in range(100):
        host.send(Chunk(offset, "x"))
    assert len(exchange(host, device)[1]) <= 3


def test_text_with_a_gap_isnt_joined():
    host, device = opened()
    sent = [Chunk(0, "a"), Chunk(7, "b"), Chunk(0, "c")]
    for chunk in sent:
        host.send(chunk)
    assert exchange(host, device)[1] == sent


def test_no_fragments_for_a_peer_without_room():
    host, device = opened(mtu=68, room=0)
    longest = Note("x" * 61)
    assert len(pack(longest)[1]) == 64
    host._quality.failed()  # frames are shorter than that now
    assert host.payload < 64
    host.send(longest)
    assert exchange(host, device)[1] == [longest]


def test_what_the_peer_has_no_room_for():
    host, device = opened(mtu=68, room=0)
    with pytest.raises(LinkError, match="room"):
        host.send(Call(1, "f", {"x": "y" * 100}, 1))
    host.send(Failed(1, "internal", "é" * 500, 5, 6))
    host.send(Note("x" * 500))
    (failed, note) = exchange(host, device)[1]
    assert replace(failed, text="") == Failed(1, "internal", "", 5, 6)
    assert failed.text.startswith("é" * 15)
    assert note.text.startswith("x" * 50)


def test_a_peer_that_takes_nothing_is_given_up():
    host, _ = opened()
    for offset in range(0, 60_000, 1000):
        host.send(Chunk(offset, "x" * 1000))
    with pytest.raises(LinkError, match="unacknowledged"):
        host.send(Chunk(60_000, "x" * 10_000))
    assert host.waiting == 60_000


# Receiving what isn't right


def test_a_damaged_frame_is_complained_about_at_once():
    host, device = opened()
    host.send(Accept(1, 0))
    data = bytearray(host.output(0.0))
    data[3] ^= 0x80
    assert device.receive(bytes(data), 0.0) == []
    (complaint,) = seen(device.output(0.0))
    assert (complaint.type, complaint.ack) == (Ack.TYPE, 0)
    assert device.frame_errors == 1


def test_a_gap_is_complained_about_at_once():
    _, device = opened()
    assert device.receive(frame(Accept(1, 0), seq=1), 0.0) == []
    assert [(each.type, each.ack) for each in seen(device.output(0.0))] == [(Ack.TYPE, 0)]


def test_a_duplicate_is_acknowledged_again():
    _, device = opened()
    assert device.receive(frame(Accept(1, 0)), 0.0) == [Accept(1, 0)]
    device.output(0.0)
    assert device.receive(frame(Accept(1, 0)), 0.0) == []
    assert [(each.type, each.ack) for each in seen(device.output(0.0))] == [(Ack.TYPE, 1)]


def test_what_breaks_the_rules_of_messages_is_acknowledged_and_counted():
    _, device = opened()
    bad = [(Accept.TYPE, b"\x90"), (Failed.TYPE, b"junk"), (0x55, b"?"), (Note.TYPE, b"\x91\xc0")]
    for seq, message in enumerate(bad):
        assert device.receive(frame(message, seq=seq), 0.0) == []
    assert device.receive(frame(Accept(1, 0), seq=4), 0.0) == [Accept(1, 0)]
    assert device.peer_errors == 4
    assert "Note" in str(device.peer_error)
    assert seen(device.output(0.0))[-1].ack == 5


def test_a_body_without_header():
    _, device = opened()
    assert device.receive(frames.encode(b"") + frames.encode(b"abc"), 0.0) == []
    assert device.peer_errors == 2


def test_fragments_beyond_the_room_are_dropped_but_acknowledged():
    _, device = opened(room=500)
    tracemalloc.start()
    for seq in range(300):
        data = frame((Note.TYPE, b"x" * 100), seq=seq & 0xFF, head=Note.TYPE | MORE)
        assert device.receive(data, 0.0) == []
        assert seen(device.output(0.0))[-1].ack == (seq + 1) & 0xFF
    assert tracemalloc.get_traced_memory()[0] < 10_000  # of 30,000 bytes that came
    tracemalloc.stop()
    assert device.receive(frame((Note.TYPE, b""), seq=44), 0.0) == []
    assert device.peer_errors == 1
    assert device.receive(frame(Accept(1, 0), seq=45), 0.0) == [Accept(1, 0)]


def test_fragments_that_have_no_end():
    _, device = opened()
    device.receive(frame((Note.TYPE, b"\x91"), head=Note.TYPE | MORE), 0.0)
    assert device.receive(frame(Accept(1, 0), seq=1), 0.0) == [Accept(1, 0)]
    assert device.peer_errors == 1


def test_unnumbered_messages_have_no_fragments():
    _, device = opened()
    assert device.receive(frame(Ping(), head=Ping.TYPE | MORE), 0.0) == []
    assert device.peer_errors == 1


@pytest.mark.parametrize("ack", [2, 9, 128, 255])
def test_an_ack_of_what_was_never_sent(ack):
    host, device = opened()
    host.send(Accept(1, 0))
    data = host.output(0.0)
    host.receive(frame(Ack(), ack=ack), 0.0)
    assert host.peer_errors == 1
    assert host.waiting
    assert device.receive(data, 0.0) == [Accept(1, 0)]
    host.receive(device.output(0.0), 0.0)
    assert host.waiting == 0


def test_ping_is_answered():
    host, device = opened()
    device.send(Ping())
    assert host.receive(device.output(0.0), 0.0) == [Ping()]
    assert device.receive(host.output(0.0), 0.0) == [Pong()]


def test_an_echo_doesnt_last():
    """A line whose ends are joined gives back what we send."""
    host, _ = opened(baud=115200)
    host.send(Note("hello"))
    now = sent = 0.0
    for _ in range(1000):
        data = host.output(now)
        sent += len(data)
        host.receive(data, now)
        now = host.deadline() if host.deadline() is not None else now + 1
    assert sent / now < 1000


# Sending: window, credit, timers


def test_the_window_is_kept():
    host, _ = opened(window=3)
    host.send(Chunk(0, "x" * 2000))
    assert [each.seq for each in seen(host.output(0.0))] == [0, 1, 2]
    assert host.output(0.0) == b""
    host.receive(frame(Ack(), ack=2, credit=2), 0.01)
    assert [each.seq for each in seen(host.output(0.01))] == [3]


def test_without_credit_there_are_pings():
    host, _ = opened(window=1)
    host.send(Chunk(0, "x" * 200))
    host.output(0.0)
    host.receive(frame(Ack(), ack=1, credit=0), 0.01)
    assert host.output(0.01) == b""
    now = 0.01
    for _ in range(5):
        now = host.deadline()
        assert types(host.output(now)) == [Ping.TYPE]
    host.receive(frame(Pong(), ack=1, credit=1), now)
    assert [(each.type, each.seq) for each in seen(host.output(now))] == [(Chunk.TYPE, 1)]


def test_a_complaint_makes_it_go_back():
    host, _ = opened(baud=115200)
    host.send(Chunk(0, "x" * 2000))
    now, sent = 0.0, []
    while len(sent) < 4:
        sent += seen(host.output(now))
        now = host.deadline()
    host.receive(frame(Ack(), ack=1) + frame(Ack(), ack=1), now)
    again = []
    while len(again) < 3:
        again += seen(host.output(now))
        now = host.deadline()
    assert again == sent[1:4]
    assert host.frames_lost == 1


def test_the_oldest_frame_goes_out_alone_after_a_pause():
    host, device = opened(baud=115200)
    for number in range(1, 4):
        host.send(Call(number, "f", {}, 0))
    now, data = 0.0, b""
    while len(seen(data)) < 3:
        data += host.output(now)
        now = host.deadline()
    first = seen(data)[0]
    pauses = []
    for _ in range(6):
        last, now = now, host.deadline()
        pauses.append(now - last)
        assert seen(host.output(now)) == [first]
    assert pauses[2] == pytest.approx(2 * pauses[1], rel=0.05)
    assert pauses[-1] == pytest.approx(reliable.LONGEST_PAUSE, rel=0.05)
    # The line is back: the device says something of its own.
    now += 0.1
    device.send(Taken(1))
    host.receive(device.output(now), now)
    assert seen(host.output(now))[0].payload == first.payload


def test_a_frame_that_was_damaged_again_needs_no_long_pause():
    host, device = opened(baud=115200)
    host.send(Call(1, "f", {}, 0))
    now = 0.0
    for _ in range(6):  # lost without a word
        host.output(now)
        before, now = now, host.deadline()
    assert now - before == pytest.approx(reliable.LONGEST_PAUSE, rel=0.05)
    assert host.output(now)
    assert device.receive(b"\0damaged\0", now) == []
    host.receive(device.output(now), now)
    assert host.deadline() - now < reliable.LONGEST_PAUSE / 4


def test_output_is_paced():
    host, _ = opened(baud=9600)
    host.send(Chunk(0, "x" * 4000))
    assert len(seen(host.output(1.0))) == 1
    first = host.deadline()
    assert 1.06 < first < 1.08  # a frame of 75 bytes takes 78 ms
    assert host.output(1.05) == b""
    assert len(seen(host.output(first))) == 1


def test_frames_fit_the_line():
    for conditions, shortest, longest in ((CLEAN, 240, 240), (BAD, 32, 48)):
        sizes = []
        simulate(conditions, 1, 6, watch=lambda host, sizes=sizes: sizes.append(host.payload))
        assert shortest <= sizes[-1] <= longest
        assert all(32 <= size <= 240 for size in sizes)


def test_stuck_when_the_line_gets_bad():
    host, _ = opened(baud=115200)
    host._quality.carried(100_000)
    host._quality.carried(0)
    assert host.payload == 240
    host.send(Chunk(0, "x" * 4000))
    now = 0.0
    for _ in range(200):
        if host.output(now):
            assert not host.stuck or host.frames_lost >= reliable.STUCK - 1
        now = max(now + 0.03, host.deadline())
        host.receive(frame(Ack()), now)
    assert host.stuck
    host.reset(244, 4096)
    assert not host.stuck
    assert host.payload < 100


# The line that the link is made for


@dataclass
class Talk:
    """Answers asked for, one after the other, and what came of them."""

    host: Reliable
    device: Reliable
    line: Line
    rng: random.Random
    longest: int
    got: bytearray = field(default_factory=bytearray)
    answer: str = ""
    asked: int = 0
    done: bool = True

    def ask(self):
        self.asked += 1
        self.done = False
        self.got.clear()
        self.device.send(Ask(self.asked, 0, "question " * self.rng.randrange(1, 10)))

    def heard(self, end, message, now):
        if end == 0 and isinstance(message, Ask):
            assert message.id == self.asked
            size = self.rng.randrange(1, self.longest + 1)
            self.answer = "".join(self.rng.choices("aé漢😀 ", k=size))
            while len(self.answer.encode()) > self.longest:
                self.answer = self.answer[: len(self.answer) * 9 // 10]
            raw = self.answer.encode()
            self.host.send(Accept(message.id, 0))
            self.host.send(Chunk(0, self.answer))
            self.host.send(Finished(message.id, len(raw), "stop", size, 0, zlib.crc32(raw)))
        elif end == 1 and isinstance(message, Chunk):
            assert message.offset == len(self.got)
            self.got += message.text.encode()
        elif end == 1 and isinstance(message, Finished):
            assert message.id == self.asked
            assert self.got.decode() == self.answer
            assert zlib.crc32(self.got) == message.crc32
            self.done = True
            self.device.send(Taken(message.id))


def simulate(conditions, seed, answers, longest=4096, told="right", watch=None, **device):
    """Bytes of answers a second, over all of them."""
    baud = {"right": conditions.baud, "too high": 2 * conditions.baud, "unknown": None}[told]
    host, end = opened(**device, baud=baud, device_baud=conditions.baud)
    line = Line(conditions, seed)
    session = Talk(host, end, line, random.Random(seed), longest)
    now, total = 0.0, 0
    for _ in range(answers):
        session.ask()
        now = talk(line, (host, end), session.heard, lambda _: session.done, now)
        total += len(session.got)
        if watch:
            watch(host)
    assert host.peer_errors == end.peer_errors == 0
    return total / now


@pytest.mark.parametrize("seed", range(10 if SOAK else 4))
def test_goodput_on_the_bad_line(seed):
    assert simulate(UNPLUGGED, seed, 1000 if SOAK else 50) >= 600
    assert simulate(BAD, seed, 10) >= 1200


def test_goodput_on_a_clean_line():
    assert simulate(CLEAN, 1, 50) >= 0.85 * 11520


@pytest.mark.parametrize(
    ("device", "clean", "bad"),
    [
        ({"mtu": 68, "room": 0, "window": 1}, 5000, 400),
        ({"mtu": 68, "room": 0, "window": 4}, 8000, 600),
        ({"mtu": 36, "room": 0, "window": 1}, 3000, 400),
    ],
    ids=["one frame of 64", "four of 64", "one of 32"],
)
def test_goodput_of_small_devices(device, clean, bad):
    assert simulate(CLEAN, 3, 10, **device) >= clean
    assert simulate(UNPLUGGED, 3, 10, **device) >= bad


@pytest.mark.parametrize("baud", [1200, 9600, 1_000_000])
def test_other_rates(baud):
    assert simulate(Conditions(baud=baud), 4, 10) >= 0.7 * baud / 10
    assert simulate(replace(BAD, baud=baud), 4, 3, longest=1000) >= min(0.05 * baud / 10, 1000)


@pytest.mark.parametrize("delay", [0.004, 0.016, 0.1])
def test_adapters_that_wait(delay):
    """A USB adapter hands on what it has every 1 to 16 ms; a radio bridge takes longer."""
    conditions = replace(UNPLUGGED, delay=delay)
    assert simulate(conditions, 5, 10) >= 600 * min(1, 0.01 / delay)


@pytest.mark.parametrize("told", ["too high", "unknown"])
def test_a_rate_that_isnt_right_doesnt_flood_the_line(told):
    assert simulate(CLEAN, 6, 10, told=told) >= 0.8 * 11520
    assert simulate(Conditions(bit_errors=1e-4), 6, 5, told=told) >= 200
    assert simulate(BAD, 6, 2, longest=1000, told=told) >= 30


class Seldom:
    """A device whose program looks at the line only every so often."""

    def __init__(self, link, pause):
        self._link, self._pause = link, pause
        self._due = 0.0
        self._data = b""

    def receive(self, data, now):
        self._data += data
        return ()

    def output(self, now):
        if now < self._due:
            return b""
        self._due = now + self._pause
        data, self._data = self._data, b""
        self._link.receive(data, now)
        return self._link.output(now)

    def deadline(self):
        return self._due


@pytest.mark.parametrize("pause", [0.05, 0.3, 1.0])
def test_devices_that_seldom_look(pause):
    host, device = opened(baud=115200)
    line = Line(CLEAN, 7)
    host.send(Chunk(0, "x" * 8000))
    talk(line, (host, Seldom(device, pause)), lambda *_: None, lambda _: not host.waiting)
    assert line.sides[0].carried < 1.3 * 8000


def test_both_ways_at_once():
    host, device = opened(baud=115200)
    line = Line(BAD, 8)
    got = bytearray(), bytearray()
    for end in (host, device):
        end.send(Chunk(0, "0123456789" * 1000))

    def heard(end, message, now):
        assert message.offset == len(got[end])
        got[end].extend(message.text.encode())

    now = talk(line, (host, device), heard, lambda _: len(got[0]) == len(got[1]) == 10_000)
    assert got[0] == got[1] == b"0123456789" * 1000
    assert 10_000 / now > 600


@pytest.mark.parametrize("outage", [0.1, 0.5, 1.0, 30.0])
def test_back_soon_after_an_outage(outage):
    """It goes on within a second of the line's return, however long that was away."""
    for seed in range(5):
        host, device = opened(baud=115200)
        line = Line(CLEAN, seed)
        begin = 0.1 + seed / 50
        line.pull(begin, begin + outage)
        host.send(Chunk(0, "x" * 4000))
        arrived = []
        now = talk(
            line,
            (host, device),
            lambda end, message, now, arrived=arrived: arrived.append(now),
            lambda now, host=host: not host.waiting,
        )
        assert now < begin + outage + 1
        assert any(begin + outage < when < begin + outage + 0.6 for when in arrived)


FATES = {
    "arrives": lambda data: data,
    "is lost": lambda data: b"",
    "is damaged": lambda data: data[:-3] + bytes((data[-3] ^ 0x80, *data[-2:])),
    "comes twice": lambda data: data + data,
    "comes after noise": lambda data: b"\x00noise" + data,
    "loses its bounds": lambda data: data[1:-1],
}


@given(st.lists(st.sampled_from(sorted(FATES)), max_size=120), st.integers(1, 8))
def test_whatever_becomes_of_frames(fates, window):
    """All arrives, in order and once, as soon as the line lets it."""
    host, device = opened(window=window)
    to_device = [Chunk(0, "é" * 500), Call(1, "f", {}, 1), Chunk(1000, "x" * 500)]
    to_host = [Ask(number, 0, "q" * 50 * number) for number in range(1, 4)]
    for end, messages in ((host, to_device), (device, to_host)):
        for message in messages:
            end.send(message)
    got: tuple[list, list] = [], []
    now, left = 0.0, fates[::-1]
    while host.waiting or device.waiting:
        for sender, receiver, heard in ((host, device, got[1]), (device, host, got[0])):
            for each in filter(None, sender.output(now).split(b"\0\0")):
                fate = FATES[left.pop() if left else "arrives"]
                heard += receiver.receive(fate(b"\0" + each.strip(b"\0") + b"\0"), now)
        now += 0.01
        assert now < 200
    assert got[0] == to_host
    assert [message for message in got[1] if isinstance(message, Call)] == to_device[1:2]
    text = "".join(message.text for message in got[1] if isinstance(message, Chunk))
    assert text == "é" * 500 + "x" * 500
    assert host.peer_errors == device.peer_errors == 0


# Anything at all


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
