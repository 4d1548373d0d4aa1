"""How good a serial line is: measured over a plug that joins its ends, or to a service of edgellm.

A ping is sent first: what comes back tells who is there. With a loop (TX joined to RX) every byte
value is sent and compared; with a service the share of unanswered pings gives the rate of errors,
1 - (1 - lost)^(1 / bits of a ping and its answer). The service at the other end takes the line for
one of frames from then on.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgellm.link.fields import MAX_MTU
from edgellm.link.frames import Decoder
from edgellm.link.loose import frame
from edgellm.link.messages import Failed, Ping, Pong
from edgellm.wire.serial_ports import Problem

LOOP, SERVICE, NOBODY = "loop", "service", "nobody"
BITS = 10
"""Of a byte on the line, start and stop bit included."""
TRIES = 8
"""Pings until nobody is there; where a bit in 1,000 is wrong, one in five gets no answer."""
PATIENCE = 0.25
"""Seconds for an answer beyond its time on the line."""
BLOCK = 64
"""Bytes of the pattern that are compared at a time, so that one lost costs no more than these."""
FLOW = {0x11: "XON", 0x13: "XOFF"}


@dataclass(frozen=True, slots=True)
class Quality:
    """What a measurement found."""

    partner: str
    """LOOP, SERVICE or NOBODY."""
    sent: int = 0
    """Bytes, with a service: pings."""
    returned: int = 0
    """Of these; with a service: answers."""
    wrong: int = 0
    """Returned bytes that aren't what was sent."""
    error_rate: float = 0.0
    """Estimated share of bits that arrive wrong or not at all."""
    swallowed: tuple[int, ...] = ()
    """Byte values of which none has come back."""

    def problems(self) -> list[Problem]:
        """What is wrong with the line."""
        found = []
        if self.swallowed:
            names = ", ".join(FLOW.get(value, f"0x{value:02x}") for value in self.swallowed[:8])
            if set(self.swallowed) <= set(FLOW):
                remedy = "turn off software flow control (XON/XOFF) at the adapter or device"
            elif len(self.swallowed) >= 128:
                remedy = "use 8 data bits: bytesize=8, at both ends"
            else:
                remedy = "look for a terminal server or a driver that changes what passes"
            found.append(Problem(f"the line swallows some byte values: {names}", remedy))
        elif self.error_rate:
            found.append(
                Problem(
                    f"about one bit in {1 / self.error_rate:,.0f} is damaged or lost",
                    "join the grounds of both ends, take a shorter cable away from motors, set the "
                    "same baud rate at both ends or a lower one; frames get through all the same, "
                    "but slower",
                )
            )
        return found


def measure(port: Any, seconds: float) -> Quality:
    """Measure an open `serial.Serial` for that time, not counting the search for the partner.

    Raises serial.SerialException if the port is lost.
    """
    ping = frame(Ping())
    byte_s = BITS / port.baudrate
    port.timeout = 0.02
    for _ in range(TRIES):
        answer = _answer(port, ping, byte_s)
        if answer == Ping.TYPE:
            return _loop(port, seconds, byte_s)
        if answer is not None:
            return _service(port, seconds, ping, byte_s)
    return Quality(NOBODY)


def _loop(port: Any, seconds: float, byte_s: float) -> Quality:
    rng = random.Random(1)
    sent = returned = wrong = bits = 0
    missing = dict.fromkeys(range(256), 0)  # blocks with that value, until it has come back
    time.sleep(PATIENCE)  # for the rest of the ping
    port.reset_input_buffer()
    for block in _blocks(rng, seconds, byte_s):
        port.write(block)
        back = _back(port, len(block), byte_s)
        sent += len(block)
        returned += len(back)
        for value in back:
            missing.pop(value, None)
        if len(back) == len(block):
            errors = [a ^ b for a, b in zip(block, back, strict=True) if a != b]
            wrong += len(errors)
            bits += sum(map(int.bit_count, errors))
        else:
            bits += abs(len(block) - len(back)) * BITS
            time.sleep(PATIENCE)
            port.reset_input_buffer()
    return Quality(LOOP, sent, returned, wrong, bits / (sent * BITS), tuple(missing))


def _blocks(rng: random.Random, seconds: float, byte_s: float) -> Iterator[bytes]:
    """All byte values at least four times, then as long as there's time."""
    end = time.monotonic() + seconds
    rounds = 0
    while rounds < 4 or time.monotonic() < end:
        values = bytes(rng.sample(range(256), 256))
        yield from (values[at : at + BLOCK] for at in range(0, 256, BLOCK))
        rounds += 1


def _back(port: Any, count: int, byte_s: float) -> bytes:
    """What has come back of `count` bytes when nothing more comes."""
    back = bytearray()
    quiet = time.monotonic() + PATIENCE + count * byte_s
    while len(back) < count and time.monotonic() < quiet:
        if data := port.read(count - len(back)):
            back += data
            quiet = time.monotonic() + PATIENCE
    return bytes(back)


def _service(port: Any, seconds: float, ping: bytes, byte_s: float) -> Quality:
    end = time.monotonic() + seconds
    sent = returned = 0
    while sent < 20 or time.monotonic() < end:
        sent += 1
        returned += _answer(port, ping, byte_s) is not None
    bits = 2 * len(ping) * BITS
    rate = 1 - (returned / sent) ** (1 / bits)
    return Quality(SERVICE, sent, returned, 0, rate)


def _answer(port: Any, ping: bytes, byte_s: float) -> int | None:
    """The type of the first sound frame that answers a ping, None if there's none."""
    decoder = Decoder(MAX_MTU)
    port.reset_input_buffer()
    port.write(ping)
    end = time.monotonic() + PATIENCE + 4 * len(ping) * byte_s
    while time.monotonic() < end:
        for body in decoder.receive(port.read(max(1, port.in_waiting))):
            if body[:1] and body[0] in (Ping.TYPE, Pong.TYPE, Failed.TYPE):
                return body[0]
    return None
