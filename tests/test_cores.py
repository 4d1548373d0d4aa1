"""backends/cpu/cores.py: which cores are computed on, and how many threads are worth while."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgellm_backends.cpu import cores
from edgellm_backends.cpu.cores import Cores

BOARDS = Path(__file__).parent / "data" / "boards"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight logical processors of four cores."""
    for cpu in range(8):
        folder = tmp_path / "sys/devices/system/cpu" / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    monkeypatch.setattr(cores, "ROOT", tmp_path)
    allow(monkeypatch, set(range(8)))
    return tmp_path


def allow(monkeypatch: pytest.MonkeyPatch, cpus: set[int]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cpus)


def test_threads_of_one_core_count_once(machine: Path) -> None:
    assert cores.find() == Cores(4, frozenset(range(8)), little=False)
    assert cores.usable() == 4


@pytest.mark.parametrize(("allowed", "count"), [({0, 4}, 1), ({0, 1, 5}, 2), ({7}, 1)])
def test_only_those_that_the_process_may_use(
    machine: Path, allowed: set[int], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(monkeypatch, allowed)
    assert cores.find() == Cores(count, frozenset(allowed), little=False)


@pytest.mark.parametrize(
    ("limit", "count"),
    [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("", 4)],
)
def test_a_containers_limit(machine: Path, limit: str, count: int) -> None:
    (machine / "sys/fs/cgroup").mkdir(parents=True)
    (machine / "sys/fs/cgroup/cpu.max").write_text(limit)
    assert cores.usable() == count


def test_without_a_topology_each_processor_is_a_core(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "ROOT", machine / "nowhere")
    assert cores.usable() == 8


@pytest.mark.parametrize(
    ("board", "allowed", "expected"),
    [
        ("rk3588", set(range(8)), Cores(4, frozenset({4, 5, 6, 7}), little=True)),
        ("rk3588", {0, 1, 2, 6, 7}, Cores(2, frozenset({6, 7}), little=True)),
        ("rk3588", {4, 5}, Cores(2, frozenset({4, 5}), little=False)),
        ("rk3588", {1, 2, 3}, Cores(3, frozenset({1, 2, 3}), little=False)),
        ("android", set(range(8)), Cores(4, frozenset({4, 5, 6, 7}), little=True)),
        ("raspberry-pi-5", set(range(4)), Cores(4, frozenset(range(4)), little=False)),
        ("n100", set(range(4)), Cores(4, frozenset(range(4)), little=False)),
    ],
)
def test_big_cores_alone(
    board: str, allowed: set[int], expected: Cores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "ROOT", BOARDS / board)
    allow(monkeypatch, allowed)
    assert cores.find() == expected


def test_cores_of_nearly_one_speed_are_all_big(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sys/devices/system/cpu"
    for cpu, capacity in enumerate((1024, 768, 512, 511)):
        (folder / f"cpu{cpu}").mkdir(parents=True)
        (folder / f"cpu{cpu}/cpu_capacity").write_text(f"{capacity}\n")
    (folder / "online").write_text("0-3\n")
    monkeypatch.setattr(cores, "ROOT", tmp_path)
    allow(monkeypatch, set(range(4)))
    assert cores.find() == Cores(3, frozenset({0, 1, 2}), little=True)
