"""Compiles the kernels and a model's step for a target, and links them into one shared object.

Nothing of the target's system is needed, neither headers nor libraries: the few functions of the C
library that the kernels call are declared in `kernels/libc`, and found when the library is loaded.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import BackendError
from edgellm.executor import Progress
from edgellm.processor import machine

from .compiler import ELSEWHERE, REMEDY, cache_folder, candidates
from .recipe import KERNELS
from .target import Processor

FLAGS = (
    *("-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", "-w"),
    # One result for one source: no rounding that differs with how the compiler groups operations.
    *("-ffp-contract=off", "-fno-math-errno"),
    *("-fno-stack-protector", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables"),
)
LINK_FLAGS = ("-shared", "-z", "now", "-z", "noexecstack", "-z", "max-page-size=65536")
PROBE = "typedef float float4 __attribute__((ext_vector_type(4))); int probe(void) { return 0; }\n"
AT_ONCE = 2
"""Compilers running at the same time: each takes 100 MB and more."""


@dataclass(frozen=True)
class Toolchain:
    """Programs that make shared objects for a target."""

    compiler: tuple[str, ...]
    linker: tuple[str, ...]

    def identity(self) -> str:
        binary = os.stat(self.compiler[0])
        return f"{self.compiler} {binary.st_size} {binary.st_mtime_ns}"


def library(
    target: Processor,
    step_source: str,
    progress: Progress | None = None,
    kernels: Sequence[Path] = (),
) -> bytes:
    """The shared object for a target: kernels (by default all) and the step's own C, which has
    `edge_kernels` in it (see `step_source`).

    Kernels are compiled once for each target and compiler. Raises BackendError with what is missing
    or what the compiler said.
    """
    tools = toolchain(target)
    sources = sorted(kernels or KERNELS.glob("*.c"))
    with _folder() as folder:
        step, made = folder / "step.c", folder / "step.o"
        step.write_text(step_source, encoding="utf-8")
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            tasks = [pool.submit(compiled, tools, target, source) for source in sources]
            tasks.append(pool.submit(_compile, tools, target, step, made))
            objects = []
            for task in tasks:
                objects.append(task.result())
                if progress:
                    progress("compiling", len(objects), len(tasks))
        finally:
            pool.shutdown(cancel_futures=True)
        out = folder / "step.so"
        _link(tools, target, objects, out)
        return out.read_bytes()


def toolchain(target: Processor) -> Toolchain:
    """The first compiler there is that can compile and link for a target, tried out.

    Raises BackendError, with the remedy, if there is none.
    """
    return _toolchain(target, tuple(candidates()))


@functools.cache
def _toolchain(target: Processor, commands: tuple[tuple[str, ...], ...]) -> Toolchain:
    lacking = ""
    for command in commands:
        for linker in _linkers(command, target):
            tools = Toolchain(command, linker)
            try:
                _try(tools, target)
                return tools
            except BackendError as error:
                lacking = f" ({error})"
    raise BackendError(f"compiling for {target.name} needs clang with lld; {REMEDY}{lacking}")


def version(tools: Toolchain) -> str:
    """What the compiler calls itself, in one line."""
    done = subprocess.run([*tools.compiler, "--version"], capture_output=True, text=True)
    return done.stdout.partition("\n")[0].strip()


def compiled(tools: Toolchain, target: Processor, source: Path) -> Path:
    """The object of one of the kernels' files, from the cache where it has been made before."""
    parts = [tools.identity(), repr((target, FLAGS)), source.read_text(encoding="utf-8")]
    parts += [path.read_text(encoding="utf-8") for path in sorted(KERNELS.rglob("*.h"))]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    path = cache_folder() / "objects" / f"{target.name}-{source.stem}-{key}.o"
    if path.is_file():
        return path
    # Others may be making the same one: each its own draft, put in place at once.
    draft = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _compile(tools, target, source, draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise BackendError(f"cannot write {path}: {error.strerror}; {ELSEWHERE}") from error
    return path


def _compile(tools: Toolchain, target: Processor, source: Path, out: Path) -> Path:
    command = [*tools.compiler, "-c", f"--target={target.machine}-unknown-linux-gnu"]
    command += [*target.options, *FLAGS, *_headers(tools.compiler), f"-I{KERNELS}"]
    _run([*command, str(source), "-o", str(out)], f"{source.name} for {target.name}")
    return out


def _link(tools: Toolchain, target: Processor, objects: Sequence[Path], out: Path) -> None:
    command = [*tools.linker, *LINK_FLAGS, *map(str, objects), "-o", str(out)]
    _run(command, f"the library for {target.name}")


def _run(command: Sequence[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise BackendError(f"{command[0]} cannot be run: {error.strerror}; {REMEDY}") from error
    if done.returncode == 0:
        return
    said = [line for line in done.stderr.splitlines() if "error" in line] or [
        f"it ended with status {done.returncode}"
    ]
    raise BackendError(f"{command[0]} cannot make {what}: {said[0].strip()}")


def _headers(compiler: Sequence[str]) -> list[str]:
    """Clang's own headers and the kernels' notion of the C library, nothing of the system's."""
    ours = ["-isystem", str(KERNELS / "libc")]
    beside = Path(compiler[0]).with_name("lib") / "include"
    if (beside / "immintrin.h").is_file():  # of zig, whose clang doesn't look there by itself
        return ["-nostdinc", "-isystem", str(beside), *ours]
    return ["-nostdlibinc", *ours]


def _linkers(compiler: Sequence[str], target: Processor) -> list[tuple[str, ...]]:
    """Commands that may link what a compiler makes, best first."""
    if list(compiler[1:2]) == ["clang"]:
        return [(compiler[0], "ld.lld")]
    beside = Path(compiler[0]).resolve().with_name("ld.lld")
    names = [str(beside), "ld.lld"]
    if target.machine == machine():
        names.append("ld")
    found = (shutil.which(name) for name in names)
    return [(path,) for path in dict.fromkeys(found) if path]


def _try(tools: Toolchain, target: Processor) -> None:
    with _folder() as folder:
        source, made = folder / "probe.c", folder / "probe.o"
        source.write_text(PROBE, encoding="utf-8")
        _compile(tools, target, source, made)
        _link(tools, target, [made], folder / "probe.so")


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    try:
        with tempfile.TemporaryDirectory(prefix="edgellm-") as name:
            yield Path(name)
    except OSError as error:
        raise BackendError(f"cannot compile: {error}; set TMPDIR to another folder") from error
