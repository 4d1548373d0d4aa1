"""The store of sessions: what is there after a restart, a crash, a power cut, a full disk."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import logging
import os
import random
import struct
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from power_cut import Disk, Nth

from edgellm.errors import BusyError, UsageError
from edgellm.history import journal, session_folder, session_store
from edgellm.history.journal import Journal
from edgellm.history.records import (
    Answered,
    Asked,
    Called,
    Declared,
    Failed,
    Forgotten,
    History,
    Record,
    pack,
)
from edgellm.history.session_store import DAY, Limits, SessionStore, name_of

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


def test_a_session_is_there_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "sessions"
    kept: list[History] = []

    async def first(store: SessionStore) -> None:
        assert store.load(A) is None
        history = store.begin(A)
        store.note(A, Declared(({"name": "fan"},)))
        assert await turn(store, A)
        assert await store.save(
            A, asked(history, store), Called(1, "", "fan", {"on": 1}, True, "ok")
        )
        kept.append(history)

    async def second(store: SessionStore) -> None:
        history = store.load(A)
        assert history == kept[0]
        assert store.load(A) is history
        assert store.load(B) is None
        assert await store.save(A, answered(2))

    async def third(store: SessionStore) -> None:
        history = store.load(A)
        assert history is not None
        assert (numbers(history), history.open) == ([1, 2], None)

    for test in (first, second, third):
        run(folder, test)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir()} == {f"{A}.journal", "clock"}
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_session_that_is_not_in_use_is_not_in_memory(tmp_path: Path) -> None:
    async def test(store: SessionStore) -> None:
        assert await turn(store, A)
        history = store.load(A)
        store.release(A)
        store.release(A)
        assert store.load(A) is history, "it came back at once"
        store.release(A)
        store.begin(B)
        store.release(B)
        while len(store) > 1:
            await asyncio.sleep(0)
        again = store.load(A)
        assert again is not history
        assert again == history
        store.release("unknown")

    run(tmp_path / "sessions", test)


def test_what_has_no_haste_is_written_at_the_end(tmp_path: Path) -> None:
    async def first(store: SessionStore) -> None:
        assert await turn(store, A)
        size = (tmp_path / "s" / f"{A}.journal").stat().st_size
        store.note(A, Declared(("fan",)))
        await asyncio.sleep(0.01)
        assert (tmp_path / "s" / f"{A}.journal").stat().st_size == size

    async def second(store: SessionStore) -> None:
        history = store.load(A)
        assert history is not None
        assert history.tools == ("fan",)

    run(tmp_path / "s", first)
    run(tmp_path / "s", second)


def test_what_comes_during_a_write_goes_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s").mkdir(mode=0o700)

    async def test(store: SessionStore) -> None:
        assert await turn(store, A)
        disk = Disk(tmp_path / "s")
        monkeypatch.setattr(journal, "os", disk)
        history = store.load(A)
        assert history is not None
        writes = [store.save(A, asked(history, store)) for _ in range(50)]
        assert all(await asyncio.gather(*writes))
        events = [kind for _, kind, *_ in disk.files[f"{A}.journal"].events]
        assert events == ["write", "sync"]

    run(tmp_path / "s", test)


def test_a_folder_is_one_services_own(tmp_path: Path) -> None:
    async def test(store: SessionStore) -> None:
        with pytest.raises(UsageError, match="another edgellm keeps its sessions there; end it"):
            async with SessionStore(tmp_path / "s"):
                pass
        assert await turn(store, A)

    run(tmp_path / "s", test)
    run(tmp_path / "s", test)


def test_a_folder_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s").chmod(0o750)
    with pytest.raises(UsageError, match=r"others can read .*chmod 700"):
        run(tmp_path / "s", lambda store: asyncio.sleep(0))


def test_a_folder_may_be_behind_a_link(tmp_path: Path) -> None:
    async def test(store: SessionStore) -> None:
        assert await turn(store, A)

    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run(tmp_path / "link" / "s", test)
    (tmp_path / "direct").symlink_to(tmp_path / "real" / "s")
    run(tmp_path / "direct", test)
    assert (tmp_path / "real" / "s" / f"{A}.journal").is_file()


def test_a_damaged_file_is_set_aside_and_its_sound_part_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "s" / f"{A}.journal"

    async def write(store: SessionStore) -> None:
        for _ in range(3):
            assert await turn(store, A)

    run(tmp_path / "s", write)
    for count in range(3):
        damaged = bytearray(file.read_bytes())
        damaged[damaged.rindex(b"why?")] ^= 1
        file.write_bytes(damaged)

        async def look(store: SessionStore) -> None:
            history = store.load(A)
            assert history is not None
            assert history.open is None
            assert history.number >= 2
            assert await turn(store, A)

        run(tmp_path / "s", look)
        assert (tmp_path / "s" / f"{A}.journal.damaged{count}").read_bytes() == damaged
    told = messages(caplog)
    assert len(told) == 3
    assert f"{file}: record is 'at byte" in told[0]
    assert told[0].endswith(f"the file was set aside as {A}.journal.damaged0")


def hostile(kind: str, file: Path) -> None:
    match kind:
        case "nothing":
            file.write_bytes(b"")
        case "garbage":
            file.write_bytes(os.urandom(4000))
        case "records that aren't":
            Journal.create(file, [b"\xc1 no msgpack"])
        case "records of nobody":
            Journal.create(file, [pack([Failed(1)])])
        case "folder":
            file.mkdir()
        case "link":
            file.symlink_to(file.parent / "clock")
        case "pipe":
            os.mkfifo(file)
        case "large":
            with file.open("wb") as sparse:
                sparse.truncate(1 << 40)


@pytest.mark.parametrize(
    "kind",
    [
        "nothing",
        "garbage",
        "records that aren't",
        "records of nobody",
        "folder",
        "link",
        "pipe",
        "large",
    ],
)
def test_the_service_starts_whatever_is_in_the_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    hostile(kind, folder / f"{A}.journal")

    async def test(store: SessionStore) -> None:
        assert not numbers(store.load(A))
        assert await turn(store, B)

    run(folder, test)
    (told,) = messages(caplog)
    assert f"{A}.journal: " in told
    assert "set aside" in told
    assert any(path.name == f"{A}.journal.damaged0" for path in folder.iterdir())


def test_another_sessions_file_is_not_taken_for_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def write(store: SessionStore) -> None:
        assert await turn(store, B)

    async def look(store: SessionStore) -> None:
        assert not numbers(store.load(A))

    run(tmp_path / "s", write)
    (tmp_path / "s" / f"{B}.journal").rename(tmp_path / "s" / f"{A}.journal")
    run(tmp_path / "s", look)
    assert f"session is '{B}'; it must be {A}" in messages(caplog)[0]


def test_a_newer_versions_file_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    header = journal.HEADER.pack(journal.MAGIC, 2, 0, 0)[:-4]
    data = header + struct.pack("<I", zlib.crc32(header)) + b"more"
    (folder / f"{A}.journal").write_bytes(data)

    async def test(store: SessionStore) -> None:
        assert store.load(A) is None

    run(folder, test)
    assert (folder / f"{A}.journal").read_bytes() == data
    assert "version is 2" in messages(caplog)[0]


def test_other_files_are_left_alone_and_drafts_removed(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    for name in ("notes.txt", "x.journal", f"{A}.journal.damaged7", f"{A}.journal.new"):
        (folder / name).write_text("x")
    run(folder, lambda store: asyncio.sleep(0))
    left = {path.name for path in folder.iterdir()} - {"clock"}
    assert left == {"notes.txt", "x.journal", f"{A}.journal.damaged7"}


# Trouble with the disk


def test_answers_go_on_without_room_and_all_is_saved_once_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    full = False

    def fail(call: str) -> OSError | None:
        wanting = full and call in ("write", "open")
        return OSError(errno.ENOSPC, "No space left on device") if wanting else None

    async def test(store: SessionStore) -> None:
        nonlocal full
        assert await turn(store, A)
        before = (folder / f"{A}.journal").read_bytes()
        full = True
        for _ in range(3):
            assert not await turn(store, A)
            assert not await turn(store, B)
        assert (folder / f"{A}.journal").read_bytes() == before
        assert not (folder / f"{B}.journal").exists()
        full = False
        assert await turn(store, A)
        assert await turn(store, B)

    async def look(store: SessionStore) -> None:
        assert numbers(store.load(A)) == [1, 2, 3, 4, 5]
        assert numbers(store.load(B)) == [1, 2, 3, 4]

    disk = Disk(folder)
    disk.fails = fail
    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", disk)
        run(folder, test)
    run(folder, look)
    reason = "history isn't being saved: No space left on device; answers go on"
    assert messages(caplog) == [f"{folder}: {reason}", f"{folder}: history is being saved again"]


def test_a_folder_that_cannot_be_made_is_used_once_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "s").write_text("in the way")

    async def test(store: SessionStore) -> None:
        assert not await turn(store, A)
        (tmp_path / "s").unlink()
        assert await turn(store, A)

    async def look(store: SessionStore) -> None:
        assert numbers(store.load(A)) == [1, 2]

    run(tmp_path / "s", test)
    run(tmp_path / "s", look)
    assert len(messages(caplog)) == 2


def test_a_session_that_vanishes_from_the_folder_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(store: SessionStore) -> None:
        assert await turn(store, A)
        store.release(A)
        await turn(store, B)
        (tmp_path / "s" / f"{A}.journal").unlink()
        assert store.load(A) is None
        assert store.load(A) is None

    run(tmp_path / "s", test)
    (told,) = messages(caplog)
    assert "a session isn't used" in told


class Hanging(Disk):
    """Calls wait while it hangs, and for `WAIT_S` at most."""

    WAIT_S = 30

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.answers = threading.Event()
        self.answers.set()
        self.fails = lambda call: None if self.answers.wait(self.WAIT_S) else OSError(errno.EIO)


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    (tmp_path / "s").mkdir(mode=0o700)
    disk = Hanging(tmp_path / "s")
    monkeypatch.setattr(journal, "os", disk)
    monkeypatch.setattr(session_store, "PATIENCE_S", 1.0)
    yield disk
    disk.answers.set()


def test_nobody_waits_for_a_disk_that_hangs(
    tmp_path: Path, hanging: Hanging, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(store: SessionStore) -> None:
        assert await turn(store, A)
        hanging.answers.clear()
        for _ in range(3):
            assert not await turn(store, A)
            assert not await turn(store, B)
        hanging.answers.set()
        while not await turn(store, A):
            await asyncio.sleep(0.01)
        while not await turn(store, B):
            await asyncio.sleep(0.01)

    async def look(store: SessionStore) -> None:
        assert numbers(store.load(A))[:4] == [1, 2, 3, 4]
        assert numbers(store.load(B))[:3] == [1, 2, 3]

    run(tmp_path / "s", test)
    run(tmp_path / "s", look)
    reason = "history isn't being saved: the disk takes more than 1 s; answers go on"
    assert messages(caplog)[:2] == [
        f"{tmp_path / 's'}: {reason}",
        f"{tmp_path / 's'}: history is being saved again",
    ]


def test_the_service_ends_where_the_disk_hangs(tmp_path: Path, hanging: Hanging) -> None:
    async def test(store: SessionStore) -> None:
        assert await turn(store, A)
        hanging.answers.clear()
        assert not await turn(store, A)

    began = threading.active_count()
    run(tmp_path / "s", test)
    assert not hanging.answers.is_set()
    hanging.answers.set()
    until = time.monotonic() + 20
    while threading.active_count() > began:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_a_session_whose_file_takes_long_to_read_is_there_later(
    tmp_path: Path, hanging: Hanging
) -> None:
    async def write(store: SessionStore) -> None:
        assert await turn(store, A)

    async def read(store: SessionStore) -> None:
        hanging.answers.clear()
        for _ in range(2):
            with pytest.raises(BusyError):
                store.load(A)
        assert store.has(A)
        hanging.answers.set()
        while True:
            try:
                history = store.load(A)
                break
            except BusyError:
                pass
        assert numbers(history) == [1]
        assert await turn(store, A)

    run(tmp_path / "s", write)
    run(tmp_path / "s", read)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_each_call_of_the_system_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The Nth fails, for every N: no crash, and what was said to be on disk is there."""
    logging.getLogger("edgellm").setLevel(logging.CRITICAL)
    limits = Limits(session_bytes=600)

    async def work(store: SessionStore) -> None:
        for _ in range(2):
            for name in (A, B):
                if await turn(store, name):
                    history = store.load(name)
                    assert history is not None
                    kept[name] = history.number
        assert store.load(A)
        store.save(A, Forgotten())
        store.release(A)

    async def look(store: SessionStore) -> None:
        for name, least in kept.items():
            history = store.load(name)
            assert history is not None
            assert history.number >= least

    kept: dict[str, int] = {}
    try:
        for failing in itertools.count(1):
            folder = tmp_path / str(failing)
            folder.mkdir(mode=0o700)
            kept.clear()
            disk = Disk(folder)
            disk.fails = nth = Nth(number, failing)
            with monkeypatch.context() as patch:
                patch.setattr(journal, "os", disk)
                patch.setattr(session_folder, "os", disk)
                run(folder, work, limits)
            run(folder, look)
            assert not list(folder.glob("*.damaged*"))
            if nth.calls < failing:
                break
        assert failing > 60
    finally:
        logging.getLogger("edgellm").setLevel(logging.NOTSET)


