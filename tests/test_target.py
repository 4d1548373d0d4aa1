"""backends/cpu/target.py: kinds of processors, and which this machine is."""

from __future__ import annotations

import platform
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from edgellm.errors import BackendError, UsageError
from edgellm_backends.cpu import CPUBackend, target
from edgellm_backends.cpu.target import Processor

NAMES = [processor.name for processor in target.TARGETS]


@pytest.fixture(autouse=True)
def no_memory_of_this_machine() -> None:
    target.features.cache_clear()


def pretend(
    monkeypatch: pytest.MonkeyPatch, machine: str, cpuinfo: Path | None, features: set[str]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(target, "PROCESSOR_FILE", cpuinfo or Path("/nonexistent"))
    monkeypatch.setattr(target, "features", lambda: frozenset(features))


@pytest.mark.parametrize("name", NAMES)
def test_found_by_name(name: str) -> None:
    assert target.find(name).name == name
    assert target.find(name.upper().replace("-", "_")).name == name


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no target 'avx9'; known are native, avx512vnni, .*a53"):
        target.find("avx9")


def test_this_machine_runs_its_own() -> None:
    native = target.find("native")
    assert target.missing(native) == []
    assert CPUBackend().lacks(native) is None
    assert native.name in CPUBackend().probe()


@pytest.mark.parametrize(
    ("machine", "lacking", "best"),
    [
        ("x86_64", set(), "avx512vnni"),
        ("AMD64", {"avx512_vnni"}, "avxvnni"),
        ("x86_64", {"avx512vl", "avx_vnni"}, "avx2"),
        ("x86_64", {"f16c", "avx512f"}, "sse4.2"),
        ("aarch64", set(), "i8mm"),
        ("arm64", {"i8mm"}, "cortex-a76"),
        ("aarch64", {"asimddp", "i8mm"}, "cortex-a72"),
    ],
)
def test_the_best_that_fits(
    machine: str, lacking: set[str], best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = {feature for processor in target.TARGETS for feature in processor.features}
    pretend(monkeypatch, machine, None, every - lacking)
    assert target.native().name == best


def test_a_little_core_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nCPU part\t: 0xd03\n\nprocessor\t: 1\nCPU part\t: 0xd08\n")
    pretend(monkeypatch, "aarch64", cpuinfo, {"fp", "asimd"})
    assert target.native().name == "cortex-a53"


@pytest.mark.parametrize(("machine", "features"), [("riscv64", {"fp"}), ("x86_64", {"popcnt"})])
def test_a_processor_without_kernels(
    machine: str, features: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, machine, None, features)
    with pytest.raises(BackendError, match=f"no kernels for this processor .{machine}"):
        target.native()
    assert "no kernels" in CPUBackend().probe()


def test_what_a_processor_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = set(target.find("avx512vnni").features)
    pretend(monkeypatch, "x86_64", None, everything - {"avx512_vnni", "avx512bw"})
    lacks = CPUBackend().lacks
    assert lacks(target.find("avx512vnni")) == "this processor has no avx512bw, avx512_vnni"
    assert lacks(target.find("avx2")) is None
    assert lacks(target.find("cortex-a76")) == "this machine is x86_64, not aarch64"


def test_flags_are_read_word_by_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx512_vnni_more popcnt\nbugs\t: avx2\n")
    monkeypatch.setattr(target, "PROCESSOR_FILE", cpuinfo)
    monkeypatch.setattr(target, "machine", lambda: "x86_64")
    assert target.features() == {"fpu", "avx512_vnni_more", "popcnt"}


@pytest.mark.parametrize(
    ("board", "name"),
    [
        ("raspberry-pi-5", "cortex-a76"),
        ("raspberry-pi-4", "cortex-a72"),
        ("raspberry-pi-3", "cortex-a53"),
        ("raspberry-pi-zero-2-w", "cortex-a53"),
    ],
)
def test_boards(board: str, name: str) -> None:
    assert target.of_board(board).name == name


def test_an_unknown_board_is_told_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'raspberry-pi-9'; known are raspberry-pi-3, rasp"):
        target.of_board("raspberry-pi-9")


def test_every_profile_is_whole() -> None:
    profiles = [
        path for path in resources.files("edgellm_boards").iterdir() if path.name.endswith(".toml")
    ]
    assert profiles
    seen: set[str] = set()
    for path in profiles:
        profile = tomllib.loads(path.read_text(encoding="utf-8"))
        assert profile["title"]
        assert isinstance(target.find(profile["cpu"]["target"]), Processor)
        compatible = set(profile["compatible"])
        assert compatible
        assert not compatible & seen
        seen |= compatible
