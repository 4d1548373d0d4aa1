"""Both ends of a link, and what is seen on it."""

import os
from dataclasses import dataclass, replace

from edgellm.link import frames
from edgellm.link.messages import (
    Hello,
    Welcome,
    pack,
)
from edgellm.link.reliable import Reliable

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
