"""backends/cpu/target.py: kinds of processors, and which this machine is."""

from __future__ import annotations

import platform

import pytest

from edgellm.errors import BackendError, UsageError
from edgellm_backends.cpu import CPUBackend, target

NAMES = [processor.name for processor in target.TARGETS]


def pretend(
    monkeypatch: pytest.MonkeyPatch, machine: str, features: set[str], cores: set[str] | None = None
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(target, "features", lambda: frozenset(features))
    monkeypatch.setattr(target, "cores", lambda: frozenset(cores or ()))


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
    pretend(monkeypatch, machine, every - lacking)
    assert target.native().name == best


def test_a_little_core_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "aarch64", {"fp", "asimd"}, {"Cortex-A53", "Cortex-A72"})
    assert target.native().name == "cortex-a53"


@pytest.mark.parametrize(("machine", "features"), [("riscv64", {"fp"}), ("x86_64", {"popcnt"})])
def test_a_processor_without_kernels(
    machine: str, features: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, machine, features)
    with pytest.raises(BackendError, match=f"no kernels for this processor .{machine}"):
        target.native()
    assert "no kernels" in CPUBackend().probe()


def test_what_a_processor_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = set(target.find("avx512vnni").features)
    pretend(monkeypatch, "x86_64", everything - {"avx512_vnni", "avx512bw"})
    lacks = CPUBackend().lacks
    assert lacks(target.find("avx512vnni")) == "this processor has no avx512bw, avx512_vnni"
    assert lacks(target.find("avx2")) is None
    assert lacks(target.find("cortex-a76")) == "this machine is x86_64, not aarch64"


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
    with pytest.raises(
        UsageError, match=r"'raspberry-pi-9'; known are android, .*raspberry-pi-3, "
    ):
        target.of_board("raspberry-pi-9")
