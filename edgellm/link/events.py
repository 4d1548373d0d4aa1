"""What a device is told by its end of the link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Linked:
    """The host has answered the hello."""

    server: str
    resumed: bool
    """Whether it knows the session of the token; else a new conversation has begun."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of the answer; whole characters, in order, each once."""

    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer is complete and sound."""

    number: int
    reason: str
    """"stop", "length", "cancel", "deadline"."""
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The end of the question `number`, without its (whole) answer; or, if that's 0, what the code
    says about the connection or the tools."""

    number: int
    code: str
    """As in Failed; besides, "damaged": the answer isn't the one that was begun."""
    text: str
    retry_ms: int = 0
    place: int = 0


@dataclass(frozen=True, slots=True)
class Called:
    """The model wants a tool's result; comes once for each number."""

    number: int
    name: str
    arguments: Mapping[str, object]
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that the device's user should know."""

    text: str


@dataclass(frozen=True, slots=True)
class Status:
    """What was asked by `query`."""

    status: Mapping[str, object]


Event = Linked | Piece | Answered | Refused | Called | Remark | Status
