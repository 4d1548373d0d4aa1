"""Processor: what kernels are compiled for, and which of them this machine has."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm.errors import BackendError, UsageError
from edgellm.executor import Target
from edgellm.processor import cores, features, machine

if TYPE_CHECKING:
    from edgellm.board_profile import Board

V2 = ("cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2")
V3 = (*V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
V4 = (*V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
NEON = ("fp", "asimd")
DOTPROD = (*NEON, "crc32", "atomics", "asimdrdm", "fphp", "asimdhp", "asimddp")

CORTEX_A53 = "Cortex-A53"

# clang would else call helpers for atomic operations that are in a library of its own.
INLINE = "-mno-outline-atomics"


@dataclass(frozen=True)
class Processor(Target):
    """A kind of processor: objects for it run on every `machine` that has all the `features`, which
    are named as in /proc/cpuinfo."""

    options: tuple[str, ...] = ()
    """clang's, besides those that follow from `machine`."""


# The best first, for each machine.
TARGETS = (
    Processor(
        "avx512vnni",
        "x86_64",
        (*V4, "avx512_vnni"),
        ("-march=x86-64-v4", "-mavx512vnni", "-mtune=znver4"),
    ),
    Processor(
        "avxvnni",
        "x86_64",
        (*V3, "avx_vnni"),
        ("-march=x86-64-v3", "-mavxvnni", "-mtune=alderlake"),
    ),
    Processor("avx2", "x86_64", V3, ("-march=x86-64-v3", "-mtune=haswell")),
    Processor("sse4.2", "x86_64", V2, ("-march=x86-64-v2",)),
    Processor(
        "i8mm",
        "aarch64",
        (*DOTPROD, "i8mm"),
        ("-march=armv8.2-a+fp16+dotprod+i8mm", "-mtune=cortex-a710", INLINE),
    ),
    Processor(
        "cortex-a76",
        "aarch64",
        DOTPROD,
        ("-march=armv8.2-a+fp16+dotprod", "-mtune=cortex-a76", INLINE),
    ),
    Processor("cortex-a72", "aarch64", NEON, ("-march=armv8-a", "-mtune=cortex-a72", INLINE)),
    Processor("cortex-a53", "aarch64", NEON, ("-march=armv8-a", "-mtune=cortex-a53", INLINE)),
)


def find(name: str) -> Processor:
    """The target of a name, "native" for this machine's. Raises UsageError for an unknown one."""
    if name == "native":
        return native()
    for target in TARGETS:
        if target.name == name.lower().replace("_", "-"):  # Zig writes cortex_a76
            return target
    known = ", ".join(target.name for target in TARGETS)
    raise UsageError(f"there is no target {name!r}; known are native, {known}")


def of_board(board: str | Board) -> Processor:
    """What a board's profile names, else the best target that its processor has the features for.

    Raises UsageError for an unknown board or target, BackendError for a processor without kernels.
    """
    if isinstance(board, str):
        from edgellm.board import load

        board = load(board)
    cpu = board.cpu
    fitting = [] if board.system == "macos" else _fitting(cpu.machine, cpu.features)
    if cpu.target:
        named = find(cpu.target)
        if named not in fitting:
            raise UsageError(
                f"the profile of {board.name} names the target {named.name}, for which its "
                "processor lacks features; name another, or none"
            )
        return named
    if not fitting:
        about = " ".join(filter(None, (cpu.machine, board.system))) or "of no known kind"
        raise BackendError(
            f"edgellm has no kernels for the processor of {board.title} ({about}): the CPU "
            "backend's are for Linux on x86-64 with SSE4.2 or on 64-bit Arm"
        )
    return _tuned(fitting[0], [part.core for part in cpu.clusters])


def missing(target: Target) -> list[str]:
    """Features that the target needs and this processor lacks; its name if it's another kind."""
    if target.machine != machine():
        return [target.machine]
    return [name for name in target.features if name not in features()]


def native() -> Processor:
    """The best target for this machine. Raises BackendError if there is none."""
    fitting = _fitting(machine(), features())
    if not fitting:
        raise BackendError(
            f"edgellm has no kernels for this processor ({machine()}): the least is x86-64 with "
            "SSE4.2 or 64-bit Arm"
        )
    return _tuned(fitting[0], cores())


def _fitting(machine: str, features: Collection[str]) -> list[Processor]:
    """The targets for a processor with these features, the best first."""
    return [
        target
        for target in TARGETS
        if target.machine == machine and all(name in features for name in target.features)
    ]


def _tuned(target: Processor, cores: Collection[str]) -> Processor:
    """The plain Arm targets differ only in the order of their instructions."""
    return find("cortex-a53") if target.name == "cortex-a72" and CORTEX_A53 in cores else target
