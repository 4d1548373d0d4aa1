"""A service whose answers a test writes down, and a wire that a test holds the other end of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from edgellm.channel import Done, Text
from edgellm.errors import LinkError

HOLD = object()
"""In a script: the answer pauses here until it is stopped or `ScriptedService.release` is set."""

Script = Callable[[str], Iterable[object]]


def echo(text: str) -> list[object]:
    return list(text)


class ScriptedAnswer:
    def __init__(self, service: ScriptedService, pieces: Iterable[object]) -> None:
        self.service = service
        self.pieces = pieces
        self.stopped = asyncio.Event()
        self.ended = False

    async def __aiter__(self) -> AsyncIterator[Text | Done]:
        try:
            tokens = 0
            for piece in self.pieces:
                await asyncio.sleep(0)
                if self.stopped.is_set():
                    break
                if isinstance(piece, Exception):
                    raise piece
                if piece is HOLD:
                    self.service.held.set()
                    waits = [asyncio.ensure_future(e.wait()) for e in self.events]
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                    for wait in waits:
                        wait.cancel()
                else:
                    tokens += 1
                    yield Text(str(piece))
            reason = "cancel" if self.stopped.is_set() else "stop"
            yield Done(reason, tokens, 1, 0, 0.0, 0.0)
        finally:
            self.ended = True

    @property
    def events(self) -> list[asyncio.Event]:
        return [self.stopped, self.service.release]

    def stop(self) -> None:
        self.stopped.set()


class ScriptedService:
    """Implements `edgellm.channel.Service`. An exception in a script is raised at its place; a
    script that raises refuses the question."""

    def __init__(self, script: Script = echo) -> None:
        self.script = script
        self.release = asyncio.Event()
        self.held = asyncio.Event()
        self.asked: list[tuple[str, str]] = []
        self.answers: list[ScriptedAnswer] = []
        self.forgotten: list[str] = []
        self.closed: list[str] = []
        self.closing = asyncio.Event()

    def ask(self, session: str, text: str) -> ScriptedAnswer:
        answer = ScriptedAnswer(self, self.script(text))
        self.asked.append((session, text))
        self.answers.append(answer)
        return answer

    def forget(self, session: str) -> None:
        self.forgotten.append(session)

    def close(self, session: str) -> None:
        self.closed.append(session)
        self.closing.set()
        for (asker, _), answer in zip(self.asked, self.answers, strict=True):
            if asker == session:
                answer.stop()

    def status(self) -> dict[str, object]:
        return {"model": "scripted", "sessions": 1}


class MemoryWire:
    """A wire in memory. `say` and `hang_up` are the peer's, `sent` is what it has got."""

    def __init__(self) -> None:
        self.sent = b""
        self.reading = asyncio.Event()
        self.reading.set()
        self.broken = False
        self._input: asyncio.Queue[bytes] = asyncio.Queue()
        self._arrived = asyncio.Event()

    def say(self, data: bytes) -> None:
        self._input.put_nowait(data)

    def hang_up(self) -> None:
        self._input.put_nowait(b"")

    async def read(self) -> bytes:
        return await self._input.get()

    async def write(self, data: bytes) -> None:
        await self.reading.wait()
        if self.broken:
            raise LinkError("the peer is gone")
        self.sent += data
        self._arrived.set()

    async def until(self, end: bytes) -> bytes:
        """Wait until what the peer has got ends with `end`."""
        async with asyncio.timeout(5):
            while not self.sent.endswith(end):
                self._arrived.clear()
                await self._arrived.wait()
        return self.sent
