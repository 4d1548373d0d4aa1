"""Joiner: puts the payloads of messages together that come in several frames."""

from __future__ import annotations

from collections.abc import Callable

from edgellm.errors import PeerError
from edgellm.link.send_queue import MORE

BLOCK = 2048
"""Bytes that are joined by growing: a whole message that grew would take an eighth more."""


class Joiner:
    """Of one direction of a connection; it holds one message at the most."""

    def __init__(self, room: int, blame: Callable[[PeerError], None]) -> None:
        """`room` is how many bytes a payload may have; `blame` hears of messages that are lost."""
        self._room = room
        self._blame = blame
        self._kind: int | None = None  # of the message whose fragments are here
        self._blocks: list[bytes] = []
        self._last = bytearray()
        self._size = 0  # more than the room if it is too long; then nothing is held

    def join(self, head: int, payload: bytes) -> tuple[int, bytes] | None:
        """Type and payload of the message that a frame with this type and payload completes."""
        kind = head & ~MORE
        if self._kind is not None and self._kind != kind:
            self._blame(PeerError(f"message of type {self._kind:#04x} has no end"))
            self._kind = None
        if self._kind is None:
            if not head & MORE:
                return kind, payload
            self._kind, self._size = kind, 0
            self._drop()
        self._size += len(payload)
        if self._size > self._room:
            self._drop()
        else:
            self._last += payload
            if len(self._last) >= BLOCK:
                self._blocks.append(bytes(self._last))
                self._last.clear()
        if head & MORE:
            return None
        whole = b"".join((*self._blocks, self._last))
        self._kind = None
        self._drop()
        if self._size > self._room:
            self._blame(PeerError(f"message of type {kind:#04x} has more than {self._room} bytes"))
            return None
        return kind, whole

    def _drop(self) -> None:
        self._blocks.clear()
        self._last.clear()
