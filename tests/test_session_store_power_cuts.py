"""A store whose power is cut."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from power_cut import Disk, Nth
from stored_sessions import SOAK, A, Snapshot, answered, asked, run, snapshot, turn

from edgellm.history import journal, session_folder
from edgellm.history.records import (
    Called,
    Declared,
    Failed,
    Forgotten,
    History,
    Record,
)
from edgellm.history.session_registry import name_of
from edgellm.history.session_store import Limits, SessionStore


class Life:
    """One life of a service on a disk, with all states of its sessions and when each was saved."""

    def __init__(self, disk: Disk, chance: random.Random, name: Callable[[int], str]) -> None:
        self.disk, self.chance, self.name = disk, chance, name
        self.states: dict[str, list[Snapshot]] = {}
        self.saved: dict[str, list[tuple[int, int]]] = {}
        """By session: at which moment of the disk which state was."""

    async def work(self, store: SessionStore) -> None:
        for index in range(3):
            name = self.name(index)
            history = store.load(name)
            self.states[name] = [snapshot(history or History(name))]
            self.saved[name] = [(self.disk.moment, 0)] if history else []
        async with asyncio.TaskGroup() as group:
            for name in self.states:
                group.create_task(self.session(store, name))

    async def session(self, store: SessionStore, name: str) -> None:
        for _ in range(self.chance.randrange(1, 7)):
            history = store.load(name) or store.begin(name)
            records = self.more(store, history)
            done = store.save(name, *records)
            self.states[name].append(snapshot(history))
            count = len(self.states[name]) - 1
            if self.chance.random() < 0.7 and await done:
                self.saved[name].append((self.disk.moment, count))
            if self.chance.random() < 0.2:
                store.release(name)

    def more(self, store: SessionStore, history: History) -> list[Record]:
        chance = self.chance
        text = "x" * chance.randrange(1200)
        if history.open:
            number = history.open.asked.number
            return chance.choice(
                [
                    [Called(1, "", "fan", {"text": text}, True, None)],
                    [answered(number, text)],
                    [answered(number, text), answered(number, "cut")],
                    [Failed(number)],
                ]
            )
        return chance.choice(
            [
                [asked(history, store, text)],
                [Declared((text,)), asked(history, store, text)],
                [Declared((text,))],
                [Forgotten()],
            ]
        )

    def check(self, name: str, moment: int, found: Snapshot | None) -> None:
        """Whether what is found after a power cut is as new as what was saved by then."""
        least = max((count for when, count in self.saved[name] if when <= moment), default=-1)
        if found is None:
            assert least <= 0, f"{name} is gone"
            return
        for number, tools, records in self.states[name][max(least, 0) :]:
            newest = records[len(records) - len(found[2]) :]
            if (number, tools, newest) == found and bool(records) == bool(newest):
                return
        raise AssertionError(f"{name}: what was saved is lost")


@pytest.mark.parametrize("life", range(500 if SOAK else 25))
def test_power_cuts_lose_nothing_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, life: int
) -> None:
    """Simulated: several lives on one disk, each ended by a power cut, in whose place many others
    are tried."""
    chance = random.Random(life)
    limits = Limits(session_bytes=3000)
    left = tmp_path / "left"
    left.mkdir(mode=0o700)
    before: dict[str, bytes] = {}
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir(mode=0o700)
        for name, data in before.items():
            (folder / name).write_bytes(data)
        disk = Disk(folder)
        one = Life(disk, chance, lambda index: name_of(bytes([index])))
        with monkeypatch.context() as patch:
            patch.setattr(journal, "os", disk)
            patch.setattr(session_folder, "os", disk)
            run(folder, one.work, limits)
        for _ in range(50 if SOAK else 20):
            moment = chance.randrange(disk.moment + 1)
            before = disk.left_after(moment, chance)
            for path in left.iterdir():
                path.unlink()
            for name, data in before.items():
                (left / name).write_bytes(data)
            store = session_folder.SessionFolder(left)
            found, _, _ = store.take()
            store.release()
            assert not list(left.glob("*.damaged*"))
            there = {history.name: snapshot(history) for _, history in found}
            for name in one.states:
                one.check(name, moment, there.get(name))


def test_what_a_killed_process_left_is_on_disk_before_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each of its calls, started again, asked for what it has; then the power fails."""
    logging.getLogger("edgellm").setLevel(logging.CRITICAL)
    chance = random.Random(1)
    left = tmp_path / "left"
    left.mkdir(mode=0o700)
    found: list[Snapshot] = []

    async def killed(store: SessionStore) -> None:
        for _ in range(2):
            await turn(store, A)

    async def look(store: SessionStore) -> None:
        if history := store.load(A):
            assert await store.save(A)
            found.append(snapshot(history))

    try:
        for dead in itertools.count(1):
            folder = tmp_path / str(dead)
            folder.mkdir(mode=0o700)
            found.clear()
            disk = Disk(folder)
            disk.fails = nth = Nth(errno.EIO, dead, lasting=True)
            with monkeypatch.context() as patch:
                patch.setattr(journal, "os", disk)
                patch.setattr(session_folder, "os", disk)
                run(folder, killed)
                disk.fails = lambda call: None
                run(folder, look)
            for _ in range(10):
                for path in left.iterdir():
                    path.unlink()
                for name, data in disk.left_after(disk.moment, chance).items():
                    (left / name).write_bytes(data)
                if found:
                    _, history = session_folder.SessionFolder(left).read(A)
                    assert snapshot(history) == found[0], dead
            if nth.calls < dead:
                break
        assert dead > 30
    finally:
        logging.getLogger("edgellm").setLevel(logging.NOTSET)
