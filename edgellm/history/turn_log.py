"""Writes a turn into its session's history as it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from edgellm.channel import Done
from edgellm.errors import EdgeError
from edgellm.history.records import Answered, Asked, Called, Failed, Record
from edgellm.history.session_registry import SessionRegistry


class TurnLog:
    """Of one question, from the moment that it can't be refused any more.

    The results of its futures are whether what was told is on disk.
    """

    def __init__(
        self,
        registry: SessionRegistry,
        name: str,
        asked: Asked,
        *,
        known: bool = False,
        echo: str = "",
        closing: Callable[[], bool] = lambda: False,
    ) -> None:
        """A question that is `known` is in the history already. `echo` is what the text of the
        answer begins with and isn't the model's. What a service does while it is `closing` is no
        end of the answer: it will go on with the next."""
        self._registry = registry
        self._name = name
        self._asked = asked
        self._known = known
        self._echo = echo
        self._closing = closing
        self._begun: asyncio.Future[bool] | None = None

    def begin(self) -> asyncio.Future[bool]:
        """The question was accepted."""
        if self._begun is None:
            self._begun = self._save(*([] if self._known else [self._asked]))
        return self._begun

    async def saved(self) -> bool:
        """Wait for the question."""
        return await asyncio.shield(self.begin())

    def called(
        self,
        number: int,
        said: str,
        name: str,
        arguments: Mapping[str, object],
        ok: bool,
        value: object,
    ) -> asyncio.Future[bool]:
        """A call has its result."""
        return self._save(Called(number, said, name, arguments, ok, value))

    def ended(self, end: Done | EdgeError, text: str, rest: str) -> asyncio.Future[bool]:
        """The answer has ended; `rest` is its text behind the last call."""
        self.begin()
        number = self._asked.number
        if isinstance(end, EdgeError):
            return self._save(Failed(number))
        rest = rest.removeprefix(self._echo)
        return self._save(
            Answered(
                number,
                text,
                None if rest == text else rest,
                end.reason,
                end.tokens,
                end.prompt_tokens,
                end.cached_tokens,
                end.first_token_s,
                end.seconds,
            )
        )

    def _save(self, *records: Record) -> asyncio.Future[bool]:
        if self._name in self._registry and not self._closing():
            return self._registry.save(self._name, *records)
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        future.set_result(False)
        return future
