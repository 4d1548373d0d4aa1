"""Messages of the link: what the bytes in frames say. The fields of each class, in order, are the
elements of one msgpack array; the class's TYPE stands in the frame's header.

Only what stands here is accepted: the right number of elements, each of its type and in its
bounds, text in sound UTF-8, numbers finite. Elements at the end that have a default may be left
out, and a message without elements may be no bytes at all. `Hello` and `Welcome` begin with the
VERSION of the link, in front of their fields. The array of `Tools` is the list of the tools
itself: `[]` declares that there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

import msgpack

from edgellm.errors import PeerError
from edgellm.link.fields import (
    MAX_ITEMS,
    MAX_NAME,
    MAX_TEXT,
    U32,
    Check,
    Declared,
    Flag,
    Map,
    MaybeMac,
    MaybeToken,
    Mtu,
    Name,
    Nonce16,
    Number,
    Question,
    Token,
    Value,
    Words,
    text_of,
)

VERSION = 1


@dataclass(frozen=True, slots=True)
class Hello:
    """The device opens a connection: a new nonce begins anew, the same one asks again."""

    TYPE: ClassVar[int] = 0x01
    nonce: U32
    token: MaybeToken
    """Of the session that goes on, or none."""
    name: Name
    mtu: Mtu
    room: U32
    """The largest payload joined from fragments, in bytes; 0: none are joined."""
    mac: MaybeMac = b""
    """HMAC-SHA-256 of challenge, nonce, token and name under the shared secret; first 16 bytes."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """The host asks for the same hello with a `mac`."""

    TYPE: ClassVar[int] = 0x0F
    nonce: U32
    challenge: Nonce16


@dataclass(frozen=True, slots=True)
class Welcome:
    """The connection is open."""

    TYPE: ClassVar[int] = 0x10
    nonce: U32
    token: Token
    server: Name
    mtu: Mtu
    room: U32
    resumed: Flag
    """Whether `token` is the session that was asked for."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question, or the wish to hear the rest of its answer."""

    TYPE: ClassVar[int] = 0x02
    id: Number
    got: U32
    """UTF-8 bytes of the answer that the device has."""
    text: Question
    options: Map = field(default_factory=dict)
    """"deadline" in seconds, "max_tokens", "schema" of the answer, "adapter" by name."""


@dataclass(frozen=True, slots=True)
class Accept:
    """The question is safe; the answer goes on at `offset`."""

    TYPE: ClassVar[int] = 0x17
    id: Number
    offset: U32


@dataclass(frozen=True, slots=True)
class Chunk:
    """TEXT: a piece of the answer; `offset` counts its UTF-8 bytes."""

    TYPE: ClassVar[int] = 0x11
    offset: U32
    text: Words


@dataclass(frozen=True, slots=True)
class Finished:
    """DONE: the answer is complete."""

    TYPE: ClassVar[int] = 0x12
    id: Number
    total: U32
    reason: Annotated[str, text_of(MAX_NAME, "stop", "length", "cancel", "deadline")]
    tokens: U32
    ms: U32
    crc32: U32
    """Of the whole answer's UTF-8 bytes."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The device has the whole answer; the host may forget it."""

    TYPE: ClassVar[int] = 0x09
    id: Number


@dataclass(frozen=True, slots=True)
class Failed:
    """ERR: the end of question `id`, or, if that's 0, of what the code says."""

    TYPE: ClassVar[int] = 0x13
    id: U32
    code: Name
    text: Words = ""
    retry_ms: U32 = 0
    place: U32 = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """The answer shall end."""

    TYPE: ClassVar[int] = 0x05
    id: Number


@dataclass(frozen=True, slots=True)
class New:
    """The conversation shall be forgotten."""

    TYPE: ClassVar[int] = 0x0A


@dataclass(frozen=True, slots=True)
class StatusQuery:
    """STATUS of the device: asks for a StatusReport."""

    TYPE: ClassVar[int] = 0x06


@dataclass(frozen=True, slots=True)
class StatusReport:
    """STATUS of the host."""

    TYPE: ClassVar[int] = 0x16
    status: Map


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a Pong, which tells the credit."""

    TYPE: ClassVar[int] = 0x04


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a Ping."""

    TYPE: ClassVar[int] = 0x14


@dataclass(frozen=True, slots=True)
class Ack:
    """Nothing but the header that every frame has."""

    TYPE: ClassVar[int] = 0x03


@dataclass(frozen=True, slots=True)
class Note:
    """Something that the device's user should know."""

    TYPE: ClassVar[int] = 0x1A
    text: Words


@dataclass(frozen=True, slots=True)
class Tools:
    """The device's functions, each [name, description, parameters, danger], unchecked."""

    TYPE: ClassVar[int] = 0x07
    tools: Declared


