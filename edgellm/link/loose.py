"""Single frames outside of a connection: what needs no number and no hello."""

from __future__ import annotations

from edgellm.link import frames
from edgellm.link.messages import Failed, Message, pack

HEADER_BYTES = 3
"""Sequence, acknowledgement and credit, which mean nothing here."""


def frame(message: Message) -> bytes:
    """A message that isn't numbered as a frame."""
    kind, payload = pack(message)
    return frames.encode(bytes((kind, *bytes(HEADER_BYTES))) + payload)


def say_hello() -> bytes:
    """What makes a device that talks in frames come back at once, said thrice: where a bit in 1,000
    is wrong, one frame in three is lost."""
    return frame(Failed(0, "hello", "say hello")) * 3
