"""Answer: what somebody asked of the model, and the text that comes of it, on its way to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgellm.channel import Done, Priority, Text
from edgellm.errors import BackendError, EdgeError, ExpiredError
from edgellm.generation import Generation, Piece
from edgellm.sampling import Sampling
from edgellm.session import Session

if TYPE_CHECKING:
    from edgellm.adapter_choice import Strengths
    from edgellm.tools.grammar import Grammar

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What somebody asks of the model."""

    tokens: Sequence[int]
    """The prompt, from the beginning of the conversation."""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = -1
    """Negative: no limit."""
    stop: tuple[str, ...] = ()
    echo: str = ""
    """Text that the answer begins with."""
    reply: bool = False
    """Whether the answer is a text of its own, not the rest of the prompt's."""
    keep: int | None = None
    """Where the context is full, None ends the answer; a number lets it roll: so many of the first
    tokens and the newest half of the others stay."""
    priority: Priority = Priority.PERSON
    deadline_s: float | None = None
    """Seconds from its submission until it ends, wherever it has come to."""
    grammar: Grammar | None = None
    """What the answer must be; then no stop text ends it."""
    strengths: Strengths = ()
    """Of the executor's adapters."""


class Answer:
    """One answer of the model under way. A turn, which may call tools, is a chain of them."""

    def __init__(
        self,
        session: Session,
        generation: Generation,
        on_stop: Callable[[], None] = lambda: None,
        tell: Callable[[Text | Done | EdgeError], None] | None = None,
        number: int = 0,
    ) -> None:
        """`on_stop` is called when the answer has ended before the model did. What comes of it is
        passed to `tell` at once, if that is given, else kept for whoever iterates over it."""
        self.session = session
        self.generation = generation
        self.begun: float | None = None
        """When the model began with it, by the monotonic clock."""
        self.text = ""
        """All text so far; once it was stopped, only what the asker has been given."""
        self.error: EdgeError | None = None
        self.ended = False
        self.number = number
        """By the order of submission; those that go on with another's turn have its number."""
        self._events: asyncio.Queue[Text | Done | EdgeError] = asyncio.Queue()
        self._tell = tell or self._events.put_nowait
        self._given = 0  # characters
        self._on_stop = on_stop
        self._deadline: asyncio.TimerHandle | None = None

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
            self._on_stop()

    def expire_in(self, seconds: float) -> None:
        """Set the deadline."""
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._expire, seconds)

    def _expire(self, seconds: float) -> None:
        if self.begun is not None:
            self._end(self.generation.done("deadline"))
            self._on_stop()
        else:
            late = f"the deadline passed: no answer could begin within {seconds:g} s"
            self.fail(ExpiredError(f"{late}; ask again or allow more time"))

    def deliver(self, piece: Piece) -> None:
        """Pass a piece on to the asker, unless the answer has ended."""
        if self.ended:
            return
        if piece.text:
            self.text += piece.text
            self._tell(Text(piece.text))
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
        cause = self.error.__cause__
        unforeseen = cause is not None and not isinstance(cause, EdgeError)
        if isinstance(self.error, BackendError) and unforeseen:
            log.error("%s: an answer failed", self.session.name, exc_info=cause)
        self._end(self.error)

    def _end(self, event: Done | EdgeError) -> None:
        self.ended = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._tell(event)
