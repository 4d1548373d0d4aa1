"""edgellm/memory.py: what this machine has, and what comes of too little."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from edgellm import memory
from edgellm.errors import FitError

MEMINFO = "MemTotal: 4000000 kB\nMemFree: 10 kB\nMemAvailable:  1000000 kB\n"


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_what_the_system_leaves_and_what_this_process_has_already(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", MEMINFO)
    assert memory.available(tmp_path) == 1_000_000 << 10
    write(tmp_path, "proc/self/status", "VmRSS:\t  900 kB\nRssAnon:\t  500 kB\n")
    assert memory.available(tmp_path) == 1_000_500 << 10


def test_a_containers_limit(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", MEMINFO)
    write(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    write(tmp_path, "sys/fs/cgroup/memory.current", f"{300 << 20}\n")
    assert memory.available(tmp_path) == 1_000_000 << 10
    write(tmp_path, "sys/fs/cgroup/memory.max", f"{512 << 20}\n")
    assert memory.available(tmp_path) == 212 << 20
    write(tmp_path, "sys/fs/cgroup/memory.stat", f"anon 5\nfile {100 << 20}\nkernel 7\n")
    assert memory.available(tmp_path) == 312 << 20


def test_a_system_that_tells_nothing_of_what_it_leaves(tmp_path: Path) -> None:
    assert memory.available(tmp_path) == memory.physical()


def test_what_this_process_takes_it_takes_from_there() -> None:
    before = memory.available()
    if before is None:
        pytest.skip("this system doesn't tell")
    with mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:
        for page in range(0, len(taken), mmap.PAGESIZE):
            taken[page] = 1
        after = memory.available()
    assert after is not None
    assert after > before // 2  # other processes come and go


def test_too_little_is_an_error_that_says_what_helps() -> None:
    room = ("a small board", 1 << 20)
    memory.require("model", 1 << 20, 512, 1, room)
    said = (
        r"model needs about 2\.0 MiB with 2 contexts of 512 tokens, a small board has 1\.0 MiB left"
    )
    with pytest.raises(FitError, match=said + ".*-c"):
        memory.require("model", 2 << 20, 512, 2, room)
    with pytest.raises(FitError, match="has 0 bytes left; pray; --force"):
        memory.require("model", 1, 512, 1, ("it", -1), "pray")


def test_the_machines_memory_is_known_here() -> None:
    assert memory.physical() is None or memory.physical() > 64 << 20


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 29, "1.5 GiB"),
    ],
)
def test_sizes_for_people(count: int, shown: str) -> None:
    assert memory.size(count) == shown