# Power cuts


Snapshot = tuple[int, list[str], list[Record]]


def snapshot(history: History) -> Snapshot:
    records = [record for turn in history.turns for record in turn.records()]
    return history.number, list(map(str, history.tools)), records


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


# Age and limits


def test_sessions_expire_by_the_services_own_clock(tmp_path: Path) -> None:
    clocks = Clocks()

    async def first(store: SessionStore) -> None:
        assert await turn(store, A)
        clocks.go(20)
        assert await turn(store, B)
        clocks.go(9)

    async def second(store: SessionStore) -> None:
        assert numbers(store.load(A)) == [1]
        store.release(A)
        clocks.go(2)

    async def third(store: SessionStore) -> None:
        await asyncio.sleep(0)
        while (tmp_path / "s" / f"{A}.journal").exists():
            await asyncio.sleep(0.001)
        assert store.load(A) is None
        assert numbers(store.load(B)) == [1]

    for test in (first, second, third):
        run(tmp_path / "s", test, clocks=clocks)


def test_time_in_which_the_service_was_off_counts_as_a_day_at_most(tmp_path: Path) -> None:
    clocks = Clocks()
    ages = []

    async def look(store: SessionStore) -> None:
        ages.append(store.now / DAY)

    def after(days: float) -> None:
        clocks.wall += days * DAY
        run(tmp_path / "s", look, clocks=clocks)

    for days in (0, 0.25, 3650, -3650, 0.5, -7300, 7300.75):
        after(days)
    grown = [round(age - ages[0], 3) for age in ages]
    assert grown == [0, 0.25, 1.25, 1.25, 1.25, 1.25, 1.25]
    after(3649)
    assert round(ages[-1] - ages[0], 3) == 1.5, "the clock has caught up"


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    clocks, chance = Clocks(), random.Random(3)

    async def test(store: SessionStore) -> None:
        for _ in range(chance.randrange(4)):
            clocks.wall += chance.uniform(-20, 20) * 365 * DAY
            clocks.running += 60
            assert await turn(store, A)
        assert await turn(store, B)

    for _ in range(100 if SOAK else 15):
        run(tmp_path / "s", test, clocks=clocks)
    assert {path.name for path in tmp_path.glob("s/*.journal")} == {
        f"{A}.journal",
        f"{B}.journal",
    }


