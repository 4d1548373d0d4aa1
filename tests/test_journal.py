"""The journal's file: what is written, what is read of damaged ones, what a failing disk leaves."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import pytest
from power_cut import Disk, Nth

from edgellm.errors import FormatError, UnsupportedError
from edgellm.history import journal
from edgellm.history.journal import HEADER, MAX_FILE, MAX_RECORD, RECORD, Journal

SOAK = "EDGELLM_SOAK" in os.environ
FAILURES = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)


def written(path: Path, *payloads: bytes) -> Journal:
    return Journal.create(path, payloads)


def opened(path: Path) -> tuple[Journal, list[bytes]]:
    contents = journal.read(path)
    assert contents.damage is None
    return Journal(path, contents.salt, contents.size), contents.payloads


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    one = written(file, b"first", b"second")
    one.append(b"third")
    two, payloads = opened(file)
    assert payloads == [b"first", b"second", b"third"]
    two.append(b"\0" * MAX_RECORD)
    assert opened(file)[1][3:] == [b"\0" * MAX_RECORD]
    two.replace([b"only"])
    two.append(b"more")
    assert opened(file)[1] == [b"only", b"more"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert two.size == file.stat().st_size


def test_the_format_is_as_it_says(tmp_path: Path) -> None:
    file = tmp_path / "file"
    written(file, b"first").append(b"second")
    data = file.read_bytes()
    magic, version, salt, check = struct.unpack("<8sIII", data[:20])
    assert (magic, version, check) == (b"EDGEjrnl", 1, zlib.crc32(data[:16]))
    place = 20
    for payload in (b"first", b"second"):
        length = len(payload)
        seed = zlib.crc32(struct.pack("<IQI", salt, place, length))
        assert data[place : place + 8] == struct.pack("<II", length, zlib.crc32(payload, seed))
        assert data[place + 8 : place + 8 + length] == payload
        place += 8 + length
    assert place == len(data)


def test_each_append_is_one_write_and_on_disk_when_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    written(file, b"first")
    disk = Disk(tmp_path)
    monkeypatch.setattr(journal, "os", disk)
    one, _ = opened(file)
    one.append(b"second")
    # Whoever wrote the file before may not have come to having its name on disk.
    assert [kind for _, kind, *_ in disk.names[-1:]] == ["sync"]
    assert [kind for _, kind, *_ in disk.files["file"].events] == ["write", "sync"]
    moment = disk.moment
    one.append(b"third")
    assert disk.moment == moment + 2


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 7, 8, 9, 12])
def test_a_torn_tail_is_cut_off(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "file"
    written(file, b"first").append(b"second")
    whole = file.read_bytes()
    torn = whole[: len(whole) - RECORD.size - 6 + kept]
    for tail in (b"", bytes(700), os.urandom(700)):
        file.write_bytes(torn + tail)
        one, payloads = opened(file)
        assert payloads == [b"first"]
        assert file.read_bytes() == torn + tail, "reading changes nothing"
        one.append(b"third")
        assert opened(file)[1] == [b"first", b"third"]
        file.write_bytes(torn + tail)
        one, _ = opened(file)
        one.sync()
        assert file.read_bytes() == whole[: -RECORD.size - 6]


def test_damage_before_sound_records_is_told_and_nothing_is_changed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    written(file, b"first", b"second", b"third")
    whole = file.read_bytes()
    second = HEADER.size + RECORD.size + 5
    for place in range(second, second + RECORD.size + 6):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        file.write_bytes(damaged)
        contents = journal.read(file)
        assert contents.payloads == [b"first"]
        assert contents.size == second
        with pytest.raises(FormatError, match=f"file: record is 'at byte {second}'"):
            raise contents.damage or AssertionError
        assert file.read_bytes() == damaged


def test_a_text_that_looks_like_a_record_is_none(tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    written(other, b"first", b"second")
    inside = other.read_bytes()[HEADER.size :]
    written(file, b"first").append(inside + b"end")
    file.write_bytes(file.read_bytes()[:-1])
    assert opened(file)[1] == [b"first"]


def test_more_than_one_record_cannot_be_torn(tmp_path: Path) -> None:
    file = tmp_path / "file"
    written(file, b"first")
    file.write_bytes(file.read_bytes() + bytes(RECORD.size + MAX_RECORD))
    assert opened(file)[1] == [b"first"]
    file.write_bytes(file.read_bytes() + b"\0")
    assert journal.read(file).damage is not None


def test_a_tail_full_of_possible_records_is_not_searched_for_long(tmp_path: Path) -> None:
    file = tmp_path / "file"
    written(file, b"first")
    file.write_bytes(file.read_bytes() + b"\0\0\x08\0" * (MAX_RECORD // 4))
    assert journal.read(file).damage is not None


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    written(file, b"first")
    whole = file.read_bytes()
    for data in (b"", whole[:19], b"X" + whole[1:], bytes(100)):
        file.write_bytes(data)
        with pytest.raises(FormatError, match="file"):
            journal.read(file)
    header = HEADER.pack(journal.MAGIC, 2, 0, 0)[:-4]
    file.write_bytes(header + struct.pack("<I", zlib.crc32(header)))
    with pytest.raises(UnsupportedError, match="version is 2"):
        journal.read(file)
    with file.open("wb") as sparse:
        sparse.truncate(MAX_FILE + 1)
    with pytest.raises(FormatError, match="size"):
        journal.read(file)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        journal.read(file)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(file)
    for name in ("folder", "pipe", "link"):
        with pytest.raises(FormatError, match=f"{name}: kind"):
            journal.read(tmp_path / name)


def test_hostile_bytes_give_one_kind_of_error(tmp_path: Path) -> None:
    file, chance = tmp_path / "file", random.Random(5)
    written(file, *(chance.randbytes(chance.randrange(1, 200)) for _ in range(8)))
    whole = file.read_bytes()
    for _ in range(20_000 if SOAK else 500):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(data))
            length = chance.choice([0, 1, 4, 8])
            data[place : place + length] = chance.choice(
                [b"", bytes(4), b"\xff" * 4, chance.randbytes(4), (2**31).to_bytes(4, "little")]
            )
        file.write_bytes(data)
        try:
            contents = journal.read(file)
        except FormatError:
            continue
        assert contents.size <= len(data)
        assert len(contents.payloads) <= 9


def test_too_large_a_record_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    one = written(file, b"first")
    for payload in (b"", bytes(MAX_RECORD + 1)):
        with pytest.raises(OSError, match="record"):
            one.append(payload)
        with pytest.raises(OSError, match="record"):
            one.replace([payload])
    assert opened(file)[1] == [b"first"]


def test_a_file_that_somebody_else_has_shortened_is_not_filled_with_zeros(tmp_path: Path) -> None:
    file = tmp_path / "file"
    one = written(file, b"first")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(OSError, match="shortened"):
        one.append(b"second")


@pytest.mark.parametrize("number", FAILURES)
def test_each_call_of_the_system_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The Nth call fails, for every N, alone or with all after it: what was appended before is
    there, and nothing that wasn't meant to be."""
    file = tmp_path / "file"

    def work() -> list[list[bytes]]:
        """Returns what may be in the file afterwards."""
        try:
            one, payloads = opened(file)
        except OSError:
            return [[b"first"]]
        sure = maybe = [payloads]
        for payload in (b"second", b"third"):
            maybe = [*maybe, [*sure[0], payload]]
            with contextlib.suppress(OSError):
                one.append(payload)
                sure = maybe = [maybe[-1]]
        try:
            maybe = [*maybe, [b"fourth"]]
            one.replace([b"fourth"])
            sure = maybe = [[b"fourth"]]
        except OSError:
            sure = [*sure, [b"fourth"]]
        try:
            one.append(b"fifth")
        except OSError:
            return maybe + [[*state, b"fifth"] for state in sure]
        return [[*state, b"fifth"] for state in sure]

    for lasting in (False, True):
        for failing in itertools.count(1):
            file.unlink(missing_ok=True)
            written(file, b"first")
            disk = Disk(tmp_path)
            disk.fails = nth = Nth(number, failing, lasting)
            with monkeypatch.context() as patch:
                patch.setattr(journal, "os", disk)
                possible = work()
            assert opened(file)[1] in possible, (failing, lasting)
            if nth.calls < failing:
                break
        assert failing > 25


