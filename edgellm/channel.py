"""Channels: ways in for people and devices, and the service they talk to."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol
from urllib.parse import parse_qsl

from edgellm.errors import UsageError


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


class Answer(Protocol):
    """One answer under way."""

    def __aiter__(self) -> AsyncIterator[Text | Done]:
        """Yields Text pieces, then one Done. Raises an EdgeError if the answer fails."""

    def stop(self) -> None:
        """End the answer within one token and drop its pieces that nobody has taken yet.

        Done("cancel") follows, unless the end has been taken or the answer has failed.
        """


class Service(Protocol):
    """What a channel may ask of the runtime. All methods are called in the event loop's thread."""

    @property
    def continues(self) -> bool:
        """Whether the model goes on with raw text; then no words at all are a question, too."""

    def ask(
        self,
        session: str,
        text: str,
        priority: Priority = Priority.PERSON,
        deadline_s: float | None = None,
    ) -> Answer:
        """Put a user's turn to the conversation named `session`.

        After `deadline_s` seconds the answer ends as far as it has come, or fails with ExpiredError
        if it hasn't begun. Raises BusyError if the queue is full or the session is still answering,
        ContextError or TemplateError for a turn that can't become a prompt, BackendError during the
        shutdown.
        """

    def forget(self, session: str) -> None:
        """Begin the conversation anew."""

    def close(self, session: str) -> None:
        """The other end is gone: stop its answer, free what the conversation holds."""

    def status(self) -> dict[str, object]:
        """Model, sessions, queue and speed, for `/status`."""


class Channel(Protocol):
    url: str

    async def serve(self, service: Service) -> None:
        """Open the port and serve it until cancelled (or, for a console, until its end)."""


def query(url: str, known: Mapping[str, str]) -> dict[str, str]:
    """The options after a channel URL's "?", with `known`'s values for those that aren't there.

    Raises UsageError for one that isn't in `known`.
    """
    options = dict(known)
    for name, value in parse_qsl(url.partition("?")[2], keep_blank_values=True):
        if name not in known:
            raise UsageError(f"{url}: unknown option {name!r}; known are {', '.join(known)}")
        options[name] = value
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
