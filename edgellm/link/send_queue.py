"""SendQueue: messages that wait to be cut into frames; Frame: what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass

from edgellm.link.messages import Chunk, pack, text_room

MORE = 0x80
"""Of a frame's type: the message's payload goes on in the next numbered frame."""
MESSAGE = 96
"""Bytes that a message that waits costs besides its payload."""


@dataclass(slots=True)
class Frame:
    """A numbered frame under way."""

    type: int
    payload: bytes
    sendings: int = 0
    sent: float = 0.0
    """When the line will have, or has, carried its last byte."""


@dataclass(slots=True)
class _Text:
    """Text that isn't in frames yet."""

    offset: int
    text: bytearray


@dataclass(slots=True)
class _Whole:
    """A message that isn't in frames yet, but for the `done` first bytes of its payload."""

    type: int
    payload: bytes
    done: int = 0


class SendQueue:
    """Text is cut at whole characters, other payloads anywhere."""

    def __init__(self) -> None:
        self.nbytes = 0
        """Of what is in the queue."""
        self._queue: list[_Text | _Whole] = []  # a deque would take ten times the room

    def __bool__(self) -> bool:
        return bool(self._queue)

    def put_text(self, offset: int, text: bytes) -> None:
        """Add text of a Chunk; it joins the text before it if that ends at `offset`."""
        last = self._queue[-1] if self._queue else None
        if isinstance(last, _Text) and last.offset + len(last.text) == offset:
            last.text += text
        elif text:
            self._queue.append(_Text(offset, bytearray(text)))
        self.nbytes += len(text)

    def put(self, kind: int, payload: bytes) -> None:
        """Add the payload of any other message."""
        self._queue.append(_Whole(kind, payload))
        self.nbytes += len(payload) + MESSAGE

    def take(self, size: int, whole: bool) -> tuple[int, bytes]:
        """Type and payload of the next frame, of `size` bytes at most; with `whole` a payload that
        isn't text is never cut, for its receiver joins nothing."""
        first = self._queue[0]
        if isinstance(first, _Text):
            end = text_room(first.offset, size)
            while end < len(first.text) and first.text[end] & 0xC0 == 0x80:
                end -= 1  # not within a character
            text = first.text[:end]
            frame = pack(Chunk(first.offset, text.decode()))
            del first.text[:end]
            first.offset += len(text)
            self.nbytes -= len(text)
            if not first.text:
                del self._queue[0]
            return frame
        end = len(first.payload) if whole else first.done + size
        payload = first.payload[first.done : end]
        first.done += len(payload)
        self.nbytes -= len(payload)
        if first.done < len(first.payload):
            return first.type | MORE, payload
        del self._queue[0]
        self.nbytes -= MESSAGE
        return first.type, payload
