"""Sessions that devices enter, leave and come back to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from edgellm.errors import BusyError
from edgellm.history import session_registry
from edgellm.history.records import Asked
from edgellm.history.session_registry import KEPT_S, SessionRegistry, name_of
from edgellm.history.session_store import SessionStore


class Room:
    """A registry with what is around it."""

    def __init__(self, store: SessionStore | None) -> None:
        self.busy: set[str] = set()
        self.dropped: list[str] = []
        self.lost: list[str] = []
        self.time = 0.0
        self.registry = SessionRegistry(
            store, lambda name: name not in self.busy, self.dropped.append, lambda: self.time
        )

    def enter(self, token: bytes | None = None, line: str = "") -> tuple[str, bytes, bool]:
        entry = self.registry.enter(token, lambda: self.lost.append(line))
        return entry.session, entry.token, entry.resumed


def run(test: Callable[[Room], Awaitable[None]], folder: Path | None = None) -> None:
    async def main() -> None:
        if folder is None:
            await test(Room(None))
        else:
            async with asyncio.timeout(20), SessionStore(folder) as store:
                await test(Room(store))

    asyncio.run(main())


def asked(room: Room, name: str) -> Asked:
    number = room.registry.history(name).number + 1
    return Asked(number, "why?", None, None, None, "1", "model", 9, 1, room.registry.now)


def test_a_device_comes_back_to_its_session() -> None:
    async def test(room: Room) -> None:
        name, token, resumed = room.enter()
        assert (name, len(token), resumed) == (name_of(token), 8, False)
        assert token.hex() not in name
        room.registry.leave(name)
        assert room.enter(token) == (name, token, True)
        another, other, resumed = room.enter()
        assert not resumed
        assert name != another
        assert token != other

    run(test)


def test_a_token_that_is_unknown_leads_to_a_new_session() -> None:
    async def test(room: Room) -> None:
        name, token, resumed = room.enter(b"12345678")
        assert token != b"12345678"
        assert name in room.registry
        assert not resumed

    run(test)


def test_who_enters_takes_the_session_from_the_line_before() -> None:
    async def test(room: Room) -> None:
        name, token, _ = room.enter(None, "first")
        room.enter(token, "second")
        assert room.lost == ["first"]
        room.registry.leave(name)
        room.enter(token, "third")
        assert room.lost == ["first"]

    run(test)


def test_sessions_that_were_left_leave_the_memory_after_a_time() -> None:
    async def test(room: Room) -> None:
        gone, busy, here = room.enter(), room.enter(), room.enter()
        room.registry.leave(gone[0])
        room.registry.leave(busy[0])
        room.busy.add(busy[0])
        room.time += KEPT_S + 1
        room.enter()
        assert room.dropped == [gone[0]]
        assert here[0] in room.registry
        assert room.enter(busy[1])[2]
        assert not room.enter(gone[1])[2]

    run(test)


def test_where_there_are_too_many_the_one_left_first_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_registry, "MOST", 3)

    async def test(room: Room) -> None:
        one, two, three = room.enter(), room.enter(), room.enter()
        with pytest.raises(BusyError):
            room.enter()
        assert room.enter(three[1])[2], "it is in already"
        for name, *_ in (two, one):
            room.time += 1
            room.registry.leave(name)
        room.busy.add(two[0])
        room.enter()
        assert room.dropped == [one[0]]
        with pytest.raises(BusyError):
            room.enter(one[1])

    run(test)


def test_a_session_that_left_the_memory_is_on_disk(tmp_path: Path) -> None:
    async def test(room: Room) -> None:
        name, token, _ = room.enter()
        assert await room.registry.save(name, asked(room, name))
        room.registry.close(name)
        assert room.dropped == [name]
        assert name not in room.registry
        assert room.enter(token) == (name, token, True)
        assert room.registry.history(name).number == 1
        empty, forgotten, _ = room.enter()
        room.registry.close(empty)
        await asyncio.sleep(0.01)
        assert not room.enter(forgotten)[2], "nothing was asked in it"

    run(test, tmp_path / "sessions")


def test_without_a_store_histories_are_in_memory_only() -> None:
    async def test(room: Room) -> None:
        name, token, _ = room.enter()
        assert await room.registry.save(name, asked(room, name))
        room.registry.leave(name)
        assert room.enter(token)[2]
        assert room.registry.history(name).number == 1

    run(test)
