"""An answer that was complete before it was asked for again, as its session's history has it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from edgellm.channel import Call, Done, Text
from edgellm.history.records import Answered


class KeptAnswer:
    """See the contract `edgellm.channel.Answer`."""

    def __init__(self, answered: Answered, saved: Callable[[], Awaitable[bool]]) -> None:
        """`saved` waits until the history is on disk, and says whether it is."""
        self._answered = answered
        self._saved = saved

    @property
    def text(self) -> str:
        return self._answered.text

    def __aiter__(self) -> AsyncIterator[Text | Call | Done]:
        return self.listen(0)

    async def listen(self, offset: int) -> AsyncIterator[Text | Call | Done]:
        kept = self._answered
        if rest := kept.text.encode()[offset:].decode(errors="ignore"):
            yield Text(rest)
        yield Done(
            kept.reason,
            kept.tokens,
            kept.prompt_tokens,
            kept.cached_tokens,
            kept.first_token_s,
            kept.seconds,
        )

    def result(self, number: int, ok: bool, value: object) -> None:
        """Nobody waits for it."""

    async def saved(self) -> bool:
        return await self._saved()

    def stop(self) -> None:
        """It has come to its end."""
