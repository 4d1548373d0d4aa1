"""Channels: ways in for people and devices, and the service they talk to."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qsl

from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.notices import Notices
    from edgellm.tools.tool import Tool


class Priority(IntEnum):
    """Who goes first where all can't go at once."""

    DEVICE = 0
    PERSON = 1
    BATCH = 2


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of an answer; whole characters only."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """The model calls one of the session's tools and waits for `Answer.result`."""

    number: int
    """From 1 on within the session; the same number again is the same call."""
    name: str
    arguments: Mapping[str, object]
    """Valid by the tool's schema."""
    deadline_s: float
    """Seconds from now after which the model goes on without a result."""


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an answer, with its statistics."""

    reason: str
    """"stop" (the model ended), "length" (max tokens or context), "cancel", "deadline"."""
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    """How many prompt tokens needn't be computed because the session already held them."""
    first_token_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Entry:
    """A device's way back to its session."""

    session: str
    """The name that the service's other methods know it by; not a secret."""
    token: bytes
    """8 random bytes that only this session's device knows."""
    resumed: bool
    """Whether it is the session that was asked for; else a new one."""


class Answer(Protocol):
    """One answer under way."""

    @property
    def text(self) -> str:
        """All of its text so far; once stopped, only what a listener has been given. Whole where
        Done has been yielded."""

    def __aiter__(self) -> AsyncIterator[Text | Call | Done]:
        """The same as listen(0)."""

    def listen(self, offset: int) -> AsyncIterator[Text | Call | Done]:
        """Yields Text pieces from byte `offset` of the text's UTF-8 form on, Calls between them,
        then one Done, which comes only when the answer is on disk, too, if it is kept at all.

        Waits while the text is shorter than `offset`. A character that `offset` cuts through is
        left out. There is one listener at a time: a new one ends the iteration of the one before,
        without a Done, and is told again the calls that have no result yet. Raises an EdgeError if
        the answer fails.
        """

    def result(self, number: int, ok: bool, value: object) -> None:
        """What came of a call; `value` is made of the types of JSON, an error's is a message. Does
        nothing for a call that doesn't wait for it (any more)."""

    async def saved(self) -> bool:
        """Wait until the question is on disk, where history is kept; False if it can't be."""

    def stop(self) -> None:
        """End the answer within one token and drop its pieces that nobody has taken yet.

        Done("cancel") follows, unless the end has been taken or the answer has failed.
        """


class Service(Protocol):
    """What a channel may ask of the runtime. All methods are called in the event loop's thread.

    A session is one conversation. One that a channel has named itself lives until `close`; one that
    was entered outlives its line: after `leave` its answer goes on, and it is kept until it
    expires.
    """

    notices: Notices
    """What people and devices should know of the machine."""

    @property
    def continues(self) -> bool:
        """Whether the model goes on with raw text; then no words at all are a question, too."""

    def enter(self, token: bytes | None, lost: Callable[[], None]) -> Entry:
        """Begin a session, or come back to the one that `token` belongs to, wherever it is.

        `lost` is called, at most once and before the other's `enter` returns, when somebody else
        enters the same session before `leave`: the line that called has then nothing to do with
        the session any more and doesn't leave it. Raises BusyError if there are too many sessions.
        """

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
    ) -> Answer:
        """Put a user's turn to the conversation named `session`.

        `number` (1 or more, rising within a session) names the question: asked again, it is the
        same answer, never a second one. Where `text` is None, only that is wanted. After
        `deadline_s` seconds the answer ends as far as it has come, or fails with ExpiredError if it
        hasn't begun. It has at most `max_tokens` tokens, and is JSON that is valid by `schema`, a
        JSON Schema, where that is given. `adapter` names those of the model's adapters that count,
        see `edgellm.adapter_choice`.

        Raises BusyError if the queue is full or the session is still answering, StaleError for a
        number that isn't the newest and whose answer is no longer kept, UnknownError for an unknown
        one without a text, ContextError or TemplateError for a turn that can't become a prompt,
        UsageError for a schema or adapter that can't be used, BackendError during the shutdown.
        """

    def taken(self, session: str, number: int) -> None:
        """The answer with that number is completely with the device: it needn't be kept. Does
        nothing for an unknown one."""

    async def prepare(
        self, session: str, tools: Sequence[Tool] = (), schema: Mapping[str, object] | None = None
    ) -> None:
        """Do in a thread what takes long of `declare` with these tools, or of `ask` with that
        schema, so that no other session waits for it. Raises nothing: they do."""

    def declare(self, session: str, tools: Sequence[Tool]) -> None:
        """The functions that the model may call from the next question on; they replace the ones
        declared before. Raises UsageError if they are too many or can't be used."""

    def forget(self, session: str) -> None:
        """Begin the conversation anew."""

    def leave(self, session: str) -> None:
        """An entered session's line is gone; its device may come back with the token."""

    def close(self, session: str) -> None:
        """The other end is gone: stop its answer, free what the conversation holds."""

    def status(self) -> dict[str, object]:
        """Model, heat, sessions, queue and speed, for `/status`."""


class Channel(Protocol):
    url: str

    async def serve(self, service: Service) -> None:
        """Open the port and serve it until cancelled (or, for a console, until its end)."""


def query(url: str, known: Mapping[str, str]) -> dict[str, str]:
    """The options after a channel URL's "?", with `known`'s values for those that aren't there.

    Raises UsageError for one that isn't in `known`, is empty or comes twice.
    """
    options = dict(known)
    given = parse_qsl(url.partition("?")[2], keep_blank_values=True)
    for name, value in given:
        if name not in known:
            names = ", ".join(known) or "none"
            raise UsageError(f"{url}: unknown option {name!r}; known are {names}")
        if not value:
            raise UsageError(f"{url}: {name} is empty; give it a value, or leave it out")
        options[name] = value
    if len(given) > len(dict(given)):
        raise UsageError(f"{url}: an option is given twice")
    return options


def priority(url: str, value: str) -> Priority:
    """A channel URL's option "priority"; raises UsageError unless it names one."""
    try:
        return Priority[value.upper()]
    except KeyError:
        known = ", ".join(one.name.lower() for one in Priority)
        raise UsageError(f"{url}: priority is {value!r}; known are {known}") from None


def number(url: str, name: str, value: str, least: float, most: float) -> float:
    """A channel URL's option as a number; raises UsageError unless it is from `least` to `most`."""
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not least <= found <= most:
        raise UsageError(f"{url}: {name} is {value!r}; give a number from {least:g} to {most:g}")
    return found
