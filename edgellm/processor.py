"""The processor of a machine, as its kernel describes it: this one's, or another's under a root."""

from __future__ import annotations

import itertools
import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path("/")
MAX_FILE = 1 << 20
"""Bytes read of a file of the kernel's: /proc/cpuinfo has some kilobytes for each of its cores."""
MAX_CPUS = 4096
CPUS = "sys/devices/system/cpu"

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

# Cores of Arm's own making by /proc/cpuinfo's "CPU part" (Linux, arch/arm64/include/asm/cputype.h).
ARM = "0x41"
ARM_CORES = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0b": "Cortex-A76",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
}

# What /proc/cpuinfo calls a feature that macOS calls otherwise.
APPLE_FEATURES = {
    "AdvSIMD": "asimd",
    "FEAT_CRC32": "crc32",
    "FEAT_LSE": "atomics",
    "FEAT_FP16": "asimdhp",
    "FEAT_RDM": "asimdrdm",
    "FEAT_DotProd": "asimddp",
    "FEAT_I8MM": "i8mm",
}


@dataclass(frozen=True)
class Cluster:
    """Cores of one kind that run at one speed."""

    core: str
    """"Cortex-A76"; empty where it isn't known."""
    cpus: tuple[int, ...]
    """Their numbers, as the kernel counts."""
    mhz: int | None = None
    """The highest clock."""
    capacity: int | None = None
    """As the kernel rates them: 1024 for the fastest cores of a machine."""


@dataclass(frozen=True)
class Found:
    """What is known of a machine's processor."""

    machine: str
    """As `platform.machine()` has it on Linux: "x86_64", "aarch64", "riscv64"; or empty."""
    features: frozenset[str]
    """In the words of /proc/cpuinfo; empty where they aren't known."""
    clusters: tuple[Cluster, ...]
    title: str = ""
    """What the processor calls itself: "Intel(R) N100"."""


def machine() -> str:
    """This machine's architecture, as Linux calls it."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@cache
def features() -> frozenset[str]:
    """What this processor can do, in the words of /proc/cpuinfo; nothing where that isn't known."""
    if machine() != "aarch64":
        return _flags(_entries(ROOT))
    import ctypes

    try:
        getauxval = ctypes.CDLL(None).getauxval
    except AttributeError:  # a system other than Linux
        return frozenset()
    getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    return frozenset(name for name, (word, bit) in ARM_BITS.items() if getauxval(word) >> bit & 1)


def find(root: Path = ROOT) -> Found:
    """The processor of the machine whose /proc and /sys are below a folder."""
    entries = _entries(root)
    here = root == ROOT
    return Found(
        machine() if here else _machine(entries),
        features() if here else _flags(entries),
        _clusters(root, entries),
        next((entry["model name"] for entry in entries if "model name" in entry), ""),
    )


def of_sysctl(values: dict[str, str]) -> Found:
    """The processor of a machine with macOS, whose `sysctl` tells these values."""
    flags = {
        word
        for name, word in APPLE_FEATURES.items()
        if any(values.get(f"hw.optional.{part}{name}") == "1" for part in ("arm.", ""))
    }
    if "asimd" in flags:
        flags.add("fp")
    if "asimdhp" in flags:
        flags.add("fphp")
    clusters, first = [], 0
    for level in range(8):
        count = values.get(f"hw.perflevel{level}.physicalcpu", "")
        if not (count.isdecimal() and int(count) <= MAX_CPUS):
            break
        cpus = tuple(range(first, first := first + int(count)))
        clusters.append(Cluster(values.get(f"hw.perflevel{level}.name", ""), cpus))
    name = values.get("machdep.cpu.brand_string", "")
    return Found("aarch64" if flags else "", frozenset(flags), tuple(clusters), name)


def cores(root: Path = ROOT) -> frozenset[str]:
    """Kinds of cores that a machine has, where /proc/cpuinfo tells them: "Cortex-A53"."""
    return frozenset(filter(None, map(_core, _entries(root))))


