"""A device in Python: asks a service over a line or a socket, and is called back by the model.

    async with Client("serial:///dev/ttyACM0?baud=115200", tools=[(Tool(...), function)]) as client:
        async for piece in client.ask("Is it too warm in here?"):
            print(piece, end="")

URLs are those of `edgellm serve`: serial:///dev/ttyACM0 and pyserial's, tcp://host:port,
unix:///path. A line that isn't there yet is waited for; one that is lost is opened again, and the
answer goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import NoReturn, TypeVar

from edgellm.connection import Wire
from edgellm.errors import (
    BusyError,
    ContextError,
    EdgeError,
    ExpiredError,
    LinkError,
    UsageError,
)
from edgellm.link.device import Device
from edgellm.link.events import (
    Answered,
    Called,
    Event,
    Linked,
    Piece,
    Refused,
    Remark,
    Status,
)
from edgellm.tools.tool import Tool
from edgellm.tools.toolbox import Function, Toolbox
from edgellm.wire.opener import ClosableWire, opener, trouble_of

RETRY = 0.2
"""Seconds between two attempts to open a line."""
FAREWELL = 0.5
"""Seconds that the service may take to hear the last of us."""
MAX_GREETING = 512
"""Bytes looked at for a refusal in plain text, before the first frame."""

T = TypeVar("T")


class Client:
    """One session with a service, one question at a time."""

    def __init__(
        self,
        url: str,
        *,
        name: str = "",
        secret: bytes | None = None,
        tools: Iterable[tuple[Tool, Function]] = (),
        tell: Callable[[str], None] = lambda text: None,
        watch: Callable[[bool, bytes], None] = lambda ours, data: None,
    ) -> None:
        """`tell` is told, a line at a time, what a person at the device should know. `watch` sees
        all bytes, ours and the service's. Raises UsageError for a URL, a name or tools that can't
        be used."""
        self.url = url
        self.done: Answered | None = None
        """Of the last answer that came whole."""
        self._open, baud = opener(url)
        self._toolbox = Toolbox(tools)
        declared = [tool.declaration() for tool in self._toolbox.tools]
        try:
            self._device = Device(name, secret=secret, tools=declared, baud=baud)
        except ValueError as error:
            raise UsageError(f"this device can't be announced: {error}") from error
        self._tell = tell
        self._watch = watch
        self._greeting: bytearray | None = None  # what comes before the first frame
        self._events: asyncio.Queue[Event] = asyncio.Queue()  # of the question
        self._reports: list[asyncio.Future[Mapping[str, object]]] = []
        self._wake = asyncio.Event()
        self._linked = False  # the service has welcomed us on this line
        self._failure: EdgeError | None = None
        self._pause = RETRY  # before the line is opened again
        self._running: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Client:
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._running is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                while self._device.linked and self._device.link.waiting:
                    await asyncio.sleep(0.01)
        for task in (self._running, *self._calls):
            task.cancel()
        await asyncio.wait([self._running, *self._calls])
        if not self._running.cancelled() and not isinstance(self._running.exception(), EdgeError):
            self._running.result()  # a bug

    async def ask(
        self,
        text: str,
        *,
        deadline_s: float | None = None,
        max_tokens: int | None = None,
        schema: Mapping[str, object] | None = None,
        adapter: str | None = None,
    ) -> AsyncIterator[str]:
        """Yields the answer's pieces as they come, each once, however often the line fails.

        The options are those of `edgellm.channel.Service.ask`. Leaving the iteration stops the
        answer. Raises BusyError, ContextError, ExpiredError or UsageError as the service refuses,
        LinkError if it wants a secret that isn't ours or the answer is lost.
        """
        while self._device.asking:  # one that was left: its end is on the way
            await self._event()
        while not self._events.empty():
            await self._event()
        number = self._device.ask(
            text, deadline=deadline_s, max_tokens=max_tokens, schema=schema, adapter=adapter
        )
        self._wake.set()
        try:
            while True:
                match event := await self._event():
                    case Piece(piece):
                        yield piece
                    case Answered():
                        self.done = event
                        return
                    case Refused() if event.number in (number, 0):
                        _refuse(event)
        finally:
            self.stop()

    def stop(self) -> None:
        """End the answer as far as it has come."""
        self._device.stop()
        self._wake.set()

    def new(self) -> None:
        """Forget the conversation when the next question is put."""
        self._device.new()

    async def status(self) -> Mapping[str, object]:
        """Model, sessions, queue and speed of the service."""
        report: asyncio.Future[Mapping[str, object]] = asyncio.get_running_loop().create_future()
        self._reports.append(report)
        self._device.query()
        self._wake.set()
        return await self._while_running(report)

    async def _event(self) -> Event:
        """The next one of the question. Raises what has ended the client."""
        return await self._while_running(self._events.get())

    async def _while_running(self, wanted: Awaitable[T]) -> T:
        assert self._running is not None, "the client is used by `async with`"
        waiting = asyncio.ensure_future(wanted)
        try:
            await asyncio.wait({waiting, self._running}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                await self._running
            return waiting.result()
        finally:
            waiting.cancel()

    # The line

    async def _run(self) -> None:
        """Keep a line open. Raises what makes that useless."""
        told = ""
        while self._failure is None:
            try:
                wire = await self._open()
            except Exception as error:  # pyserial's handlers let through what they stumble over
                trouble = f"{self.url}: {trouble_of(error)}; waiting for it"
                if trouble != told:
                    told = trouble
                    self._tell(trouble)
                await asyncio.sleep(RETRY)
                continue
            self._pause = RETRY
            try:
                await self._talk(wire)
            except LinkError as error:
                trouble = f"{self.url}: {error}; coming back"
                if trouble != told or self._linked:
                    told = trouble
                    self._tell(trouble)
            finally:
                self._device.lost()
                await wire.close()
            if self._failure is None:
                await asyncio.sleep(self._pause)
        raise self._failure

    async def _talk(self, wire: ClosableWire) -> None:
        """Carry bytes until the line is lost, which raises LinkError, or a failure."""
        loop = asyncio.get_running_loop()
        self._greeting = bytearray()
        self._linked = False
        self._device.connected(loop.time())
        reading = asyncio.create_task(self._read(wire))
        try:
            while not reading.done() and self._failure is None:
                self._wake.clear()
                if data := self._device.output(loop.time()):
                    self._watch(True, data)
                    await wire.write(data)
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self._device.deadline()):
                        await self._wake.wait()
        finally:
            reading.cancel()
            await asyncio.wait([reading])
        if not reading.cancelled():
            reading.result()

    async def _read(self, wire: Wire) -> None:
        try:
            while data := await wire.read():
                self._watch(False, data)
                self._greet(data)
                for event in self._device.receive(data, asyncio.get_running_loop().time()):
                    self._handle(event)
                self._wake.set()
            raise LinkError("closed at the other end")
        finally:
            self._wake.set()

    def _greet(self, data: bytes) -> None:
        """Before it knows that we speak in frames, a service refuses in a line of text."""
        if self._greeting is None:
            return
        text, frames, _ = data.partition(b"\0")
        self._greeting += text
        if refusal := re.search(rb"(?:^|\n)! ([^\r\n]*)\r?\n", self._greeting[:MAX_GREETING]):
            reason = refusal[1].decode(errors="replace")
            if busy := re.fullmatch(r"busy (\d{1,9}) (\d{1,9})", reason):
                self._handle(Refused(0, "busy", reason, int(busy[2]), int(busy[1])))
            elif reason.startswith("auth"):
                self._handle(Refused(0, "auth", reason))
            self._greeting = None
        elif frames or len(self._greeting) > MAX_GREETING:
            self._greeting = None

    def _handle(self, event: Event) -> None:
        match event:
            case Linked():
                self._linked = True
                if not event.resumed:
                    for call in self._calls:  # another conversation's
                        call.cancel()
            case Remark(text):
                self._tell(text)
            case Status(status):
                for report in self._reports:
                    if not report.done():
                        report.set_result(status)
                self._reports.clear()
            case Called():
                call = asyncio.create_task(self._call(event))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            case Refused(0, "auth", text):
                self._fail(LinkError(f"{self.url}: {text}"))
            case Refused(0, "tools", text):
                self._fail(UsageError(f"the service refuses the tools: {text}"))
            case Refused(0, "busy"):
                self._pause = event.retry_ms / 1000
                self._events.put_nowait(event)
            case Refused(0, _, text):
                self._tell(text)
            case _:
                self._events.put_nowait(event)

    def _fail(self, error: EdgeError) -> None:
        """There is no use in trying on."""
        self._failure = error
        self._wake.set()

    async def _call(self, called: Called) -> None:
        ok, value = await self._toolbox.call(called.name, called.arguments, called.deadline_s)
        self._device.result(called.number, ok, value)
        self._wake.set()


def _refuse(refused: Refused) -> NoReturn:
    match refused.code:
        case "busy":
            raise BusyError(refused.place, refused.retry_ms)
        case "toolong":
            raise ContextError(refused.text)
        case "deadline":
            raise ExpiredError(refused.text)
        case "bad":
            raise UsageError(refused.text)
        case _:
            raise LinkError(f"{refused.code}: {refused.text}")
