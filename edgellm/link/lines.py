"""Line mode of the link, for people and simple sketches: bytes in, events out; text in, bytes out.

From the peer, UTF-8 lines ended by LF, CR or CRLF:

    what is a lamp?         a question; a blank line is ignored, or asks a model that only
                            goes on with raw text to begin one
    /stop                   a command, see COMMANDS (a space before it makes it a question)

To the peer:

    any text                an answer, streamed, then one LF that isn't part of it
    # anything              a status line
    ! busy PLACE MS         refused: the place in the queue, when to ask again
    ! anything              what went wrong with the question or the command

Status and error lines never split a line of an answer: they wait for its next line break or its
end. After `/dot on` an answer is followed by a line with a single dot, and a line of the answer
that begins with a dot gets a second one in front (as in RFC 5321, section 4.5.2), so that a sketch
knows the end. A zero byte is never sent; one that comes in begins a frame where frames are spoken
(`edgellm.connection` sees to that), and is dropped like other noise where they aren't.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgellm.errors import BusyError, EdgeError

MAX_LINE = 16 * 1024
"""Bytes of a line: about 4,000 tokens, and little enough for hundreds of peers on a small board."""

MAX_WAITING = 32
"""Lines held back while a line of the answer is open; a peer that asks for more loses them."""

MAX_MESSAGE = 400
"""Characters of a status or error line; sketches have small buffers."""


@dataclass(frozen=True, slots=True)
class Question:
    """A user's turn."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command with a valid argument."""

    name: str
    argument: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that is neither; `reason` is for the peer."""

    reason: str


Event = Question | Command | Rejected


@dataclass(frozen=True, slots=True)
class Usage:
    """How a command is written."""

    argument: str
    pattern: str
    meaning: str


COMMANDS = {
    "new": Usage("", "", "forget the conversation and begin anew"),
    "stop": Usage("", "", "stop the answer"),
    "status": Usage("", "", "model, heat, sessions, queue and speed"),
    "dot": Usage("on|off", "on|off", "end each answer with a line that holds a single dot"),
    "rate": Usage("N", "[0-9]{1,6}", "send at most N characters a second; 0: no limit"),
    "auth": Usage("TOKEN", ".+", "say the secret, where one is asked for"),
    "help": Usage("", "", "this list"),
}


def parse(line: str, commands: dict[str, Usage] = COMMANDS, blank: bool = False) -> Event | None:
    """Read one line without its ending; None for a blank one, unless `blank` makes it a question.

    Backspaces erase, other control characters are dropped: a terminal without echo sends the
    former, noise on a line the latter.
    """
    text = _typed(line)
    if not text.strip():
        return Question(text) if blank else None
    if not text.startswith("/"):
        return Question(text)
    name, _, argument = text[1:].rstrip().partition(" ")
    usage = commands.get(name)
    if usage is None:
        return Rejected(f"unknown command /{name[:40]}; /help lists the commands")
    if not re.fullmatch(usage.pattern, argument.strip()):
        return Rejected(f"usage: /{name} {usage.argument}".rstrip())
    return Command(name, argument.strip())


def explain(commands: dict[str, Usage] = COMMANDS) -> list[str]:
    """The lines of `/help`."""
    heads = {name: f"/{name} {usage.argument}".rstrip() for name, usage in commands.items()}
    width = max(map(len, heads.values()))
    return [f"{heads[name]:{width}}  {usage.meaning}" for name, usage in commands.items()]


def _typed(line: str) -> str:
    if line.isprintable():
        return line
    kept: list[str] = []
    for char in line:
        if char in "\b\x7f":
            del kept[-1:]
        elif char >= " " or char == "\t":
            kept.append(char)
    return "".join(kept)


class Lines:
    """One peer's line, both ways. Every method but `receive*` returns bytes to send, in order."""

    def __init__(
        self, limit: int = MAX_LINE, commands: dict[str, Usage] = COMMANDS, blank: bool = False
    ) -> None:
        """`blank` lines are questions of no words, else they are ignored."""
        self.dot = False
        """Whether answers begun from now on end with a dot line."""
        self._limit = limit
        self._commands = commands
        self._blank = blank
        self._line = bytearray()
        self._after_return = False  # an LF that comes next belongs to a CR
        self._skipping = False  # the rest of a refused line, up to its end
        self._dotted = False
        self._begun = False  # this answer has text
        self._at_start = True  # of a line of the answer
        self._waiting: list[str] = []

    def receive(self, data: bytes) -> list[Event]:
        """Take what the peer sent, cut anywhere. Garbage becomes Rejected, never an exception."""
        events: list[Event] = []
        for piece in re.split(rb"([\r\n])", data):
            if not piece:
                continue
            after_return, self._after_return = self._after_return, piece == b"\r"
            if piece == b"\n" and after_return:
                continue
            if piece in (b"\r", b"\n"):
                events += self._end_line()
            elif self._skipping:
                continue
            elif len(self._line) + len(piece) > self._limit:
                self._line.clear()
                self._skipping = True
                events.append(Rejected(f"line longer than {self._limit} bytes"))
            else:
                self._line += piece
        return events

    def receive_end(self) -> list[Event]:
        """The peer has ended its side: what it left without a line ending counts as a line."""
        return self._end_line() if self._line or self._skipping else []

    def drop(self) -> None:
        """Forget the line that has begun: what follows is none of it."""
        self._line.clear()
        self._skipping = self._after_return = False

    def _end_line(self) -> list[Event]:
        line, self._line, skipped = self._line, bytearray(), self._skipping
        self._skipping = False
        if skipped:
            return []
        try:
            event = parse(line.decode(), self._commands, self._blank)
        except UnicodeDecodeError as error:
            event = Rejected(f"byte {error.start} of the line is not UTF-8")
        return [] if event is None else [event]

    def begin(self) -> None:
        """An answer begins."""
        self._dotted, self._begun, self._at_start = self.dot, False, True

    def text(self, text: str) -> bytes:
        """A piece of the answer. Zero characters are left out."""
        text = text.replace("\0", "")
        if not text:
            return b""
        if self._dotted:
            text = text.replace("\n.", "\n..")
            if self._at_start and text.startswith("."):
                text = "." + text
        self._begun, self._at_start = True, text.endswith("\n")
        if self._waiting and "\n" in text:
            cut = text.index("\n") + 1
            text = text[:cut] + self._release() + text[cut:]
        return text.encode(errors="replace")

    def end(self) -> bytes:
        """The answer is complete."""
        self._at_start = True
        return ("\n.\n" if self._dotted else "\n").encode() + self._release().encode()

    def fail(self, reason: str | EdgeError) -> bytes:
        """The answer cannot go on; the error line stands in place of a dot."""
        self._at_start = True
        text = ("\n" if self._begun else "") + _message("!", _said(reason)) + self._release()
        return text.encode(errors="replace")

    def status(self, text: str) -> bytes:
        """A status line."""
        return self._say(_message("#", text))

    def error(self, reason: str | EdgeError) -> bytes:
        """An error line that leaves an answer under way as it is."""
        return self._say(_message("!", _said(reason)))

    def _say(self, line: str) -> bytes:
        if self._at_start:
            return line.encode(errors="replace")
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(line)
        return b""

    def _release(self) -> str:
        lines, self._waiting = self._waiting, []
        return "".join(lines)


def _said(reason: str | EdgeError) -> str:
    if isinstance(reason, BusyError):
        return f"busy {reason.place} {reason.retry_ms}"
    return str(reason)


def _message(mark: str, text: str) -> str:
    """One line whatever `text` holds."""
    return f"{mark} {re.sub('[' + chr(0) + '-' + chr(31) + ']+', ' ', text)[:MAX_MESSAGE]}\n"
