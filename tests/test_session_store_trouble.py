"""A store whose disk is full, fails or hangs."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from power_cut import Disk, Nth
from stored_sessions import A, B, messages, numbers, run, turn

from edgellm.errors import BusyError
from edgellm.history import journal, session_folder, session_store
from edgellm.history.records import Forgotten, History
from edgellm.history.session_store import Limits, SessionStore


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


async def loaded(store: SessionStore, name: str) -> History | None:
    """A session, asked for again where a busy machine takes its time with the file."""
    while True:
        try:
            return store.load(name)
        except BusyError:
            await asyncio.sleep(0.05)


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
                    history = await loaded(store, name)
                    assert history is not None
                    kept[name] = history.number
        assert await loaded(store, A)
        store.save(A, Forgotten())
        store.release(A)

    async def look(store: SessionStore) -> None:
        for name, least in kept.items():
            history = await loaded(store, name)
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
