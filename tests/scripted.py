"""A service whose answers a test writes down, and a wire that a test holds the other end of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import SimpleNamespace

from edgellm.answer import Answer
from edgellm.channel import Done, Priority
from edgellm.errors import EdgeError, LinkError
from edgellm.generation import Piece
from edgellm.session import Session

HOLD = object()
"""In a script: the answer pauses here until it is stopped or `ScriptedService.release` is set."""

Script = Callable[[str], Iterable[object]]


def echo(text: str) -> list[object]:
    return list(text)


def finish(reason: str) -> Done:
    return Done(reason, 0, 1, 0, 0.0, 0.0)


class ScriptedAnswer(Answer):
    """A real answer that a script feeds, as fast as the event loop turns."""

    def __init__(self, service: ScriptedService, pieces: Iterable[object]) -> None:
        super().__init__(Session("scripted"), SimpleNamespace(done=finish))
        self.service = service
        self.stopped = asyncio.Event()
        self._playing = asyncio.create_task(self._play(pieces))

    async def _play(self, pieces: Iterable[object]) -> None:
        for piece in pieces:
            await asyncio.sleep(0)
            if piece is HOLD:
                self.service.held.set()
                await self.service.release.wait()
            if self.ended:
                return
            if isinstance(piece, EdgeError):
                self.fail(piece)
            elif piece is not HOLD:
                self.deliver(Piece(None, str(piece)))
        if not self.ended:
            self.deliver(Piece(None, "", finish("stop")))

    def stop(self) -> None:
        super().stop()
        self.stopped.set()


class ScriptedService:
    """Implements `edgellm.channel.Service`. An EdgeError in a script ends the answer at its place;
    a script that raises refuses the question."""

    def __init__(self, script: Script = echo, continues: bool = False) -> None:
        self.script = script
        self.continues = continues
        self.release = asyncio.Event()
        self.held = asyncio.Event()
        self.asked: list[tuple[str, str]] = []
        self.priorities: list[Priority] = []
        self.answers: list[ScriptedAnswer] = []
        self.forgotten: list[str] = []
        self.closed: list[str] = []
        self.closing = asyncio.Event()

    def ask(
        self,
        session: str,
        text: str,
        priority: Priority = Priority.PERSON,
        deadline_s: float | None = None,
    ) -> ScriptedAnswer:
        answer = ScriptedAnswer(self, self.script(text))
        self.asked.append((session, text))
        self.priorities.append(priority)
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
