"""Joiner: puts the payloads of messages together that come in several frames."""

from __future__ import annotations

from collections.abc import Callable

from edgellm.errors import PeerError
from edgellm.link.send_queue import MORE


class Joiner:
    """Of one direction of a connection; it holds one message at the most."""

    def __init__(self, room: int, blame: Callable[[PeerError], None]) -> None:
        """`room` is how many bytes a payload may have; `blame` hears of messages that are lost."""
        self._room = room
        self._blame = blame
        self._kind: int | None = None  # of the message whose fragments are here
        self._payload: bytearray | None = None
        """None if it is too long."""

    def join(self, head: int, payload: bytes) -> tuple[int, bytes] | None:
        """Type and payload of the message that a frame with this type and payload completes."""
        kind = head & ~MORE
        if self._kind is not None and self._kind != kind:
            self._blame(PeerError(f"message of type {self._kind:#04x} has no end"))
            self._kind = None
        if self._kind is None:
            if not head & MORE:
                return kind, payload
            self._kind, self._payload = kind, bytearray()
        if self._payload is not None:
            self._payload += payload
            if len(self._payload) > self._room:
                self._payload = None
        if head & MORE:
            return None
        whole, self._payload, self._kind = self._payload, None, None
        if whole is None:
            self._blame(PeerError(f"message of type {kind:#04x} has more than {self._room} bytes"))
            return None
        return kind, bytes(whole)