def test_without_its_clock_a_session_is_no_older_than_the_newest(tmp_path: Path) -> None:
    clocks = Clocks()

    async def first(store: SessionStore) -> None:
        assert await turn(store, A)
        clocks.go(29)
        assert await turn(store, B)

    async def second(store: SessionStore) -> None:
        assert store.now / DAY == 29
        assert numbers(store.load(A)) == [1]

    run(tmp_path / "s", first, clocks=clocks)
    for damage in (b"", b"x" * 60, None):
        clock = tmp_path / "s" / "clock"
        clock.unlink() if damage is None else clock.write_bytes(damage)
        run(tmp_path / "s", second, clocks=clocks)


def test_the_oldest_sessions_go_where_there_are_too_many(tmp_path: Path) -> None:
    clocks = Clocks()
    names = [name_of(bytes([index])) for index in range(8)]

    async def test(store: SessionStore) -> None:
        for name in names:
            clocks.running += 1
            assert await turn(store, name)
            if name != names[0]:
                store.release(name)
                while store._entries[name].history is not None:
                    await asyncio.sleep(0)

    run(tmp_path / "s", test, Limits(sessions=4), clocks)
    kept = {path.stem for path in tmp_path.glob("s/*.journal")}
    assert kept == {names[0], *names[5:]}, "one in use stays"


