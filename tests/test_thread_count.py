"""backends/cpu/thread_count.py: the fastest number of threads, measured and remembered."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgellm import folders
from edgellm_backends.cpu import thread_count
from edgellm_backends.cpu.thread_count import Memory, measured


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else runs."""
    monkeypatch.setattr(thread_count, "_interruptions", lambda: 0)


class Work:
    """Takes so many seconds with so many threads, of a clock of its own."""

    def __init__(self, patch: pytest.MonkeyPatch, seconds: dict[int, float]) -> None:
        self.seconds, self.now = seconds, 0.0
        self.counts: list[int] = []
        patch.setattr(thread_count, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def __call__(self, count: int) -> None:
        self.counts.append(count)
        self.now += self.seconds[count]


PI = {1: 4e-4, 2: 1e-4, 3: 2e-4, 4: 2e-4}


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 40, 2: 20, 3: 14, 4: 10}, 4),
        ({1: 9.26**-1, 2: 13.23**-1, 3: 12.5**-1, 4: 11.59**-1}, 2),  # as a Raspberry Pi 5 reads
        ({1: 40, 2: 20, 3: 9.6, 4: 10}, 4),  # too little to be sure
        ({1: 5, 2: 5, 3: 5, 4: 10}, 3),  # of equals the most
        ({1: 1, 2: 4, 3: 9, 4: 16}, 1),
        ({1: 1, 2: 0.5}, 2),
    ],
)
def test_the_fastest_is_chosen(
    seconds: dict[int, float], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(monkeypatch, {count: 1e-4 * value for count, value in seconds.items()})
    assert measured(max(seconds), work) == best


@pytest.mark.usefixtures("quiet")
def test_a_slow_machine_is_measured_in_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, {1: 0.3, 2: 0.2, 3: 0.15, 4: 0.2})
    assert measured(4, work) == 3
    assert work.counts == [4, 4, 3, 2, 1]


@pytest.mark.usefixtures("quiet")
def test_of_many_cores_some_counts_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, dict.fromkeys(range(65), 1e-4))
    assert measured(64, work) == 64
    assert len(set(work.counts)) == thread_count.MOST_COUNTS


def test_runs_that_were_interrupted_dont_count(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, {1: 1e-4, 2: 2e-4})
    switches = itertools.count()
    monkeypatch.setattr(thread_count, "_interruptions", lambda: next(switches))
    assert measured(2, work) is None


def test_interruptions_are_the_systems_own() -> None:
    before = thread_count._interruptions()
    os.sched_yield()
    assert thread_count._interruptions() >= before


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None) -> Memory:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return thread_count.remembered(b"library", {0, 1, 2, 3}, 4)


def test_it_is_measured_once(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, PI)
    assert memory.fastest(work) == 2
    measuring = len(work.counts)
    assert thread_count.remembered(b"library", {3, 2, 1, 0}, 4).fastest(work) == 2
    assert len(work.counts) == measuring
    thread_count.remembered(b"another", {0, 1, 2, 3}, 4).fastest(work)
    thread_count.remembered(b"library", {4, 5, 6, 7}, 4).fastest(work)
    thread_count.remembered(b"library", {0, 1, 2, 3}, 3).fastest(work)
    assert len(list((folders.cache() / "threads").iterdir())) == 4


@pytest.mark.parametrize("content", ["", "0", "5", "two", "4" * 5000, "\xb2", "-1"])
def test_a_damaged_memory_is_written_anew(
    memory: Memory, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(monkeypatch, PI)
    memory.fastest(work)
    (file,) = (folders.cache() / "threads").iterdir()
    file.write_text(content)
    assert memory.fastest(work) == 2
    assert file.read_text() == "2\n"


def test_on_a_busy_machine_nothing_is_remembered(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_count, "measured", lambda most, run: None)
    assert memory.fastest(print) == 4
    assert not (folders.cache() / "threads").exists()


def test_a_cache_that_cannot_be_written(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, PI)
    folders.cache().mkdir()
    (folders.cache() / "threads").write_text("no folder")
    assert memory.fastest(work) == 2


def test_without_a_home_nothing_is_remembered(monkeypatch: pytest.MonkeyPatch, quiet: None) -> None:
    for name in ("CACHE_DIRECTORY", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError()))
    work = Work(monkeypatch, {1: 1e-4, 2: 2e-4})
    assert thread_count.remembered(b"library", {0, 1}, 2).fastest(work) == 1
