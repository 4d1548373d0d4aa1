"""Answer: what somebody asked of the model, and the text that comes of it, on its way to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from edgellm.channel import Done, Text
from edgellm.errors import BackendError, EdgeError
from edgellm.generation import Generation, Piece
from edgellm.sampling import Sampling
from edgellm.session import Session, Slot

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What somebody asks of the model."""

    tokens: Sequence[int]
    """The prompt, from the beginning of the conversation."""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = -1
    """Negative: until the context is full."""
    stop: tuple[str, ...] = ()
    echo: str = ""
    """Text that the answer begins with."""
    reply: bool = False
    """Whether the answer is a text of its own, not the rest of the prompt's."""


class Answer:
    """One answer under way; see the contract `edgellm.channel.Answer`."""

    def __init__(self, session: Session, generation: Generation) -> None:
        self.session = session
        self.generation = generation
        self.slot: Slot | None = None
        """None while it waits."""
        self.admitted = 0.0
        self.text = ""
        """All text so far; once it was stopped, only what the asker has been given."""
        self.error: EdgeError | None = None
        self.ended = False
        self._events: asyncio.Queue[Text | Done | EdgeError] = asyncio.Queue()
        self._given = 0  # characters

    async def __aiter__(self) -> AsyncIterator[Text | Done]:
        while not (self.ended and self._events.empty()):
            event = await self._events.get()
            if isinstance(event, EdgeError):
                raise event
            if isinstance(event, Text):
                self._given += len(event.text)
            yield event

    def stop(self) -> None:
        """End the answer and take back the text that waits for the asker, also where the model has
        come to its end already; does nothing once the asker knows of the end."""
        end: Done | EdgeError | None = None if self.ended else self.generation.done("cancel")
        while not self._events.empty():
            event = self._events.get_nowait()
            if isinstance(event, EdgeError):
                end = event
            elif isinstance(event, Done):
                end = replace(event, reason="cancel")
        self.text = self.text[: self._given]
        if end is not None:
            self._end(end)

    def deliver(self, piece: Piece) -> None:
        if piece.text:
            self.text += piece.text
            self._events.put_nowait(Text(piece.text))
        if piece.done is not None:
            self._end(piece.done)

    def fail(self, error: Exception) -> None:
        """End with an error, if it hasn't ended; one that isn't ours is named as the model's."""
        if self.ended:
            return
        if isinstance(error, EdgeError):
            self.error = error
        else:
            message = f"the answer failed ({type(error).__name__}: {error}); ask again"
            self.error = BackendError(message)
            self.error.__cause__ = error
            log.error("%s: an answer failed", self.session.name, exc_info=error)
        self._end(self.error)

    def _end(self, event: Done | EdgeError) -> None:
        self.ended = True
        self._events.put_nowait(event)