def test_where_all_sessions_are_in_use_a_further_one_is_not_saved(tmp_path: Path) -> None:
    async def test(store: SessionStore) -> None:
        assert await turn(store, A)
        assert not await turn(store, B)
        assert await turn(store, A)
        store.release(A)
        assert await turn(store, A) or True
        store.release(A)
        while store._entries[A].history is not None:
            await asyncio.sleep(0)
        assert await turn(store, B)

    run(tmp_path / "s", test, Limits(sessions=1))


def test_the_oldest_sessions_go_where_they_take_too_much(tmp_path: Path) -> None:
    clocks = Clocks()
    names = [name_of(bytes([index])) for index in range(8)]

    async def test(store: SessionStore) -> None:
        for name in names:
            clocks.running += 1
            assert await turn(store, name, "x" * 1000)
            store.release(name)
            while store._entries[name].history is not None:
                await asyncio.sleep(0)

    run(tmp_path / "s", test, Limits(total_bytes=5000), clocks)
    total = sum(path.stat().st_size for path in tmp_path.glob("s/*.journal"))
    assert 2500 < total < 6500


def test_a_sessions_oldest_turns_go_where_it_grows(tmp_path: Path) -> None:
    file = tmp_path / "s" / f"{A}.journal"
    sizes = []

    async def test(store: SessionStore) -> None:
        for _ in range(60):
            assert await turn(store, A, "x" * 900)
            sizes.append(file.stat().st_size)

    async def look(store: SessionStore) -> None:
        history = store.load(A)
        assert history is not None
        assert history.number == 60
        assert numbers(history)[-1] == 60
        assert 5 <= len(history.turns) < 20

    run(tmp_path / "s", test, Limits(session_bytes=20_000))
    assert max(sizes) < 22_000
    run(tmp_path / "s", look)


