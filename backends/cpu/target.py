"""Processor: what kernels are compiled for, and which of them this machine has."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgellm.errors import BackendError, UsageError
from edgellm.executor import Target

PROCESSOR_FILE = Path("/proc/cpuinfo")

V2 = ("cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2")
V3 = (*V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
V4 = (*V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
NEON = ("fp", "asimd")
DOTPROD = (*NEON, "crc32", "atomics", "asimdrdm", "fphp", "asimdhp", "asimddp")

# Bits of AT_HWCAP and AT_HWCAP2 on 64-bit Arm (Linux, arch/arm64/include/uapi/asm/hwcap.h). The
# system is asked, not /proc/cpuinfo, which under emulation may show another processor.
HWCAP, HWCAP2 = 16, 26
ARM_BITS = {
    "fp": (HWCAP, 0),
    "asimd": (HWCAP, 1),
    "crc32": (HWCAP, 7),
    "atomics": (HWCAP, 8),
    "fphp": (HWCAP, 9),
    "asimdhp": (HWCAP, 10),
    "asimdrdm": (HWCAP, 12),
    "asimddp": (HWCAP, 20),
    "i8mm": (HWCAP2, 13),
}
CORTEX_A53 = "0xd03"

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


def of_board(board: str) -> Processor:
    """The target of a board that has a profile. Raises UsageError for an unknown board."""
    import tomllib
    from importlib import resources

    folder = resources.files("edgellm_boards")
    profiles = {
        path.name.removesuffix(".toml"): path
        for path in folder.iterdir()
        if path.name.endswith(".toml")
    }
    if board not in profiles:
        known = ", ".join(sorted(profiles))
        raise UsageError(f"there is no profile of a board {board!r}; known are {known}")
    profile = tomllib.loads(profiles[board].read_text(encoding="utf-8"))
    return find(profile["cpu"]["target"])


def machine() -> str:
    """This machine's architecture, as `Target.machine` has it."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@cache
def features() -> frozenset[str]:
    """What this processor can do, in the words of /proc/cpuinfo; nothing where that isn't known."""
    if machine() == "aarch64":
        import ctypes

        getauxval = ctypes.CDLL(None).getauxval
        getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
        return frozenset(
            name for name, (word, bit) in ARM_BITS.items() if getauxval(word) >> bit & 1
        )
    return frozenset(_processor_words("flags"))


def missing(target: Target) -> list[str]:
    """Features that the target needs and this processor lacks; its name if it's another kind."""
    if target.machine != machine():
        return [target.machine]
    return [name for name in target.features if name not in features()]


def native() -> Processor:
    """The best target for this machine. Raises BackendError if there is none."""
    fitting = [target for target in TARGETS if not missing(target)]
    if not fitting:
        raise BackendError(
            f"edgellm has no kernels for this processor ({machine()}): the least is x86-64 with "
            "SSE4.2 or 64-bit Arm"
        )
    # The plain Arm targets differ only in the order of their instructions.
    if fitting[0].name == "cortex-a72" and CORTEX_A53 in _processor_words("CPU part"):
        return find("cortex-a53")
    return fitting[0]


def _processor_words(field: str) -> set[str]:
    """Words that /proc/cpuinfo lists under a field, of any core."""
    try:
        lines = PROCESSOR_FILE.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    found = (line.partition(":") for line in lines)
    return {word for key, _, words in found if key.strip() == field for word in words.split()}
