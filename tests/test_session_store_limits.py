"""What a store forgets: by age, by number and by size."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from pathlib import Path

import pytest
from stored_sessions import SOAK, A, B, Clocks, answered, asked, numbers, run, turn

from edgellm.history.records import (
    Called,
    Forgotten,
)
from edgellm.history.session_registry import name_of
from edgellm.history.session_store import DAY, Limits, SessionStore


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
