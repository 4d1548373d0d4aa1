"""A service whose sessions are on disk, started again and again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from speaker import Speaker
from test_service import BROKEN, chat
from toy_executor import ToyExecutor, ToyTokenizer

from edgellm.channel import Answer, Done, Text
from edgellm.history.session_store import SessionStore
from edgellm.sampling import Sampling
from edgellm.scheduler import Scheduler
from edgellm.service import Conversations

HOT = Sampling(temperature=2.0)
"""Every draw is another one."""


class Machine:
    """Services that live one after the other, with one folder."""

    def __init__(self, folder: Path | None, **options: Any) -> None:
        self.folder = folder
        self.options = {
            "render": chat,
            "sampling": HOT,
            "max_tokens": 30,
            "system": "Be brief.",
            "fingerprint": lambda: "toy",
            **options,
        }
        self.speaks: tuple[str, ...] | None = None
        """What the model says in each life; None: what a toy says."""
        self.executor = ToyExecutor()
        self.token: bytes | None = None
        self.resumed = False

    def live(self, test: Callable[[Conversations, str], Awaitable[None]]) -> None:
        """One life, in which the device enters its session."""

        async def main() -> None:
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(asyncio.timeout(20))
                store = None
                if self.folder is not None:
                    store = await stack.enter_async_context(SessionStore(self.folder))
                if self.speaks is not None:
                    self.executor = Speaker(*self.speaks, context=1000)
                else:
                    self.executor = ToyExecutor(context=256)
                    self.executor.fail_on = {ord(BROKEN)}
                tokenizer = ToyTokenizer()
                scheduler = await stack.enter_async_context(Scheduler(self.executor, tokenizer))
                service = Conversations(scheduler, tokenizer, store=store, **self.options)
                stack.callback(service.end)
                entry = service.enter(self.token, lambda: None)
                self.token, self.resumed = entry.token, entry.resumed
                await test(service, entry.session)

        asyncio.run(main())


async def heard(answer: Answer, offset: int = 0) -> tuple[str, Done]:
    *texts, done = [event async for event in answer.listen(offset)]
    assert isinstance(done, Done)
    return "".join(event.text for event in texts if isinstance(event, Text)), done


async def begun(answer: Answer) -> str:
    """The first piece."""
    async for event in answer.listen(0):
        assert isinstance(event, Text)
        return event.text
    raise AssertionError
