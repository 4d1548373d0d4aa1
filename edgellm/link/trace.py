"""One direction of the link, told line by line: each frame that passes, and what is none."""

from __future__ import annotations

from edgellm.errors import PeerError
from edgellm.link import frames
from edgellm.link.fields import MAX_MTU
from edgellm.link.messages import (
    Chunk,
    Failed,
    Finished,
    Message,
    StatusQuery,
    StatusReport,
    unpack,
)
from edgellm.link.reliable import HEADER
from edgellm.link.send_queue import MORE

MAX_SHOWN = 200
"""Characters of a message's fields."""
MAX_JOINED = 64 * 1024
"""Bytes of one that is joined."""
_NAMES: dict[type[Message], str] = {
    Chunk: "TEXT",
    Finished: "DONE",
    Failed: "ERR",
    StatusQuery: "STATUS",
    StatusReport: "STATUS",
}
"""Where the wire's name isn't the class's in capitals."""


class Trace:
    """Reads along."""

    def __init__(self) -> None:
        self._decoder = frames.Decoder(MAX_MTU)
        self._errors = 0
        self._joining: int | None = None  # type of the message whose first parts have passed
        self._next = 0  # seq of the part that follows
        self._parts = b""

    def lines(self, data: bytes) -> list[str]:
        """What `data`, cut anywhere, completes."""
        told = [self._line(body) for body in self._decoder.receive(data)]
        damaged, self._errors = self._decoder.errors - self._errors, self._decoder.errors
        if damaged:
            told.append(f"noise: {damaged} times between sound frames")
        return told

    def _line(self, body: bytes) -> str:
        if len(body) < HEADER:
            return f"frame without a header: {body.hex(' ')}"
        kind, seq, ack, credit = body[:HEADER]
        payload = body[HEADER:]
        header = f"seq {seq} ack {ack} credit {credit}"
        part = f"{kind & ~MORE:02X} {header} {len(payload)} bytes"
        if kind & ~MORE == self._joining:
            if seq != self._next:
                return f"{part}, again or too early"
            payload = self._parts + payload
        if kind & MORE:
            self._joining, self._next = kind & ~MORE, (seq + 1) & 0xFF
            self._parts = payload[:MAX_JOINED]
            return f"{part}, part of a message"
        if kind == self._joining:
            self._joining = None
        try:
            message = unpack(kind, payload)
        except PeerError as error:
            return f"{part}: {error}"[:MAX_SHOWN]
        name = _NAMES.get(type(message), type(message).__name__.upper())
        fields = repr(message).partition("(")[2].removesuffix(")")
        if len(fields) > MAX_SHOWN:
            fields = fields[: MAX_SHOWN - 3] + "..."
        return f"{name} {header} {fields}".rstrip()
