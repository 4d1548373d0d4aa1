"""Both ends of a link in virtual time, with a service that answers from a script."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from line_simulator import Line

from edgellm.link.device import Device
from edgellm.link.events import Called, Event, Piece
from edgellm.link.host import Host
from edgellm.link.messages import (
    Accept,
    Ask,
    Call,
    Chunk,
    Failed,
    Finished,
    Hello,
    Message,
    New,
    Result,
    Stop,
    Taken,
    Tools,
)

AHEAD = 2048
"""Bytes of an answer that wait in the link; what is generated later waits for room."""
POLL = 0.02
"""Seconds between two looks whether an unplugged line is there again."""
LETTERS = "abcdefgh ijklmn\nopqrstuvwxyz äöüß€中文🙂\0"


def letters(seed: int, nbytes: int) -> str:
    """A text of so many bytes in UTF-8, or a few less."""
    some = random.Random(seed)
    text = "".join(some.choice(LETTERS) for _ in range(nbytes))
    return text.encode()[:nbytes].decode(errors="ignore")


@dataclass
class Session:
    """What the service remembers, whatever becomes of lines."""

    questions: dict[int, str] = field(default_factory=dict)
    taken: list[int] = field(default_factory=list)
    tools: list[Any] = field(default_factory=list)
    results: dict[int, tuple[str, object]] = field(default_factory=dict)
    forgotten: int = 0


@dataclass
class Scripted:
    """The service: every question has one answer, `answer(text)`."""

    answer: Callable[[str], str]
    call: Callable[[str], Mapping[str, Any] | None] = lambda text: None
    """Name and arguments of the tool that is called before a question's answer."""
    sessions: dict[bytes, Session] = field(default_factory=dict)
    generated: int = 0

    def enter(self, token: bytes) -> tuple[bytes, bool]:
        if token in self.sessions:
            return token, True
        token = len(self.sessions).to_bytes(8, "big")
        self.sessions[token] = Session()
        return token, False


class HostEnd:
    """The service's end of a line; whenever the line has been unplugged it has a new connection."""

    def __init__(
        self, service: Scripted, line: Line, baud: float | None, secret: bytes | None = None
    ) -> None:
        self.service = service
        self.deaf = False
        """Whether it is gone: nothing is read, nothing written."""
        self._line = line
        self._new = lambda: Host(secret, baud)
        self._down = False
        self.restart()

    def restart(self) -> None:
        """Another connection."""
        self.host = self._new()
        self._session = Session()
        self._answer = ""
        self._number = 0
        self._at = 0  # of the answer's bytes, to be sent next; -1: none

    def receive(self, data: bytes, now: float) -> list[Message]:
        if self.deaf:
            return []
        messages = []
        for message in self.host.receive(data, now):
            self._handle(message)
            messages.append(message)
        return messages

    def _handle(self, message: Message) -> None:
        link, session = self.host.link, self._session
        match message:
            case Hello():
                token, resumed = self.service.enter(message.token)
                self._session = self.service.sessions[token]
                self._number = 0
                self.host.welcome(message, token, resumed)
            case Ask(number, got, text):
                if number not in session.questions:
                    if text is None:
                        link.send(Failed(number, "unknown", "no such question"))
                        return
                    session.questions[number] = text
                    self.service.generated += 1
                question = session.questions[number]
                self._answer, self._number, self._at = self.service.answer(question), number, got
                link.send(Accept(number, got))
                self._ask_tool()
            case Taken(number):
                session.taken.append(number)
            case Tools(tools):
                session.tools = tools
            case Result(number, status, value):
                assert session.results.setdefault(number, (status, value)) == (status, value)
            case Stop(number) if number == self._number:
                self._answer = self._answer.encode()[: self._at].decode()
            case New():
                session.forgotten += 1

    def _ask_tool(self) -> None:
        wanted = self.service.call(self._session.questions[self._number])
        if wanted and self._number not in self._session.results:
            self.host.link.send(Call(self._number, wanted["name"], wanted["arguments"], 1000))

    def _waits(self) -> bool:
        """For a tool's result."""
        wanted = self.service.call(self._session.questions[self._number])
        return bool(wanted) and self._number not in self._session.results

    def _pump(self) -> None:
        link = self.host.link
        answer = self._answer.encode()
        while self._number and link.waiting < AHEAD and not self._waits():
            rest = answer[self._at : self._at + 256].decode(errors="ignore")
            if not rest:
                total, crc = len(answer), zlib.crc32(answer)
                link.send(Finished(self._number, total, "stop", total // 4, 1, crc))
                self._number = 0
                return
            link.send(Chunk(self._at, rest))
            self._at += len(rest.encode())

    def output(self, now: float) -> bytes:
        if self._line.unplugged(now) != self._down:
            self._down = not self._down
            self.restart()
        if self._down or self.deaf:
            return b""
        if self.host.open:
            self._pump()
        return self.host.link.output(now)

    def deadline(self) -> float | None:
        return None if self._down or self.deaf else self.host.link.deadline()


class DeviceEnd:
    """The device's end of a line; it notices when the line is unplugged, unless it's `blind`."""

    def __init__(self, device: Device, line: Line, blind: bool = False) -> None:
        self.device = device
        self.pieces: list[str] = []
        self.events: list[Event] = []
        self._line = line
        self._blind = blind
        self._down = True
        self._now = 0.0

    def receive(self, data: bytes, now: float) -> list[Event]:
        events = self.device.receive(data, now)
        for event in events:
            match event:
                case Piece(text):
                    self.pieces.append(text)
                case Called():
                    self.device.result(event.number, True, dict(event.arguments))
        self.events += [event for event in events if not isinstance(event, Piece)]
        return events

    def output(self, now: float) -> bytes:
        self._now = now
        down = self._line.unplugged(now) and not self._blind
        if down != self._down:
            self._down = down
            if down:
                self.device.lost()
            else:
                self.device.connected(now)
        return self.device.output(now)

    def deadline(self) -> float | None:
        when = self.device.deadline()
        if self._down:
            return self._now + POLL
        return when
