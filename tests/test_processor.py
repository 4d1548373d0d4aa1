"""edgellm/processor.py: what a kernel tells of its processor."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm import processor
from edgellm.processor import Cluster

BOARDS = Path(__file__).parent / "data" / "boards"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_board_with_two_kinds_of_cores() -> None:
    found = processor.find(BOARDS / "rk3588")
    assert found.machine == "aarch64"
    assert {"asimddp", "asimdhp"} <= found.features
    assert found.clusters == (
        Cluster("Cortex-A55", (0, 1, 2, 3), 1800, 414),
        Cluster("Cortex-A76", (4, 5), 2400, 1024),
        Cluster("Cortex-A76", (6, 7), 2352, 1003),
    )


def test_a_pc() -> None:
    found = processor.find(BOARDS / "n100")
    assert (found.machine, found.title) == ("x86_64", "Intel(R) N100")
    assert "avx_vnni" in found.features


def test_risc_v() -> None:
    found = processor.find(BOARDS / "visionfive-2")
    assert found.machine == "riscv64"
    assert {*"imafdc", "zba", "zbb"} <= found.features
    assert "v" not in found.features


def test_macos() -> None:
    text = (BOARDS / "apple-m" / "sysctl").read_text()
    values = dict(line.split(": ") for line in text.splitlines())
    found = processor.of_sysctl(values)
    assert found.machine == "aarch64"
    assert found.features >= {"fp", "asimd", "asimddp", "fphp", "asimdhp", "atomics"}
    assert "i8mm" not in found.features
    assert [(part.core, part.cpus) for part in found.clusters] == [
        ("Performance", (0, 1, 2, 3)),
        ("Efficiency", (4, 5, 6, 7)),
    ]


@pytest.mark.parametrize(
    ("cpuinfo", "machine"),
    [
        ("flags\t\t: fpu lm sse2\n", "x86_64"),
        ("flags\t\t: fpu sse2\n", "i686"),
        ("CPU architecture: 8\n", "aarch64"),
        ("CPU architecture: 7\n", "armv7l"),
        ("isa\t\t: rv32imac\n", "riscv32"),
        ("", ""),
    ],
)
def test_architectures(cpuinfo: str, machine: str, tmp_path: Path) -> None:
    write(tmp_path / "proc/cpuinfo", cpuinfo)
    assert processor.find(tmp_path).machine == machine


def test_flags_are_read_word_by_word(tmp_path: Path) -> None:
    text = "processor\t: 0\nflags\t\t: fpu avx512_vnni_more popcnt\nbugs\t: avx2\n"
    write(tmp_path / "proc/cpuinfo", text)
    assert processor.find(tmp_path).features == {"fpu", "avx512_vnni_more", "popcnt"}


def test_what_one_core_lacks_the_processor_lacks(tmp_path: Path) -> None:
    cores = ("fp asimd asimddp", "fp asimd")
    text = "\n".join(f"processor\t: {i}\nFeatures\t: {words}\n" for i, words in enumerate(cores))
    write(tmp_path / "proc/cpuinfo", text)
    assert processor.find(tmp_path).features == {"fp", "asimd"}


def test_kinds_of_cores() -> None:
    assert processor.cores(BOARDS / "rk3588") == {"Cortex-A55", "Cortex-A76"}
    assert processor.cores(BOARDS / "nowhere") == frozenset()


def test_without_ratings_clocks_tell_what_cores_can_do(tmp_path: Path) -> None:
    folder = tmp_path / "sys/devices/system/cpu"
    write(folder / "online", "0-2\n")
    for first, listed, clock in ((0, "0 1", 1_000_000), (2, "2", 2_000_000)):
        write(folder / f"cpufreq/policy{first}/related_cpus", f"{listed}\n")
        write(folder / f"cpufreq/policy{first}/cpuinfo_max_freq", f"{clock}\n")
    assert processor.capacities(tmp_path) == {0: 512, 1: 512, 2: 1024}
    write(folder / "cpu0/cpu_capacity", "300\n")  # of one core only: the clocks still count
    assert processor.capacities(tmp_path)[0] == 512
    (folder / "cpufreq/policy2/cpuinfo_max_freq").write_text("unknown\n")
    assert processor.capacities(tmp_path) == {}


@given(st.sets(st.integers(0, 99), min_size=1))
def test_lists_of_numbers(cpus: set[int]) -> None:
    assert processor.numbers(",".join(f"{cpu}-{cpu}" for cpu in cpus)) == tuple(sorted(cpus))
    assert processor.numbers(" ".join(map(str, cpus))) == tuple(sorted(cpus))


@pytest.mark.parametrize("text", ["", "x", "3-1", "-1", "0-4096", "0,,1", "0-1-2", "9" * 9000])
def test_what_is_no_list_of_numbers(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        processor.numbers(text)


@given(st.binary(max_size=300))
def test_no_content_of_files_is_a_surprise(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        paths = ("proc/cpuinfo", *(f"sys/devices/system/cpu/{file}" for file in ("online", "cpu0")))
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        processor.find(root)


def test_links_out_of_the_root_arent_followed(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    write(outside, "flags\t\t: fpu lm\n")
    write(root / "proc" / "inside", "flags\t\t: fpu\n")
    (root / "proc" / "cpuinfo").symlink_to(outside)
    assert processor.find(root).machine == ""
    (root / "proc" / "cpuinfo").unlink()
    (root / "proc" / "cpuinfo").symlink_to("inside")
    assert processor.find(root).machine == "i686"


def test_a_pipe_isnt_waited_for(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    os.mkfifo(tmp_path / "proc" / "cpuinfo")
    assert processor.find(tmp_path).machine == ""


def test_this_machine_tells_what_it_is() -> None:
    found = processor.find()
    assert found.machine == processor.machine()
    assert found.features == processor.features()
    assert found.clusters
