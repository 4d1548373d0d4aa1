"""Finds the C compiler that turns tinygrad's kernels into machine code, and a cache to keep them.

tinygrad runs the program named by CC as clang: C on standard input, an ELF object on standard
output. gcc won't do, for it knows no `ext_vector_type`. Where the system has no clang, the one in
the `ziglang` wheel serves: `zig clang` is clang itself, without zig's own driver around it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

from edgellm import folders
from edgellm.errors import BackendError, UsageError

REMEDY = "install clang, or: pip install 'edgellm[compiler]'"
ELSEWHERE = "set XDG_CACHE_HOME to another folder"

# tinygrad's loader knows the relocation of a call, but on Arm not that of a jump to a function.
FLAGS = ("-fno-optimize-sibling-calls",)

WRAPPER = re.compile(r"cpu-[0-9a-f]{16}/cc$")
"""How paths of wrappers end that `find_compiler` has written, in this cache or in another: one in
CC was left there by `prepare`, perhaps of a parent process, and is no choice of the user's."""

PROCESSOR_FILE = Path("/proc/cpuinfo")

TARGETS = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}

PROBE = """typedef float float4 __attribute__((aligned(16),ext_vector_type(4)));
void probe(float4* restrict out, float4* restrict in) { *out = *in + *in; }
"""


def candidates() -> list[tuple[str, ...]]:
    """Commands that may be a clang, best first: CC, clang on the PATH, the ziglang wheel's.

    Raises BackendError if CC isn't quoted as a shell has it, or as `cache_folder`.
    """
    found: list[tuple[str, ...]] = []
    named = os.environ.get("CC", "")
    try:
        words = shlex.split(named)
    except ValueError as error:
        raise BackendError(f"CC is {named!r}: {error}; name a compiler, or unset it") from error
    if words and not WRAPPER.search(words[0]):
        found.append(tuple(words))
    found.append(("clang",))
    # `find_spec` doesn't import: the package's own start-up code never runs.
    if (spec := importlib.util.find_spec("ziglang")) and spec.origin:
        found.append((str(Path(spec.origin).with_name("zig")), "clang"))
    resolved = ((shutil.which(command[0]), command) for command in found)
    return [(path, *command[1:]) for path, command in resolved if path]


def works(command: tuple[str, ...]) -> bool:
    """Whether a command compiles as tinygrad asks clang to."""
    machine = platform.machine().lower()
    target = TARGETS.get(machine, machine)
    flags = f"-c -x c -O2 -fPIC -ffreestanding -nostdlib --target={target}-none-unknown-elf - -o -"
    try:
        done = subprocess.run(
            [*command, *FLAGS, *flags.split()],
            input=PROBE.encode(),
            capture_output=True,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.startswith(b"\x7fELF")


def machine_key(command: tuple[str, ...]) -> str:
    """Names the processor and the compiler: objects made by one for another may not run here.

    A home directory can move between boards, and kernels are compiled for the very processor.
    """
    try:
        lines = PROCESSOR_FILE.read_text(errors="replace").splitlines()
    except OSError:
        lines = [platform.processor()]
    # One core's description; on a big.LITTLE board the cores differ, so every distinct line counts.
    words = ("model name", "flags", "features", "cpu part", "cpu implementer", "cpu variant")
    processor = sorted({line for line in lines if line.lower().startswith(words)})
    binary = os.stat(command[0])
    identity = [platform.machine(), *processor, *command, *FLAGS]
    identity += [str(binary.st_size), str(binary.st_mtime_ns)]
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Where compiled kernels are kept: CACHE_DIRECTORY (systemd), XDG_CACHE_HOME or ~/.cache.

    Raises BackendError where there is none of them.
    """
    try:
        return folders.cache()
    except UsageError as error:
        raise BackendError(str(error)) from error


def find_compiler() -> Path:
    """An executable that takes clang's arguments, in the folder where its kernels are cached.

    Raises BackendError, with the remedy, if there is no clang of any kind.
    """
    for command in candidates():
        folder = cache_folder() / f"cpu-{machine_key(command)}"
        wrapper = folder / "cc"
        if wrapper.is_file():
            return wrapper  # written only after the command had been tried
        script = f'#!/bin/sh\nexec {shlex.join([*command, *FLAGS])} "$@"\n'
        if works(command):
            _write_program(wrapper, script)
            return wrapper
    raise BackendError(f"the CPU backend needs clang to compile kernels; {REMEDY}")


def _write_program(path: Path, text: str) -> None:
    """Put an executable script at `path` at once, so that no other process runs half of it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text)
        draft.chmod(0o755)
        draft.replace(path)
    except OSError as error:
        raise BackendError(f"cannot write {path}: {error.strerror}; {ELSEWHERE}") from error
    if not os.access(path, os.X_OK):
        path.unlink()
        raise BackendError(f"no program can be run in {path.parent} (noexec); {ELSEWHERE}")


def prepare() -> None:
    """Point tinygrad at the CPU, the compiler and its cache; best called before it is imported.

    What the user has set for tinygrad in DEV (another renderer of the CPU) and CACHEDB is left as
    it is. Raises BackendError as `find_compiler` does.
    """
    compiler = find_compiler()
    os.environ["CC"] = str(compiler)
    # No pool of compiling processes: each costs a board 40 MB and more.
    os.environ["PARALLEL"] = "0"
    if "tinygrad" not in sys.modules:
        os.environ.setdefault("CACHEDB", str(compiler.with_name("kernels.db")))
    else:
        from tinygrad.helpers import PARALLEL, getenv

        PARALLEL.value = 0
        cast(Any, getenv).cache_clear()  # it may remember that there was no CC
    use_cpu()


def use_cpu() -> None:
    """Make the CPU tinygrad's device; else it looks for the machine's accelerators."""
    if os.environ.get("DEV", "").partition(":")[0] != "CPU":
        os.environ["DEV"] = "CPU"
    if "tinygrad" in sys.modules:
        from tinygrad.helpers import DEV  # which has read its environment already

        if DEV.device != "CPU":
            DEV.value = "CPU"