def capacities(root: Path = ROOT) -> dict[int, int]:
    """What each logical processor can do, the fastest 1024: as the kernel rates it, else by the
    highest clocks; empty where neither is told for all of them."""
    cpus = _cpus(root)
    rated = {cpu: _number(root / CPUS / f"cpu{cpu}/cpu_capacity", root) for cpu in cpus}
    for found in (rated, _clocks(root)):
        known = {cpu: found.get(cpu) or 0 for cpu in cpus}
        if known and all(known.values()):
            most = max(known.values())
            return {cpu: number * 1024 // most for cpu, number in known.items()}
    return {}


def numbers(text: str) -> tuple[int, ...]:
    """The numbers of a list as the kernel writes it, "0-3,6". Raises ValueError."""
    found: list[int] = []
    for part in text.replace(" ", ",").split(","):
        first, _, last = part.partition("-")
        begin, end = int(first), int(last or first)
        if not 0 <= begin <= end < MAX_CPUS:
            raise ValueError(part)
        found += range(begin, end + 1)
    return tuple(sorted(set(found)))


def read_text(path: Path, root: Path = ROOT, limit: int = MAX_FILE) -> str:
    """A file of the kernel's, without what ends it; empty where there is none, or where it is a
    link that leads out of `root`, say from a copy of another machine's files to this one's."""
    try:
        if root != ROOT and not within(path, root):
            return ""
        if not path.is_file():  # a pipe would be waited for
            return ""
        with path.open("rb") as file:
            return file.read(limit).decode("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""


def within(path: Path, root: Path) -> bool:
    """Whether a path is below a folder with all links followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


# --- /proc/cpuinfo ------------------------------------------------------------------------------


def _entries(root: Path) -> list[dict[str, str]]:
    """The paragraphs of /proc/cpuinfo, most of them for a logical processor each."""
    entries = []
    for paragraph in read_text(root / "proc/cpuinfo", root).split("\n\n")[: 2 * MAX_CPUS]:
        lines = (line.partition(":") for line in paragraph.splitlines())
        entry = {key.strip(): value.strip() for key, colon, value in lines if colon}
        if entry:
            entries.append(entry)
    return entries


def _machine(entries: list[dict[str, str]]) -> str:
    for entry in entries:
        if "flags" in entry:
            return "x86_64" if "lm" in entry["flags"].split() else "i686"
        if "CPU architecture" in entry:
            return "aarch64" if entry["CPU architecture"] in ("8", "AArch64") else "armv7l"
        if "isa" in entry:
            return "riscv64" if entry["isa"].startswith("rv64") else "riscv32"
    return ""


def _flags(entries: list[dict[str, str]]) -> frozenset[str]:
    """What all of the logical processors can do, for a program may run on any of them."""
    sets = []
    for entry in entries:
        if words := entry.get("flags") or entry.get("Features"):
            sets.append(frozenset(words.split()))
        elif isa := entry.get("isa"):
            letters, *more = isa.removeprefix("rv64").removeprefix("rv32").split("_")
            sets.append(frozenset([*letters, *more]))
    return frozenset.intersection(*sets) if sets else frozenset()


def _core(entry: dict[str, str]) -> str:
    if entry.get("CPU implementer") == ARM:
        part = entry.get("CPU part", "")
        return ARM_CORES.get(part, part)
    return entry.get("model name") or entry.get("uarch") or ""


# --- /sys/devices/system/cpu --------------------------------------------------------------------


def _cpus(root: Path) -> tuple[int, ...]:
    for name in ("online", "present", "possible"):
        try:
            return numbers(read_text(root / CPUS / name, root))
        except ValueError:
            continue
    return ()


def _clocks(root: Path) -> dict[int, int]:
    """The highest clock of each logical processor, in kHz, where it is told."""
    found = {}
    for policy in itertools.islice(sorted((root / CPUS / "cpufreq").glob("policy*")), MAX_CPUS):
        clock = _number(policy / "cpuinfo_max_freq", root)
        try:
            cpus = numbers(read_text(policy / "related_cpus", root))
        except ValueError:
            continue
        if clock:
            found.update(dict.fromkeys(cpus, clock))
    return found


def _clusters(root: Path, entries: list[dict[str, str]]) -> tuple[Cluster, ...]:
    """Neighbouring logical processors that are alike in core, clock and capacity."""
    kinds = {
        int(entry["processor"]): _core(entry)
        for entry in entries
        if entry.get("processor", "").isdecimal() and len(entry["processor"]) < 6
    }
    ratings, clocks = capacities(root), _clocks(root)
    found: dict[tuple[str, int | None, int | None], list[int]] = {}
    for cpu in _cpus(root) or sorted(kinds):
        mhz = clocks[cpu] // 1000 if cpu in clocks else None
        found.setdefault((kinds.get(cpu, ""), mhz, ratings.get(cpu)), []).append(cpu)
    return tuple(
        Cluster(core, tuple(cpus), mhz, capacity) for (core, mhz, capacity), cpus in found.items()
    )


def _number(path: Path, root: Path) -> int | None:
    text = read_text(path, root)
    return int(text) if text.isdecimal() and len(text) < 16 else None