@dataclass(frozen=True, slots=True)
class Call:
    """The model calls a function."""

    TYPE: ClassVar[int] = 0x18
    call: Number
    name: Name
    arguments: Map
    deadline_ms: U32


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a call."""

    TYPE: ClassVar[int] = 0x08
    call: Number
    status: Annotated[str, text_of(MAX_NAME, "ok", "error")]
    value: Value


Message = (
    Hello
    | Challenge
    | Welcome
    | Ask
    | Accept
    | Chunk
    | Finished
    | Taken
    | Failed
    | Stop
    | New
    | StatusQuery
    | StatusReport
    | Ping
    | Pong
    | Ack
    | Note
    | Tools
    | Call
    | Result
)

UNNUMBERED = (Hello.TYPE, Challenge.TYPE, Welcome.TYPE, Ack.TYPE, Ping.TYPE, Pong.TYPE)


def is_unnumbered(message: Message) -> bool:
    """Whether it stands outside the numbering of `edgellm.link.reliable`: a message of UNNUMBERED,
    or a Failed for peers that aren't welcome."""
    if isinstance(message, Failed):
        return message.code in ("hello", "auth")
    return message.TYPE in UNNUMBERED


@dataclass(frozen=True, slots=True)
class _Form:
    """How one kind of message is written."""

    make: Callable[..., Message]
    fields: tuple[tuple[str, Check], ...]
    required: int
    """How many of them have no default."""
    head: tuple[int, ...]
    """What stands in front of them."""


def _form(kind: type[Message]) -> _Form:
    hints = get_type_hints(kind, include_extras=True)
    names = [each.name for each in fields(kind)]
    required = sum(
        each.default is MISSING and each.default_factory is MISSING for each in fields(kind)
    )
    checks = tuple((name, hints[name].__metadata__[0]) for name in names)
    return _Form(kind, checks, required, (VERSION,) if kind in (Hello, Welcome) else ())


_FORMS = {kind.TYPE: _form(kind) for kind in get_args(Message)}
_EMPTY = b"\x90"  # an array of no elements


def pack(message: Message) -> tuple[int, bytes]:
    """The type and the payload of `message`. Raises ValueError if it breaks its bounds."""
    form = _FORMS[message.TYPE]
    _check(message, form)
    if isinstance(message, Tools):
        elements = message.tools
    else:
        elements = [*form.head, *(getattr(message, name) for name, _ in form.fields)]
    return message.TYPE, b"" if isinstance(message, Ack) else msgpack.packb(elements)


def unpack(type: int, payload: bytes) -> Message:
    """The message in `payload`. Raises PeerError for whatever isn't one."""
    form = _FORMS.get(type)
    if form is None:
        raise PeerError(f"message of unknown type {type:#04x}")
    kind = form.make.__name__
    elements = _elements(kind, payload or _EMPTY)
    if form.make is Tools:
        elements = [elements]
    elif form.head:
        version, *elements = elements or [None]
        if version != VERSION:
            raise PeerError(f"{kind}: speaks another version of the link; {VERSION} is spoken here")
    if not form.required <= len(elements) <= len(form.fields):
        raise PeerError(f"{kind}: has {len(elements)} elements, not {len(form.fields)}")
    message = form.make(*elements)
    try:
        _check(message, form)
    except ValueError as error:
        raise PeerError(str(error)) from None
    return message


def text_room(offset: int, payload: int) -> int:
    """How many bytes of text a Chunk at `offset` has room for in a payload of so many bytes."""
    left = payload - len(msgpack.packb([offset, ""]))  # with the text's own header of 1 byte
    if left > 31:
        left = min(max(31, left - 1), 255) if left < 258 else left - 2
    return left


def cut(message: Failed | Note, room: int) -> Failed | Note:
    """The message with as much of its text as `room` bytes of payload hold."""
    while message.text and (excess := len(pack(message)[1]) - room) > 0:
        message = replace(message, text=message.text[: -max(1, excess // 4)])
    return message


def _elements(kind: str, payload: bytes) -> list[Any]:
    try:
        elements = msgpack.unpackb(
            payload,
            max_str_len=MAX_TEXT,
            max_bin_len=MAX_NAME,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise PeerError(f"{kind}: no msgpack of the link: {error}"[:120]) from None
    if type(elements) is not list:
        raise PeerError(f"{kind}: must be an array")
    return elements


def _check(message: Message, form: _Form) -> None:
    for name, check in form.fields:
        try:
            check(getattr(message, name))
        except ValueError as error:
            raise ValueError(f"{type(message).__name__}: {name} {error}") from None
