"""One peer in line mode: carries lines from a wire to the service, and answers back."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from edgellm.channel import Answer, Done, Priority, Service, Text
from edgellm.errors import BusyError, EdgeError, LinkError
from edgellm.link.lines import Command, Event, Lines, Question, Rejected, explain

log = logging.getLogger(__name__)

RETRY_MS = 1000
"""When to ask again after a question that came during the peer's own answer."""

INTERNAL = "internal error; the service's log tells more"


class Wire(Protocol):
    """A byte stream both ways. Its methods raise LinkError once the line is gone."""

    async def read(self) -> bytes:
        """Some bytes; none once the peer has ended its side. Cancelling loses nothing."""

    async def write(self, data: bytes) -> None:
        """Send after all earlier calls' data, and return when there's room for more.

        Raises LinkError if the peer takes too little for too long.
        """


class Connection:
    """Serves one peer's questions and commands, one answer at a time.

    A question during an answer is refused with `! busy`; commands work at any time. A peer that
    doesn't read is no longer read from either, and what waits for it is bounded by the wire.
    """

    def __init__(
        self,
        wire: Wire,
        service: Service,
        session: str,
        idle: float = 0,
        priority: Priority = Priority.PERSON,
    ) -> None:
        """`idle` is how many seconds may pass between lines while no answer runs; 0: any number."""
        self._wire = wire
        self._service = service
        self._session = session
        self._idle = idle
        self._priority = priority
        self._lines = Lines(blank=service.continues)
        self._rate = 0
        self._deadline = 0.0
        self._tasks = asyncio.TaskGroup()
        self._answer: Answer | None = None
        self._delivery: asyncio.Task[None] | None = None
        self._stopped = False  # the answer, by this peer

    async def run(self) -> None:
        """Serve until the peer ends its side (its answer is still delivered) or goes idle.

        Raises LinkError if the line is lost. However it ends, the session is closed.
        """
        lost: LinkError | None = None
        try:
            async with self._tasks:
                await self._listen()
        except* LinkError as errors:
            lost = LinkError(str(errors.exceptions[0]))
        finally:
            self._service.close(self._session)
        if lost:
            raise lost

    async def _listen(self) -> None:
        self._touch()
        while data := await self._read():
            for event in self._lines.receive(data):
                await self._handle(event)
                self._touch()
        for event in self._lines.receive_end():
            await self._handle(event)

    async def _read(self) -> bytes:
        while True:
            try:
                async with asyncio.timeout_at(self._deadline if self._idle else None):
                    return await self._wire.read()
            except TimeoutError:
                if self._answer is None and asyncio.get_running_loop().time() >= self._deadline:
                    notice = f"closed: no line for {self._idle:g} s"
                    await self._wire.write(self._lines.status(notice))
                    return b""
                if self._answer is not None:
                    self._touch()

    def _touch(self) -> None:
        self._deadline = asyncio.get_running_loop().time() + self._idle

    async def _handle(self, event: Event) -> None:
        try:
            reply = await self._reply(event)
        except EdgeError as error:
            reply = self._lines.error(error)
        except Exception:
            log.exception("%s: %s failed", self._session, type(event).__name__)
            reply = self._lines.error(INTERNAL)
        if reply:
            await self._wire.write(reply)

    async def _reply(self, event: Event) -> bytes:
        lines = self._lines
        match event:
            case Question(text):
                if self._answer is not None:
                    raise BusyError(1, RETRY_MS)
                self._answer = self._service.ask(self._session, text, self._priority)
                self._stopped = False
                lines.begin()
                self._delivery = self._tasks.create_task(self._deliver(self._answer))
                return b""
            case Rejected(reason):
                return lines.error(reason)
            case Command("new"):
                if self._answer is not None and self._delivery is not None:
                    self._stop(self._answer)
                    await asyncio.wait([self._delivery])
                self._service.forget(self._session)
                return lines.status("new conversation")
            case Command("stop"):
                if self._answer is None:
                    return lines.status("nothing to stop")
                self._stop(self._answer)  # the end of its delivery says so
                return b""
            case Command("status"):
                items = self._service.status().items()
                return lines.status(", ".join(f"{name} {value}" for name, value in items))
            case Command("dot", argument):
                lines.dot = argument == "on"
                return lines.status(f"dot {argument}")
            case Command("rate", argument):
                self._rate = int(argument)
                return lines.status(f"rate {self._rate}")
            case Command():
                return b"".join(map(lines.status, explain()))

    def _stop(self, answer: Answer) -> None:
        self._stopped = True
        answer.stop()

    async def _deliver(self, answer: Answer) -> None:
        try:
            done: Done | None = None
            async for event in answer:
                if isinstance(event, Text):
                    await self._send(event.text)
                else:
                    done = event
            end = self._lines.end()
            if done and done.reason == "cancel":
                end += self._lines.status("stopped")
        except LinkError:
            raise
        except EdgeError as error:
            end = self._lines.fail(error)
        except Exception:
            log.exception("%s: the answer failed", self._session)
            end = self._lines.fail(INTERNAL)
        # Before the peer sees the end, for it may ask again at once.
        self._answer = None
        self._touch()
        await self._wire.write(end)

    async def _send(self, text: str) -> None:
        if not self._rate:
            await self._wire.write(self._lines.text(text))
            return
        for char in text:
            if self._stopped:
                return
            await self._wire.write(self._lines.text(char))
            await asyncio.sleep(1 / self._rate if self._rate else 0)
