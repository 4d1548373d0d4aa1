"""The store of sessions: what is there after a restart, a crash, a power cut, a full disk."""

from __future__ import annotations

import asyncio
import os
import struct
import zlib
from pathlib import Path

import pytest
from power_cut import Disk
from stored_sessions import A, B, answered, asked, messages, numbers, run, turn

from edgellm.errors import UsageError
from edgellm.history import journal
from edgellm.history.journal import Journal
from edgellm.history.records import (
    Called,
    Declared,
    Failed,
    History,
    pack,
)
from edgellm.history.session_store import SessionStore


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
