"""Channels: ways in for people and devices, and the service they talk to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of an answer; whole characters only."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an answer, with its statistics."""

    reason: str
    """"stop" (the model ended), "length" (max tokens or context), "cancel"."""
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
        """End the answer within one token; Done("cancel") follows."""


class Service(Protocol):
    """What a channel may ask of the runtime. All methods are called in the event loop's thread."""

    def ask(self, session: str, text: str) -> Answer:
        """Put a user's turn to the conversation named `session`.

        Raises BusyError if the queue is full or the session is still answering.
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
