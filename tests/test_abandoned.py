"""Histories of models that nobody serves any more."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from stored_sessions import A, B, Clocks, run, turn

from edgellm.history import abandoned
from edgellm.history.session_folder import DAY, SessionFolder
from edgellm.history.session_store import SessionStore

DAYS = 30


async def talk(store: SessionStore) -> None:
    assert await turn(store, A)


def journals(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.journal"))


def test_they_grow_old_day_by_day_and_go_with_their_folder(tmp_path: Path) -> None:
    clocks, own, other = Clocks(), tmp_path / "own.gguf", tmp_path / "other.gguf"
    for folder in (own, other):
        run(folder, talk, clocks=clocks)
    clocks.go(20)

    async def later(store: SessionStore) -> None:
        assert await turn(store, B)

    run(other, later, clocks=clocks)  # the time between counts as a day
    left = []
    for _ in range(40):
        clocks.go(1)
        abandoned.look_after(own, DAYS, clocks.wall)
        left.append(journals(other))
    assert left.count(sorted([A, B])) == 29
    assert left.count([B]) == 1
    assert not other.exists()
    assert journals(own) == [A]


def test_a_clock_that_is_wrong_by_years_counts_as_a_day(tmp_path: Path) -> None:
    clocks, own, other = Clocks(), tmp_path / "own.gguf", tmp_path / "other.gguf"
    run(other, talk, clocks=clocks)
    for wrong in (20 * 365 * DAY, -20 * 365 * DAY, 0.0):
        abandoned.look_after(own, DAYS, clocks.wall + wrong)
        assert journals(other) == [A]


def test_what_is_in_use_or_not_ours_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks, own = Clocks(), tmp_path / "own.gguf"
    used, open_to_all, linked = tmp_path / "used.gguf", tmp_path / "open", tmp_path / "linked"
    elsewhere, file = tmp_path.with_name(tmp_path.name + "-elsewhere"), tmp_path / "file"
    for folder in (used, open_to_all, elsewhere):
        run(folder, talk, clocks=clocks)
    open_to_all.chmod(0o755)
    linked.symlink_to(elsewhere)
    file.touch()
    service = SessionFolder(used)
    service.lock()
    for _ in range(40):
        clocks.go(1)
        abandoned.look_after(own, DAYS, clocks.wall)
    service.release()
    for folder in (used, open_to_all, elsewhere):
        assert journals(folder) == [A]
    assert file.exists()


def test_other_files_keep_their_folder(tmp_path: Path) -> None:
    clocks, other = Clocks(), tmp_path / "other.gguf"
    run(other, talk, clocks=clocks)
    (other / "note").touch()
    for _ in range(40):
        clocks.go(1)
        abandoned.look_after(tmp_path / "own.gguf", DAYS, clocks.wall)
    assert sorted(path.name for path in other.iterdir()) == ["clock", "note"]


def test_the_first_look_is_not_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Any] = []
    monkeypatch.setattr(abandoned, "look_after", lambda *given: looks.append(given))

    async def main() -> None:
        expiring = asyncio.create_task(abandoned.expire(tmp_path, DAYS))
        await asyncio.sleep(0.05)
        expiring.cancel()
        assert not looks
        monkeypatch.setattr(abandoned, "FIRST_S", 0.0)
        expiring = asyncio.create_task(abandoned.expire(tmp_path, DAYS))
        async with asyncio.timeout(20):
            while not looks:
                await asyncio.sleep(0.01)
        expiring.cancel()

    asyncio.run(main())
    assert looks[0][:2] == (tmp_path, DAYS)
