"""Sessions in a store, for its tests."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edgellm.history.records import (
    Answered,
    Asked,
    History,
    Record,
)
from edgellm.history.session_registry import name_of
from edgellm.history.session_store import DAY, Limits, SessionStore

SOAK = "EDGELLM_SOAK" in os.environ
A, B = name_of(b"a"), name_of(b"b")


class Clocks:
    """Both clocks of a machine; they go only as they are told to."""

    def __init__(self) -> None:
        self.running, self.wall = 100.0, 1.7e9

    def go(self, days: float) -> None:
        self.running += days * DAY
        self.wall += days * DAY


def run(
    folder: Path,
    test: Callable[[SessionStore], Awaitable[None]],
    limits: Limits | None = None,
    clocks: Clocks | None = None,
) -> None:
    """Run a test with the store of a service's life."""
    given: dict[str, Any] = {}
    if clocks is not None:
        given = {"monotonic": lambda: clocks.running, "wall": lambda: clocks.wall}

    async def main() -> None:
        async with asyncio.timeout(60), SessionStore(folder, limits, **given) as store:
            await test(store)

    asyncio.run(main())


def asked(history: History, store: SessionStore, text: str = "why?") -> Asked:
    number = history.number + 1
    return Asked(number, text, None, None, None, "1", "model", len(history.turns), 1, store.now)


def answered(number: int, text: str = "so.") -> Answered:
    return Answered(number, text, None, "stop", 1, 1, 0, 0.0, 0.0)


async def turn(store: SessionStore, name: str, text: str = "so.") -> bool:
    """A question and its answer; whether both are on disk."""
    history = store.load(name) or store.begin(name)
    one = await store.save(name, asked(history, store))
    return await store.save(name, answered(history.number, text)) and one


def numbers(history: History | None) -> list[int]:
    return [turn.asked.number for turn in history.turns] if history is not None else []


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# Power cuts


Snapshot = tuple[int, list[str], list[Record]]


def snapshot(history: History) -> Snapshot:
    records = [record for turn in history.turns for record in turn.records()]
    return history.number, list(map(str, history.tools)), records
