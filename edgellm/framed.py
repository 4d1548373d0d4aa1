"""One peer in frame mode: carries its messages from a wire to the service, and answers back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgellm.channel import Priority, Service
from edgellm.delivery import INTERNAL, QUEUE, Delivery, failed
from edgellm.errors import EdgeError, LinkError, PeerError, UsageError
from edgellm.link.host import Host
from edgellm.link.messages import (
    Ask,
    Failed,
    Hello,
    Message,
    New,
    Note,
    Ping,
    Pong,
    Result,
    StatusQuery,
    StatusReport,
    Stop,
    Taken,
    Tools,
    pack,
)
from edgellm.tools.tool import Tool

if TYPE_CHECKING:
    from edgellm.connection import Wire

log = logging.getLogger(__name__)

UNSAVED = "history isn't being saved"

MAX_WRONG = 3
"""Wrong tokens, or macs, after which a connection is ended."""

MAX_WAITING = 3 * QUEUE
"""Bytes that wait for a peer only if it asks and asks, and takes nothing."""

RETRY_MS = 1000
"""When to say hello again after an error that tells no time of its own."""

BAD_PAUSE = 1.0
"""Seconds from one complaint about the peer's messages to the next."""


class Framed:
    """Serves one peer's questions, one answer at a time, whatever the line does.

    When the line is lost the session is left, not closed: its answer goes on, and is told from
    where the peer has it when it comes back. If that's on another line, this one is ended.
    """

    def __init__(
        self,
        wire: Wire,
        service: Service,
        name: str,
        *,
        secret: bytes | None = None,
        handshake: float = 0,
        idle: float = 0,
        priority: Priority = Priority.DEVICE,
        baud: float | None = None,
        adapter: str | None = None,
    ) -> None:
        """`name` is the line's, for the log; `adapter`, that of questions that choose none.
        `handshake` is how many seconds may pass until the peer is welcome; `idle`, how many without
        a frame from it, unless it waits for its answer; 0: any number. `baud`: see Reliable."""
        self._host = Host(secret, baud)
        self._wire = wire
        self._service = service
        self._name = name
        self._handshake = handshake
        self._idle = idle
        self._priority = priority
        self._adapter = adapter
        self._session: str | None = None
        self._noted = False  # that history isn't saved
        self._deaf: Callable[[], None] | None = None  # ends the notices
        self._delivery: Delivery | None = None
        self._delivering: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._tasks = asyncio.TaskGroup()
        self._wake = asyncio.Event()  # something to write, or another time to do so
        self._since = 0.0  # when the peer last began to be waited for
        self._bad = 0  # peer's mistakes that have been looked at
        self._complained = -math.inf

    @property
    def refused(self) -> int:
        """How many wrong macs have come."""
        return self._host.refused

    async def run(self, data: bytes = b"") -> None:
        """Serve until the peer ends its side, goes idle, has sent too many wrong macs, or comes
        back on another line. `data` is what it has sent already.

        Raises LinkError if the line is lost.
        """
        lost: LinkError | None = None
        try:
            async with self._tasks as tasks:
                writing = tasks.create_task(self._write())
                self._listening = tasks.create_task(self._listen(data))
                del data
                await asyncio.wait([self._listening])
                self._drop()
                writing.cancel()
        except* LinkError as errors:
            lost = LinkError(str(errors.exceptions[0]))
        finally:
            self._leave()
        if lost:
            raise lost

    # The line

    async def _listen(self, data: bytes) -> None:
        self._since = _now()
        taking = self._take(data)
        del data  # it would take room until more comes
        await taking
        while self.refused < MAX_WRONG:
            if not await self._take(await self._read()):
                return
        log.info("%s: closed after %d wrong macs", self._name, self.refused)
        await self._wire.write(self._host.link.output(_now()))

    async def _take(self, data: bytes) -> bool:
        """Do what the peer has sent; False if that is nothing."""
        for message in self._host.receive(data, _now()):
            waiting = self._host.link.waiting
            await self._handle(message)
            if self._host.link.waiting > max(waiting, MAX_WAITING):
                raise LinkError("the peer asks and asks, but takes none of what it's told")
        self._complain()
        if self._host.link.stuck:
            self._turn_away("say hello again, the line has become worse")
        self._wake.set()
        if self._delivery is not None:
            self._delivery.look_for_room()
        return bool(data)

    async def _read(self) -> bytes:
        """What comes next; nothing at the end, or when a deadline has passed."""
        while True:
            try:
                async with asyncio.timeout_at(self._deadline()):
                    return await self._wire.read()
            except TimeoutError:
                if self._delivery is not None and not self._host.link.waiting:
                    self._since = _now()  # it's the peer who waits
                elif (deadline := self._deadline()) is not None and deadline <= _now():
                    log.info("%s: closed, nothing has come in time", self._name)
                    return b""

    def _deadline(self) -> float | None:
        since, patience = self._since, self._idle
        if self._host.open:
            since = max(since, self._host.link.heard)
        else:  # strangers don't get more time by talking
            patience = self._handshake or patience
        return since + patience if patience else None

    async def _write(self) -> None:
        host = self._host
        while True:
            if data := host.link.output(_now()):
                await self._wire.write(data)
                continue
            self._wake.clear()
            try:
                async with asyncio.timeout_at(host.link.deadline()):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _send(self, message: Message) -> None:
        self._host.link.send(message)
        self._wake.set()

    # Sessions

    def _enter(self, hello: Hello) -> None:
        self._leave()
        try:
            entry = self._service.enter(hello.token or None, self._lose)
        except EdgeError as error:
            told = failed(0, error)
            self._turn_away(told.text, told.retry_ms or RETRY_MS, told.place)
            return
        except Exception:
            log.exception("%s: entering failed", self._name)
            self._turn_away(INTERNAL, RETRY_MS)
            return
        self._session = entry.session
        self._host.welcome(hello, entry.token, entry.resumed)
        log.info("%s: %r is in %s", self._name, hello.name, entry.session)
        self._deaf = self._service.notices.listen(self._note)

    def _turn_away(self, reason: str, retry_ms: int = 0, place: int = 0) -> None:
        self._leave()
        self._host.turn_away(reason, retry_ms, place)
        self._since = _now()

    def _leave(self) -> None:
        """The peer has gone, or begins anew."""
        self._drop()
        session, self._session = self._session, None
        self._noted = False
        if self._deaf is not None:
            self._deaf()
            self._deaf = None
        if session is not None:
            self._service.leave(session)

    def _lose(self) -> None:
        """The peer has come back on another line."""
        self._session = None
        self._drop()
        if self._listening is not None:
            self._listening.cancel()

    def _drop(self) -> None:
        """Deliver no more of the answer; it goes on."""
        if self._delivering is not None:
            self._delivering.cancel()
        self._delivery = self._delivering = None

    # Messages

    async def _handle(self, message: Message) -> None:
        number = message.id if isinstance(message, Ask) else 0
        try:
            await self._obey(message)
        except EdgeError as error:
            self._fail(number, error)
        except Exception:
            log.exception("%s: %s failed", self._name, type(message).__name__)
            self._send(Failed(number, "internal", INTERNAL))

    async def _obey(self, message: Message) -> None:
        if isinstance(message, Hello):
            self._enter(message)
            return
        session = self._session
        if session is None:  # came together with what ended it
            return
        match message:
            case Ask():
                await self._ask(session, message)
            case Stop(number):
                if self._delivery is not None and self._delivery.number == number:
                    self._delivery.stop()
            case Taken(number):
                self._service.taken(session, number)
            case Result(number, status, value):
                if self._delivery is not None:
                    self._delivery.result(number, status == "ok", value)
            case Tools(tools):
                await self._declare(session, tools)
            case New():
                self._service.forget(session)
            case StatusQuery():
                self._report()
            case Ping() | Pong():
                pass
            case _:
                raise PeerError(f"{type(message).__name__} is for devices")

    async def _ask(self, session: str, ask: Ask) -> None:
        options = dict(ask.options or {})
        deadline = options.pop("deadline", None)
        tokens = options.pop("max_tokens", None)
        schema = options.pop("schema", None)
        adapter = options.pop("adapter", None)
        if options:
            raise PeerError(f"unknown option {next(iter(options))[:40]!r} of a question")
        if deadline is not None and not (_is_number(deadline) and deadline > 0):
            raise PeerError("a question's deadline must be seconds, more than 0")
        if tokens is not None and not (type(tokens) is int and tokens > 0):
            raise PeerError("a question's max_tokens must be a whole number, 1 or more")
        if schema is not None and not isinstance(schema, dict):
            raise PeerError("a question's schema must be a map")
        if adapter is not None and not isinstance(adapter, str):
            raise PeerError("a question's adapter must be a text")
        await self._service.prepare(session, schema=schema)
        answer = self._service.ask(
            session,
            ask.text,
            self._priority,
            deadline,
            number=ask.id,
            max_tokens=tokens,
            schema=schema,
            adapter=self._adapter if adapter is None else adapter,
        )
        self._drop()
        self._delivery = Delivery(
            self._host.link,
            ask,
            answer,
            wake=self._wake.set,
            unsaved=self._tell_unsaved,
            line=self._name,
        )
        self._delivering = self._tasks.create_task(self._deliver(self._delivery))

    async def _deliver(self, delivery: Delivery) -> None:
        await delivery.run()
        self._delivery = self._delivering = None

    def _tell_unsaved(self) -> None:
        if not self._noted:
            self._noted = True
            self._send(Note(UNSAVED))

    def _note(self, text: str) -> None:
        if self._session is not None:
            with contextlib.suppress(LinkError):  # a peer that takes nothing is given up elsewhere
                self._send(Note(text))

    async def _declare(self, session: str, tools: list[object]) -> None:
        try:
            checked = [Tool.check(tool) for tool in tools]
            await self._service.prepare(session, checked)
            self._service.declare(session, checked)
        except UsageError as error:
            self._send(Failed(0, "tools", str(error)))

    def _report(self) -> None:
        """As much of the status as the peer has room for."""
        status = {
            name: value if isinstance(value, int | float | str) else str(value)
            for name, value in self._service.status().items()
        }
        room = self._host.link.peer_room
        while len(pack(StatusReport(status))[1]) > room:
            status.popitem()
        self._send(StatusReport(status))

    def _fail(self, number: int, error: EdgeError) -> None:
        if isinstance(error, PeerError) and not number:
            self._host.link.peer_errors += 1
            self._host.link.peer_error = error
        else:
            self._send(failed(number, error))

    def _complain(self) -> None:
        """Tell the peer of a mistake that it has made, but not of all that a broken one makes."""
        link, now = self._host.link, _now()
        if link.peer_errors > self._bad and now > self._complained + BAD_PAUSE:
            self._complained = now
            log.info("%s: %s", self._name, link.peer_error)
            if self._host.open:
                self._send(Failed(0, "bad", str(link.peer_error)))
            else:
                self._send(Failed(0, "hello", str(link.peer_error), RETRY_MS))
        self._bad = link.peer_errors


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _now() -> float:
    return asyncio.get_running_loop().time()
