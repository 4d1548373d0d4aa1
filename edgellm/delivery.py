"""Delivery: one answer on its way from the service into the link, no faster than that takes it."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Callable
from dataclasses import replace

from edgellm.channel import Answer, Call, Done, Text
from edgellm.errors import (
    BusyError,
    ContextError,
    EdgeError,
    ExpiredError,
    LinkError,
    PeerError,
    StaleError,
    UnknownError,
    UsageError,
)
from edgellm.link import messages
from edgellm.link.messages import Accept, Ask, Chunk, Failed, Finished, Message
from edgellm.link.reliable import Reliable

log = logging.getLogger(__name__)

INTERNAL = "internal error; the service's log tells more"

QUEUE = 2048
"""Bytes that may wait in the link when more of the answer is taken: as many as a whole window."""

PIECE = 512
"""Characters of the answer that are put into the link at once; up to 4 bytes each."""

_CODES: tuple[tuple[type[EdgeError], str], ...] = (
    (StaleError, "old"),
    (UnknownError, "unknown"),
    (ContextError, "toolong"),
    (ExpiredError, "deadline"),
    (UsageError, "bad"),
    (PeerError, "bad"),
)


def failed(number: int, error: EdgeError) -> Failed:
    """What a device is told of an error."""
    if isinstance(error, BusyError):
        return Failed(number, "busy", str(error), error.retry_ms, error.place)
    codes = (code for kind, code in _CODES if isinstance(error, kind))
    return Failed(number, next(codes, "internal"), str(error))


class Delivery:
    """Of the answer no more is taken than the link has room for, so a device that doesn't read
    costs no memory."""

    def __init__(
        self,
        link: Reliable,
        ask: Ask,
        answer: Answer,
        *,
        wake: Callable[[], None],
        unsaved: Callable[[], None],
        line: str,
    ) -> None:
        """`wake` is called when the link has something to write, `unsaved` if the question isn't
        on disk when it's accepted. `line` is its name, for the log."""
        self.number = ask.id
        self._answer = answer
        self._link = link
        self._offset = ask.got
        self._wake = wake
        self._unsaved = unsaved
        self._line = line
        self._room = asyncio.Event()
        self._stopping = False

    def look_for_room(self) -> None:
        """The device may have taken something."""
        self._room.set()

    def stop(self) -> None:
        """End the answer, but not before what the device already has: one that is generated again
        may not have come so far."""
        self._stopping = True
        if len(self._answer.text.encode()) >= self._offset:
            self._answer.stop()

    def result(self, number: int, ok: bool, value: object) -> None:
        """What came of a call."""
        self._answer.result(number, ok, value)

    async def run(self) -> None:
        """Accept the question, then deliver from the byte on that the device wants, to the end.

        Raises LinkError if the link doesn't take it.
        """
        try:
            if not await self._answer.saved():
                self._unsaved()
            self._send(Accept(self.number, self._offset))
            async for event in self._answer.listen(self._offset):
                match event:
                    case Text(text):
                        if self._stopping:
                            self._answer.stop()
                        await self._say(text)
                    case Call():
                        self._call(event)
                    case Done():
                        self._end(event)
        except LinkError:
            raise
        except EdgeError as error:
            self._send(failed(self.number, error))
        except Exception:
            log.exception("%s: the answer failed", self._line)
            self._send(Failed(self.number, "internal", INTERNAL))

    async def _say(self, text: str) -> None:
        for begin in range(0, len(text), PIECE):
            while self._link.waiting >= QUEUE:
                self._room.clear()
                await self._room.wait()
            piece = text[begin : begin + PIECE]
            self._send(Chunk(self._offset, piece))
            self._offset += len(piece.encode())

    def _call(self, call: Call) -> None:
        deadline_ms = max(0, round(call.deadline_s * 1000))
        told = messages.Call(call.number, call.name, call.arguments, deadline_ms)
        try:
            size, room = len(messages.pack(told)[1]), self._link.peer_room
        except ValueError as error:
            self._answer.result(call.number, False, f"the call can't be sent: {error}")
            return
        if size > room:
            trouble = f"the device has room for {room} bytes of a call, not for {size}"
            self._answer.result(call.number, False, trouble)
        else:
            self._send(told)

    def _end(self, done: Done) -> None:
        text = self._answer.text.encode()
        milliseconds = round(done.seconds * 1000)
        crc = zlib.crc32(text)
        end = Finished(self.number, len(text), done.reason, done.tokens, milliseconds, crc)
        if len(messages.pack(end)[1]) > self._link.peer_room:  # it must get through all the same
            end = replace(end, tokens=0, ms=0)
        self._send(end)

    def _send(self, message: Message) -> None:
        self._link.send(message)
        self._wake()
