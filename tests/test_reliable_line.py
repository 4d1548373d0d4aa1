"""The link on the line that it is made for."""

import random
import zlib
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from line_simulator import BAD, CLEAN, UNPLUGGED, Conditions, Line, talk
from link_ends import SOAK, opened

from edgellm.link.messages import (
    Accept,
    Ask,
    Call,
    Chunk,
    Finished,
    Taken,
)
from edgellm.link.reliable import Reliable


def test_frames_fit_the_line():
    for conditions, shortest, longest in ((CLEAN, 240, 240), (BAD, 32, 48)):
        sizes = []
        simulate(conditions, 1, 6, watch=lambda host, sizes=sizes: sizes.append(host.payload))
        assert shortest <= sizes[-1] <= longest
        assert all(32 <= size <= 240 for size in sizes)


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