@pytest.mark.parametrize("life", range(500 if SOAK else 20))
def test_a_power_cut_loses_nothing_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, life: int
) -> None:
    """Simulated: 50 cuts in each life of a file."""
    chance = random.Random(life)
    folder, left = tmp_path / "now", tmp_path / "left"
    folder.mkdir()
    left.mkdir()
    disk = Disk(folder)
    monkeypatch.setattr(journal, "os", disk)
    file = folder / "file"
    states: list[tuple[int, list[bytes]]] = []
    """When a state was acknowledged, and the state."""
    payloads = [chance.randbytes(chance.randrange(1, 1500))]
    one = Journal.create(file, payloads)
    states.append((disk.moment, list(payloads)))
    for _ in range(chance.randrange(1, 8)):
        new = chance.randbytes(chance.randrange(1, 1500))
        if chance.random() < 0.2:
            payloads = [*payloads[-2:], new]
            one.replace(payloads)
        else:
            payloads = [*payloads, new]
            one.append(new)
        states.append((disk.moment, payloads))
    monkeypatch.undo()
    for _ in range(100 if SOAK else 50):
        moment = chance.randrange(disk.moment + 1)
        for name, data in disk.left_after(moment, chance).items():
            (left / name).write_bytes(data)
        acknowledged = [state for when, state in states if when <= moment]
        if acknowledged or (left / "file").exists():
            _, found = opened(left / "file")
            rest = [state for when, state in states if when > moment]
            assert found in (acknowledged[-1:] + rest[:1])
        for path in left.iterdir():
            path.unlink()


def test_a_killed_process_loses_nothing_that_was_acknowledged() -> None:
    """SIGKILL at random moments: 1,000 times, 10,000 for a release."""
    kills = 10_000 if SOAK else 1000
    child = Path(__file__).with_name("journal_child.py")
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # spares a real disk
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        command = [sys.executable, child, folder, str(kills)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    turns, _ = map(int, done.stdout.split())
    assert turns > 0
