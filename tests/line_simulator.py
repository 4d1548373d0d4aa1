"""A serial line in virtual time: it paces bytes at the baud rate, flips bits, loses and invents
bytes, and is unplugged and plugged in again. Two ends without I/O talk over it as fast as they
can be computed.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

INVENTED = bytes((0x00, 0x11, 0x13, 0xFF))
"""What a line likes to invent: zero bytes, XON, XOFF, and what an open input reads as."""

PIECE = 16
"""Bytes that a receiver finds at a time, as from the queue of a UART."""


@dataclass(frozen=True)
class Conditions:
    """What a line does to the bytes on it."""

    baud: float = 115_200
    bit_errors: float = 0.0
    """Probability for each of a character's 10 bits; start and stop bit count."""
    dropped: float = 0.0
    """Probability for each byte."""
    junk: float = 0.0
    """Probability that a byte is invented before a byte."""
    plugged: float = math.inf
    """Seconds between two times of being unplugged, in the mean."""
    unplugged: tuple[float, float] = (0.1, 1.0)
    """Seconds of being unplugged, at least and at most."""
    delay: float = 0.0005
    """Seconds that a byte takes beyond its own length."""


CLEAN = Conditions()
BAD = Conditions(bit_errors=1e-3, dropped=1e-4, junk=1e-4)
UNPLUGGED = Conditions(bit_errors=1e-3, dropped=1e-4, junk=1e-4, plugged=2.0)


class Line:
    """Both directions of a line; `sides` are its ends: each writes to one and reads from both."""

    def __init__(self, conditions: Conditions, seed: int) -> None:
        self.conditions = conditions
        self._random = random.Random(seed)
        self._until = 0.0  # end of the line's present state
        self._down = True
        self._outages: deque[tuple[float, float]] = deque()
        self.sides = (Side(self), Side(self))
        self.sides[0].there, self.sides[1].there = self.sides[1], self.sides[0]

    def unplugged(self, when: float) -> bool:
        """Whether the line is unplugged at a time; times of at most 60 s ago can be asked for."""
        while self._until <= when:
            self._down = not self._down
            begin = self._until
            if self._down:
                self._until += self._random.uniform(*self.conditions.unplugged)
                self._outages.append((begin, self._until))
            elif math.isfinite(self.conditions.plugged):
                self._until += self._random.expovariate(1 / self.conditions.plugged)
            else:
                self._until = math.inf
        while self._outages and self._outages[0][1] < when - 60:
            self._outages.popleft()
        return any(begin <= when < end for begin, end in self._outages)

    def pull(self, begin: float, end: float) -> None:
        """Unplug it from `begin` to `end`, besides what the conditions say."""
        self._outages.append((begin, end))

    def spoil(self, data: bytes) -> bytes:
        """What noise makes of `data`."""
        at, rate = 0, self._rate()
        if not rate:
            return data
        spoiled = bytearray()
        while True:
            gap = int(math.log(1.0 - self._random.random()) / math.log1p(-rate))
            if at + gap >= len(data):
                return bytes(spoiled + data[at:])
            spoiled += data[at : at + gap]
            spoiled += self._accident(data[at + gap])
            at += gap + 1

    def _rate(self) -> float:
        conditions = self.conditions
        return conditions.bit_errors * 10 + conditions.dropped + conditions.junk

    def _accident(self, byte: int) -> bytes:
        kind = self._random.random() * self._rate()
        if kind < self.conditions.bit_errors * 8:
            return bytes((byte ^ 1 << self._random.randrange(8),))
        if kind < self.conditions.bit_errors * 10:  # start or stop bit: it's out of step
            return self._random.choice((b"", b"\0", self._random.randbytes(1)))
        if kind < self.conditions.bit_errors * 10 + self.conditions.dropped:
            return b""
        return bytes((self._random.choice(INVENTED + self._random.randbytes(1)), byte))


class Side:
    """One end of a line."""

    def __init__(self, line: Line) -> None:
        self.there: Side
        self.carried = 0
        """Bytes written here."""
        self._line = line
        self._free = 0.0
        self._coming: deque[tuple[float, bytes]] = deque()

    def write(self, data: bytes, now: float) -> None:
        """Put `data` on the line, after all that was put there before."""
        self.carried += len(data)
        conditions = self._line.conditions
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            self._free = max(self._free, now) + len(piece) * 10 / conditions.baud
            if not self._line.unplugged(self._free):
                piece = self._line.spoil(piece)
                if piece:
                    self.there._coming.append((self._free + conditions.delay, piece))

    def arrival(self) -> float:
        """When there is something to read next."""
        return self._coming[0][0] if self._coming else math.inf

    def read(self, now: float) -> bytes:
        """What has arrived."""
        arrived = bytearray()
        while self._coming and self._coming[0][0] <= now:
            arrived += self._coming.popleft()[1]
        return bytes(arrived)


class End(Protocol):
    """What talks over the line: `Reliable`, `Device`, `Host`."""

    def receive(self, data: bytes, now: float) -> Sequence[Any]: ...

    def output(self, now: float) -> bytes: ...

    def deadline(self) -> float | None: ...


def talk(
    line: Line,
    ends: tuple[End, End],
    heard: Callable[[int, Any, float], None],
    done: Callable[[float], bool],
    now: float = 0.0,
    limit: float = 600.0,
) -> float:
    """Let both ends talk from `now` on until `done`; the time then.

    `heard(end, event, now)` is told all that `receive` of an end returns. Fails after `limit`
    seconds of the line's time, or if an end wants to be called for ever without a pause.
    """
    begin, calls = now, 0
    while True:
        for number, (end, side) in enumerate(zip(ends, line.sides, strict=True)):
            if data := side.read(now):
                for event in end.receive(data, now):
                    heard(number, event, now)
            if data := end.output(now):
                side.write(data, now)
        if done(now):
            return now
        deadlines = [deadline for end in ends if (deadline := end.deadline()) is not None]
        last, now = now, max(now, min([*deadlines, *(side.arrival() for side in line.sides)]))
        assert now < math.inf, "both ends rest, but aren't done"
        assert now < begin + limit, f"not done after {limit} s"
        calls = calls + 1 if now == last else 0
        assert calls < 1000, "an end never rests"