def test_nothing_is_dropped_that_an_answer_under_way_depends_on(tmp_path: Path) -> None:
    async def test(store: SessionStore) -> None:
        for _ in range(5):
            assert await turn(store, A, "x" * 900)
        history = store.load(A)
        assert history is not None
        before = numbers(history)
        assert await store.save(A, asked(history, store, "x" * 5000))
        assert await store.save(A, Called(1, "", "fan", {}, True, "x" * 3000))
        assert numbers(history) == [*before, 6]
        assert await store.save(A, answered(6))
        assert numbers(history) == [6]

    run(tmp_path / "s", test, Limits(session_bytes=6000))


def test_what_is_forgotten_is_no_longer_in_the_file(tmp_path: Path) -> None:
    async def test(store: SessionStore) -> None:
        assert await turn(store, A, "a secret")
        assert b"a secret" in (tmp_path / "s" / f"{A}.journal").read_bytes()
        assert await store.save(A, Forgotten())
        assert b"a secret" not in (tmp_path / "s" / f"{A}.journal").read_bytes()
        assert await turn(store, A)

    async def look(store: SessionStore) -> None:
        assert numbers(store.load(A)) == [2]

    run(tmp_path / "s", test)
    run(tmp_path / "s", look)


def test_nothing_grows_over_many_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 10_000 if SOAK else 1000
    monkeypatch.setattr("os.fsync", lambda descriptor: None)

    def used() -> tuple[int, int]:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))

    async def test(store: SessionStore) -> None:
        for number in range(2 * turns):
            if number == turns:
                memory, files = used()
            name = name_of(bytes([number % 5]))
            assert await turn(store, name, "x" * 100)
            if number % 3 == 0:
                store.release(name)
        grown, now_files = used()
        assert now_files == files
        assert grown - memory < turns / 100 * 1024 + (1 << 20)

    run(tmp_path / "s", test, Limits(session_bytes=20_000))
