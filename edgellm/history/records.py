"""History: what has happened in a session, as records that can be written down and read again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgpack

from edgellm import plain, session
from edgellm.errors import FormatError
from edgellm.session import Message
from edgellm.tools.call_form import result_text


@dataclass(frozen=True)
class Created:
    """The session begins, under a name that its token leads to."""

    name: str
    number: int = 0
    """This and what follows is as in a history, where older records were dropped."""
    call: int = 0
    time: float = 0.0


@dataclass(frozen=True)
class Declared:
    """The device's tools, as it has declared them; they replace those before."""

    tools: Sequence[object]


@dataclass(frozen=True)
class Asked:
    """A question, and all that its answer depends on. See `edgellm.channel.Service.ask`."""

    number: int
    text: str
    max_tokens: int | None
    deadline_s: float | None
    schema: Mapping[str, object] | None
    seed: str
    """A decimal number of up to 64 bits."""
    model: str
    """A fingerprint of the model, and of what else decides the text."""
    past: int
    """How many turns before it are in its prompt, of those that brought something. Older ones never
    will be again."""
    call: int
    """The number of the first call that it might make."""
    time: float
    """By the store's clock: seconds that only ever rise."""
    adapter: str | None = None


@dataclass(frozen=True)
class Called:
    """The answer under way has called a tool, and this came of it."""

    number: int
    said: str
    """The text before it."""
    name: str
    arguments: Mapping[str, object]
    ok: bool
    value: object


@dataclass(frozen=True)
class Answered:
    """The answer to the question with this number is complete. A later one replaces it."""

    number: int
    text: str
    """As the device gets it."""
    rest: str | None
    """What the model is reminded of behind the calls, where that isn't all of the text."""
    reason: str
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    first_token_s: float
    seconds: float


@dataclass(frozen=True)
class Failed:
    """The question with this number has no answer: it is as if it hadn't been asked."""

    number: int


@dataclass(frozen=True)
class Forgotten:
    """The conversation begins anew."""


Record = Created | Declared | Asked | Called | Answered | Failed | Forgotten
KINDS: dict[str, type[Record]] = {
    kind.__name__.lower(): kind
    for kind in (Created, Declared, Asked, Called, Answered, Failed, Forgotten)
}

SEED = re.compile("[0-9]{1,20}")


def pack(records: Iterable[Record]) -> bytes:
    """A journal's payload: a list of maps with one entry each, a record's kind and its fields."""
    rows = [{type(record).__name__.lower(): plain.plain(record)} for record in records]
    # A tool's arguments may hold what a text or a number of msgpack's can't.
    packed: bytes = msgpack.packb(rows, default=str, unicode_errors="surrogatepass")
    return packed


def unpack(payload: bytes, path: Path) -> list[Record]:
    """The records in a journal's payload. Raises FormatError, naming the file at `path`."""
    try:
        # A device's values may be maps with other keys than texts; a list as a key can't be read.
        rows = msgpack.unpackb(payload, strict_map_key=False, unicode_errors="surrogatepass")
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise FormatError(path, "record", payload, f"it must be msgpack ({error})") from error
    records: list[Record] = []
    for row in rows if type(rows) is list else [rows]:
        kind, value = next(iter(row.items())) if type(row) is dict and len(row) == 1 else ("", 0)
        if kind not in KINDS:
            raise FormatError(path, "record", row, f"known kinds are {', '.join(KINDS)}")
        record: Record = plain.read(KINDS[kind], value, path, kind)
        if isinstance(record, Asked) and not SEED.fullmatch(record.seed):
            raise FormatError(path, "asked.seed", record.seed, "a decimal number is needed")
        records.append(record)
    return records


@dataclass
class Turn:
    """A question and what has come of it."""

    asked: Asked
    tools: Sequence[object]
    """Those that it may call."""
    calls: list[Called] = field(default_factory=list)
    answered: Answered | None = None
    """None: it was interrupted."""

    def records(self) -> list[Record]:
        return [self.asked, *self.calls, *([self.answered] if self.answered else [])]

    def messages(self) -> list[Message]:
        """What it adds to the conversation: nothing before its end, or if nothing came of it."""
        if self.answered is None:
            return []
        rest = self.answered.text if self.answered.rest is None else self.answered.rest
        if not self.calls and not rest:
            return []
        messages = [Message(role="user", content=self.asked.text)]
        for one in self.calls:
            call = session.Called(number=one.number, name=one.name, arguments=dict(one.arguments))
            content = result_text(one.ok, one.value)
            messages += [
                Message(role="assistant", content=one.said, call=call),
                Message(role="tool", content=content, call=call),
            ]
        return [*messages, Message(role="assistant", content=rest)]


@dataclass
class History:
    """What records add up to. Those that make no sense after the ones before change nothing."""

    name: str = ""
    tools: Sequence[object] = ()
    turns: list[Turn] = field(default_factory=list)
    """Those that may be in a prompt again; only the newest may be without an answer."""
    number: int = 0
    """Of the newest question."""
    call: int = 0
    """The first call that it might make."""
    time: float = 0.0
    """When the newest question was asked."""

    @property
    def open(self) -> Turn | None:
        """The turn that has no answer yet."""
        return self.turns[-1] if self.turns and self.turns[-1].answered is None else None

    def add(self, record: Record) -> None:
        """Go on with a record."""
        turn = self.open
        match record:
            case Created():
                self.name, self.number, self.call = record.name, record.number, record.call
                self.time = record.time
            case Declared(tools):
                self.tools = tools
            case Asked():
                if self.turns and not self.turns[-1].messages():
                    self.turns.pop()
                del self.turns[: max(0, len(self.turns) - record.past)]
                self.turns.append(Turn(record, self.tools))
                self.number = max(record.number, self.number)
                self.call = max(record.call, self.call)
                self.time = max(record.time, self.time)
            case Called() if turn is not None:
                turn.calls.append(record)
            case Answered(number) if self.turns and self.turns[-1].asked.number == number:
                self.turns[-1].answered = record
            case Failed(number) if turn is not None and turn.asked.number == number:
                self.turns.pop()
            case Forgotten():
                self.turns.clear()

    def payloads(self, limit: float) -> list[bytes]:
        """A journal that adds up to this. The oldest turns are dropped, here too, as far as it
        would take more than about `limit` bytes; never the newest."""
        packed: list[bytes] = []
        size = 0
        for one in reversed(self.turns):
            payload = pack(one.records())
            size += len(payload)
            if packed and size > limit:
                break
            packed.insert(0, payload)
        del self.turns[: len(self.turns) - len(packed)]
        number = self.number
        if self.turns and self.turns[-1].asked.number == number:
            number -= 1  # known only as long as its own record is there
        created = Created(self.name, number, self.call, self.time)
        turn = self.open
        tools = self.tools if turn is None else turn.tools
        first = pack([created, Declared(tools)])
        last = [] if tools == self.tools else [pack([Declared(self.tools)])]
        return [first, *packed, *last]
