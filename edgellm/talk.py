"""One peer that talks in lines: carries them from a wire to the service, and answers back."""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import TYPE_CHECKING

from edgellm.channel import Answer, Done, Priority, Service, Text
from edgellm.delivery import INTERNAL
from edgellm.errors import BusyError, EdgeError, LinkError
from edgellm.framed import MAX_WRONG
from edgellm.link.lines import Command, Event, Lines, Question, Rejected, explain

if TYPE_CHECKING:
    from edgellm.connection import Wire

log = logging.getLogger(__name__)

RETRY_MS = 1000
"""When to ask again after a question that came during the peer's own answer."""

AUTH = "auth"


class Talk:
    """Serves one peer's lines, one answer at a time.

    A question during an answer is refused with `! busy`; commands work at any time. A peer that
    doesn't read is no longer read from either, and what waits for it is bounded by the wire. Where
    there is a secret, everything but `/auth` is refused with `! auth` until it has been said.
    """

    def __init__(
        self,
        wire: Wire,
        service: Service,
        session: str,
        idle: float,
        priority: Priority,
        secret: bytes | None,
        handshake: float,
        adapter: str | None,
    ) -> None:
        """See `Connection`."""
        self.refused = 0
        """How many wrong tokens the peer has said, for whoever keeps count of its address."""
        self._wire = wire
        self._service = service
        self._session = session
        self._idle = idle
        self._priority = priority
        self._secret = secret
        self._handshake = handshake
        self._adapter = adapter
        self._known = secret is None
        self._lines = Lines(blank=service.continues)
        self._rate = 0
        self._deadline = 0.0
        self._tasks = asyncio.TaskGroup()
        self._answer: Answer | None = None
        self._delivery: asyncio.Task[None] | None = None
        self._stopped = False  # the answer, by this peer

    async def run(self) -> bytes:
        """Serve until the peer ends its side (its answer is still delivered), goes idle, has said
        too many wrong tokens, or begins frames: then, what it has sent from its first zero byte on.

        Raises LinkError if the line is lost. However it ends, the session is closed.
        """
        frames = b""
        lost: LinkError | None = None
        try:
            async with self._tasks:
                deaf = self._service.notices.listen(self._notice)
                try:
                    frames = await self._listen()
                finally:
                    deaf()
                if frames and self._delivery is not None:
                    self._delivery.cancel()
        except* LinkError as errors:
            lost = LinkError(str(errors.exceptions[0]))
        finally:
            self._service.close(self._session)
        if lost:
            raise lost
        return frames

    async def _listen(self) -> bytes:
        """Serve lines; what the peer has sent from its first zero byte on, if there is one."""
        self._deadline = asyncio.get_running_loop().time() + self._patience
        while data := await self._read():
            data, zero, frames = data.partition(b"\0")
            for event in self._lines.receive(data):
                await self._handle(event)
                if self.refused >= MAX_WRONG:
                    log.info("%s: closed after %d wrong tokens", self._session, self.refused)
                    return b""
                self._touch()
            if zero:
                return zero + frames
        for event in self._lines.receive_end():
            await self._handle(event)
        return b""

    def _notice(self, text: str) -> None:
        # A sketch would take any line for its answer.
        if self._known and self._priority is not Priority.DEVICE:
            self._tasks.create_task(self._write_status(text))

    async def _write_status(self, text: str) -> None:
        await self._wire.write(self._lines.status(text))

    @property
    def _patience(self) -> float:
        return self._idle if self._known else self._handshake or self._idle

    async def _read(self) -> bytes:
        while True:
            try:
                async with asyncio.timeout_at(self._deadline if self._patience else None):
                    return await self._wire.read()
            except TimeoutError:
                if self._answer is None and asyncio.get_running_loop().time() >= self._deadline:
                    missing = "line" if self._known else "token"
                    notice = f"closed: no {missing} for {self._patience:g} s"
                    self._lines.drop()
                    await self._wire.write(self._lines.status(notice))
                    return b""
                if self._answer is not None:
                    self._touch()

    def _touch(self) -> None:
        if self._known:  # strangers don't get more time by talking
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
            case Command("auth", token):
                return self._authenticate(token)
            case _ if not self._known:
                return lines.error(AUTH)
            case Question(text):
                if self._answer is not None:
                    raise BusyError(1, RETRY_MS)
                self._answer = self._service.ask(
                    self._session, text, self._priority, adapter=self._adapter
                )
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

    def _authenticate(self, token: str) -> bytes:
        if self._secret is not None and not hmac.compare_digest(token.encode(), self._secret):
            self.refused += 1
            return self._lines.error(AUTH)
        self._known = True
        return self._lines.status("welcome")

    def _stop(self, answer: Answer) -> None:
        self._stopped = True
        answer.stop()

    async def _deliver(self, answer: Answer) -> None:
        try:
            done: Done | None = None
            async for event in answer:
                if isinstance(event, Text):
                    await self._send(event.text)
                elif isinstance(event, Done):
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
