"""backends/cpu/cores.py: how many threads are worth while."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgellm_backends.cpu import cores


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight logical processors of four cores."""
    for cpu in range(8):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    monkeypatch.setattr(cores, "TOPOLOGY", tmp_path)
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    return tmp_path


def test_threads_of_one_core_count_once(machine: Path) -> None:
    assert cores.usable() == 4


@pytest.mark.parametrize(("allowed", "count"), [({0, 4}, 1), ({0, 1, 5}, 2), ({7}, 1)])
def test_only_those_that_the_process_may_use(
    machine: Path, allowed: set[int], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: allowed)
    assert cores.usable() == count


@pytest.mark.parametrize(
    ("limit", "count"),
    [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("", 4)],
)
def test_a_containers_limit(machine: Path, limit: str, count: int) -> None:
    (machine / "cpu.max").write_text(limit)
    assert cores.usable() == count


def test_without_a_topology_each_processor_is_a_core(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "TOPOLOGY", machine / "nowhere")
    assert cores.usable() == 8
