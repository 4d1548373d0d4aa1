"""A question of a device's, from when it is put until its whole answer is here."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

from edgellm.link.events import Answered, Event, Piece, Refused
from edgellm.link.messages import Accept, Ask, Chunk, Failed, Finished, Message, New, Stop, Taken


class Question:
    """Puts the answer together, whatever connections it comes on."""

    def __init__(
        self,
        number: int,
        text: str,
        options: Mapping[str, object],
        anew: bool,
        send: Callable[[Message], None],
    ) -> None:
        """`anew`: the conversation is forgotten first. `send` does nothing while there is no
        connection."""
        self.number = number
        self.asked = False
        """Whether the host may know it."""
        self.ended = False
        self._text = text
        self._options = options
        self.anew = anew
        self._send = send
        self._got = 0  # UTF-8 bytes of the answer
        self._crc = 0
        self._by_number = False  # it was last asked for by its number alone
        self._accepted = False  # the text that comes on this connection is its answer's
        self._stopping = False

    def put(self) -> None:
        """On a new connection: ask; or, where the host may know the question, ask for the rest of
        its answer."""
        self._by_number, self._accepted = self.asked, False
        if self.asked:
            self._send(Ask(self.number, self._got, None))
        else:
            if self.anew:
                self._send(New())
            self._send(Ask(self.number, self._got, self._text, self._options))
        self.asked = True
        if self._stopping:
            self._send(Stop(self.number))

    def stop(self) -> None:
        """End the answer as far as it has come."""
        if not self.asked:
            self.ended = True
        elif not self._stopping:
            self._stopping = True
            self._send(Stop(self.number))

    def take(self, message: Accept | Chunk | Finished | Failed) -> list[Event]:
        """What the host says of it; nothing where that's of another one."""
        if isinstance(message, Chunk):
            return self._take_text(message) if self._accepted else []
        if message.id != self.number:
            return []
        match message:
            case Accept():
                self._accepted = True
                return []
            case Finished():
                return self._finish(message)
            case Failed(code="unknown") if self._by_number:
                return self.unknown(message.text)
        self.ended = True
        return [Refused(self.number, message.code, message.text, message.retry_ms, message.place)]

    def unknown(self, why: str) -> list[Event]:
        """The host has lost the question. Where a part of the answer has been given out, another
        answer wouldn't go on with it."""
        if self._got:
            self.ended = True
            return [Refused(self.number, "unknown", why)]
        self.asked = False
        self.put()
        return []

    def _take_text(self, chunk: Chunk) -> list[Event]:
        if chunk.offset > self._got:
            return self._damaged()
        new = chunk.text.encode()[self._got - chunk.offset :]
        if not new:
            return []
        self._got += len(new)
        self._crc = zlib.crc32(new, self._crc)
        return [Piece(new.decode(errors="replace"))]

    def _finish(self, done: Finished) -> list[Event]:
        if (done.total, done.crc32) != (self._got, self._crc):
            return self._damaged()
        self.ended = True
        self._send(Taken(self.number))
        return [Answered(self.number, done.reason, done.tokens, done.ms / 1000)]

    def _damaged(self) -> list[Event]:
        """No line does that: a host does that goes on with another answer than it began."""
        self.ended = True
        self._send(Stop(self.number))
        self._send(Taken(self.number))
        return [Refused(self.number, "damaged", "the answer isn't the one that was begun")]
