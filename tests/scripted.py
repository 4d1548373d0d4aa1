"""A service whose answers a test writes down, and a wire that a test holds the other end of."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from edgellm.channel import Call, Done, Entry, Priority, Text
from edgellm.errors import BusyError, EdgeError, LinkError, StaleError, UnknownError
from edgellm.notices import Notices

if TYPE_CHECKING:
    from edgellm.tools.tool import Tool

HOLD = object()
"""In a script: the answer pauses here until it is stopped or `ScriptedService.release` is set."""

Script = Callable[[str], Iterable[object]]


def echo(text: str) -> list[object]:
    return list(text)


class ScriptedAnswer:
    """Implements `edgellm.channel.Answer`: plays a script as fast as the event loop turns."""

    def __init__(self, service: ScriptedService, pieces: Iterable[object]) -> None:
        self.service = service
        self.results: dict[int, tuple[bool, object]] = {}
        self.stopped = asyncio.Event()
        self._log: list[Text | Call | Done | EdgeError] = []
        self._given = 0  # of the log, to any listener
        self._listener: object = None
        self._news = asyncio.Event()
        self._playing = asyncio.create_task(self._play(pieces))

    @property
    def text(self) -> str:
        return "".join(event.text for event in self._log if isinstance(event, Text))

    @property
    def ended(self) -> bool:
        return bool(self._log) and isinstance(self._log[-1], Done | EdgeError)

    async def _play(self, pieces: Iterable[object]) -> None:
        for piece in pieces:
            await asyncio.sleep(0)
            if piece is HOLD:
                self.service.held.set()
                await self.service.release.wait()
            elif isinstance(piece, float):
                await asyncio.sleep(piece)
            elif isinstance(piece, Call):
                self._tell(piece)
                while piece.number not in self.results and not self.ended:
                    await self._news.wait()
            elif not self.ended:
                self._tell(piece if isinstance(piece, EdgeError) else Text(str(piece)))
            if self.ended:
                return
        self._tell(self._done("stop"))

    def _done(self, reason: str) -> Done:
        return Done(reason, len(self._log), 1, 0, 0.0, 0.5)

    def _tell(self, *events: Text | Call | Done | EdgeError) -> None:
        self._log += events
        self._news.set()
        self._news = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[Text | Call | Done]:
        return self.listen(0)

    async def listen(self, offset: int) -> AsyncIterator[Text | Call | Done]:
        me = self._listener = object()
        self._tell()
        index = 0
        while self._listener is me:
            if index == len(self._log):
                await self._news.wait()
                continue
            event = self._log[index]
            index += 1
            self._given = max(self._given, index)
            if isinstance(event, EdgeError):
                raise event
            if isinstance(event, Done):
                yield event
                return
            if isinstance(event, Call):
                if event.number not in self.results:
                    yield event
                continue
            text = event.text.encode()
            if offset < len(text):
                yield Text(text[offset:].decode(errors="ignore"))
            offset = max(0, offset - len(text))

    def result(self, number: int, ok: bool, value: object) -> None:
        self.results.setdefault(number, (ok, value))
        self._tell()

    async def saved(self) -> bool:
        await self.service.saving.wait()
        return self.service.keeps

    def stop(self) -> None:
        ended = self.ended
        taken = ended and self._given == len(self._log)
        failed = ended and isinstance(self._log[-1], EdgeError)
        if not taken and not failed:
            del self._log[self._given :]
            self._tell(self._done("cancel"))
        self.stopped.set()


class ScriptedService:
    """Implements `edgellm.channel.Service`. In a script a number is a pause in seconds, an
    EdgeError ends the answer at its place, a Call waits for its result; a script that raises
    refuses the question."""

    def __init__(self, script: Script = echo, continues: bool = False) -> None:
        self.script = script
        self.continues = continues
        self.release = asyncio.Event()
        self.held = asyncio.Event()
        self.preparing = asyncio.Event()
        self.prepared = asyncio.Event()
        self.prepared.set()
        self.saving = asyncio.Event()
        self.saving.set()
        self.keeps = True
        self.asked: list[tuple[str, str]] = []
        self.options: list[dict[str, object]] = []
        self.priorities: list[Priority] = []
        self.answers: list[ScriptedAnswer] = []
        self.forgotten: list[str] = []
        self.closed: list[str] = []
        self.closing = asyncio.Event()
        self.notices = Notices()
        self.entered: list[Entry] = []
        self.left: list[str] = []
        self.taking: list[tuple[str, int]] = []
        self.tools: dict[str, list[Tool]] = {}
        self._names = itertools.count(1)
        self._tokens: dict[bytes, str] = {}
        self._lost: dict[str, Callable[[], None]] = {}
        self._numbered: dict[str, dict[int, ScriptedAnswer]] = {}
        self._newest: dict[str, int] = {}

    def enter(self, token: bytes | None, lost: Callable[[], None]) -> Entry:
        session = self._tokens.get(token or b"")
        resumed = session is not None
        if session is None:
            number = next(self._names)
            session, token = f"session {number}", number.to_bytes(8, "big")
            self._tokens[token] = session
        if leave := self._lost.pop(session, None):
            leave()
        self._lost[session] = lost
        entry = Entry(session, token or b"", resumed)
        self.entered.append(entry)
        return entry

    def ask(
        self,
        session: str,
        text: str | None,
        priority: Priority = Priority.PERSON,
        deadline_s: float | None = None,
        *,
        number: int | None = None,
        max_tokens: int | None = None,
        schema: Mapping[str, object] | None = None,
        adapter: str | None = None,
    ) -> ScriptedAnswer:
        numbered = self._numbered.setdefault(session, {})
        if number in numbered:
            return numbered[number]
        if number is not None and number <= self._newest.get(session, 0):
            raise StaleError(f"question {number} is no longer kept")
        if text is None:
            raise UnknownError(f"there is no question {number}")
        if any(not one.ended for one in numbered.values()):
            raise BusyError(0, 500)
        answer = ScriptedAnswer(self, self.script(text))
        if number is not None:
            numbered[number] = answer
            self._newest[session] = number
        self.asked.append((session, text))
        options = {"deadline_s": deadline_s, "max_tokens": max_tokens, "schema": schema}
        options["adapter"] = adapter
        self.options.append({name: value for name, value in options.items() if value is not None})
        self.priorities.append(priority)
        self.answers.append(answer)
        return answer

    def taken(self, session: str, number: int) -> None:
        self.taking.append((session, number))
        self._numbered.get(session, {}).pop(number, None)

    async def prepare(
        self, session: str, tools: Sequence[Tool] = (), schema: Mapping[str, object] | None = None
    ) -> None:
        self.preparing.set()
        await self.prepared.wait()

    def declare(self, session: str, tools: Sequence[Tool]) -> None:
        self.tools[session] = list(tools)

    def forget(self, session: str) -> None:
        self.forgotten.append(session)
        for answer in self._numbered.get(session, {}).values():
            answer.stop()

    def leave(self, session: str) -> None:
        self.left.append(session)
        del self._lost[session]

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
