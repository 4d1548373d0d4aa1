"""backends/cpu/library.py: shared objects for any target, from whichever compiler is there."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import BackendError
from edgellm_backends.cpu import compiler, library, target
from edgellm_backends.cpu.target import Processor

SOURCE = Path(__file__).with_name("engine_kernels.c").read_text()
KERNELS = [library.KERNELS / f"{name}.c" for name in ("engine", "choice", "half", "slots")]
NAMES = [processor.name for processor in target.TARGETS]
# What the system's C library gives, whichever that is.
OUTSIDE = {
    "aligned_alloc",
    "clock_gettime",
    "free",
    "memcpy",
    "memmove",
    "memset",
    "pthread_create",
    "pthread_getcpuclockid",
    "pthread_join",
    "pthread_sigmask",
    "sched_getcpu",  # by a kernel of these tests
    "sched_yield",
    "syscall",
}
MACHINES = {"x86_64": 62, "aarch64": 183}
LOAD, WRITE, EXECUTE, STACK = 1, 2, 1, 0x6474E551


@pytest.fixture(autouse=True)
def tools() -> library.Toolchain:
    try:
        return library.toolchain(target.native())
    except BackendError as error:
        pytest.skip(str(error))


def made(processor: Processor, source: str = SOURCE) -> bytes:
    return library.library(processor, source, kernels=KERNELS)


def undefined(shared: bytes) -> set[str]:
    """Names that a shared object expects of others."""
    sections, size, count, _ = (
        *struct.unpack_from("<Q", shared, 40),
        *struct.unpack_from("<3H", shared, 58),
    )
    table = [struct.unpack_from("<IIQQQQIIQQ", shared, sections + i * size) for i in range(count)]
    (symbols,) = (section for section in table if section[1] == 11)  # SHT_DYNSYM
    strings = table[symbols[6]][4]
    found = set()
    for offset in range(symbols[4] + 24, symbols[4] + symbols[5], 24):
        name, _, _, section, _, _ = struct.unpack_from("<IBBHQQ", shared, offset)
        if section == 0:
            end = shared.index(b"\0", strings + name)
            found.add(shared[strings + name : end].decode())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_target_whatever_this_machine_is(name: str) -> None:
    processor = target.find(name)
    shared = made(processor)
    assert shared[:5] == b"\x7fELF\x02"
    assert struct.unpack_from("<H", shared, 18) == (MACHINES[processor.machine],)
    assert undefined(shared) <= OUTSIDE
    offset, size, count = (
        *struct.unpack_from("<Q", shared, 32),
        *struct.unpack_from("<2H", shared, 54),
    )
    for index in range(count):
        kind, flags = struct.unpack_from("<II", shared, offset + index * size)
        (alignment,) = struct.unpack_from("<Q", shared, offset + index * size + 48)
        if kind in (LOAD, STACK):
            assert not (flags & WRITE and flags & EXECUTE)
        if kind == LOAD:
            assert alignment == 1 << 16  # the largest pages that Linux has on Arm


def test_the_same_source_makes_the_same_bytes() -> None:
    assert made(target.native()) == made(target.native())


def test_kernels_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(target.native())
    compiled, real = [], library._compile

    def count(*arguments: object) -> Path:
        compiled.append(arguments[2])
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(library, "_compile", count)
    assert made(target.native()) == first
    assert [Path(str(source)).name for source in compiled] == ["step.c"]


def test_another_source_header_or_option_is_compiled_anew(
    tools: library.Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "kernels"
    (folder / "libc").mkdir(parents=True)
    monkeypatch.setattr(library, "KERNELS", folder)
    source, header = folder / "one.c", folder / "one.h"
    header.write_text("")
    paths = set()
    for processor in (target.TARGETS[0], target.TARGETS[-1]):
        for text, more in (("int a;", ""), ("int b;", ""), ("int b;", "enum { C };")):
            source.write_text(text)
            header.write_text(more)
            paths.add(library.compiled(tools, processor, source))
    assert len(paths) == 6
    assert sorted(paths) == sorted((tmp_path / "cache" / "edgellm" / "objects").iterdir())


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    library.library(target.native(), SOURCE, lambda *event: told.append(event), KERNELS)
    assert told == [("compiling", done, 5) for done in range(1, 6)]


def test_several_may_build_at_once(tmp_path: Path) -> None:
    script = """
        import os, sys
        from pathlib import Path
        from edgellm_backends.cpu import library, target
        source, out, *kernels = map(Path, sys.argv[1:])
        shared = library.library(target.native(), source.read_text(), kernels=kernels)
        (out / f"{os.getpid()}.so").write_bytes(shared)
    """
    (tmp_path / "step.c").write_text(SOURCE)
    command = [sys.executable, "-c", textwrap.dedent(script), tmp_path / "step.c", tmp_path]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    builders = [
        subprocess.Popen([*map(str, command), *map(str, KERNELS)], env=environment)
        for _ in range(3)
    ]
    assert [builder.wait() for builder in builders] == [0, 0, 0]
    assert len({path.read_bytes() for path in tmp_path.glob("*.so")}) == 1
    objects = list((tmp_path / "edgellm" / "objects").iterdir())
    assert sorted(path.suffix for path in objects) == [".o"] * len(KERNELS)


def test_what_the_compiler_says_is_handed_on() -> None:
    with pytest.raises(BackendError, match=r"cannot make step.c for .*step.c:1:.*error: "):
        made(target.native(), "int broken(")


def test_what_the_linker_says_is_handed_on() -> None:
    with pytest.raises(BackendError, match=r"cannot make the library for .*duplicate.*edge_abi"):
        made(target.native(), SOURCE + "int edge_abi(void) { return 0; }")


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BackendError, match=r"cannot write .*XDG_CACHE_HOME"):
        made(target.native())


def test_a_system_without_a_place_for_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    with pytest.raises(BackendError, match="set TMPDIR"):
        made(target.native())


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_no_compiler_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(BackendError, match=r"avx2 needs clang with lld; .*'edgellm\[compiler\]'"):
        library.toolchain(target.find("avx2"))


def test_a_clang_that_cannot_link_is_passed_over(
    tools: library.Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clang = script(tmp_path / "bin" / "clang", "exit 1")
    script(tmp_path / "bin" / "ld.lld", "exit 1")
    monkeypatch.setenv("PATH", f"{clang.parent}:/usr/bin:/bin")
    assert library.toolchain(target.native()).compiler != (str(clang),)


@pytest.mark.parametrize("name", [target.native().name, "cortex-a53"])
def test_a_plain_clang_with_lld_beside_it(
    name: str, tools: library.Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zig = tools.compiler[0]
    if tools.compiler[1:] != ("clang",):
        pytest.skip("this machine's clang is a plain one: the other tests use it")
    headers = Path(zig).with_name("lib") / "include"
    clang = script(tmp_path / "clang", f'exec "{zig}" clang -isystem "{headers}" "$@"')
    script(tmp_path / "ld.lld", f'exec "{zig}" ld.lld "$@"')
    monkeypatch.setenv("CC", str(clang))
    found = library.toolchain(target.find(name))
    assert found == library.Toolchain((str(clang),), (str(tmp_path / "ld.lld"),))
    assert "clang version" in library.version(found)
    assert undefined(made(target.find(name))) <= OUTSIDE


CONVERT = """
__attribute__((visibility("default"))) void widen(float *to, const _Float16 *from, long count) {
    for (long i = 0; i < count; i++) to[i] = from[i];
}
__attribute__((visibility("default"))) void narrow(_Float16 *to, const float *from, long count) {
    for (long i = 0; i < count; i++) to[i] = from[i];
}
"""


@pytest.mark.parametrize("name", [name for name in NAMES if name in ("sse4.2", "avx2")])
def test_halves_are_converted_as_ieee_has_it(name: str, tmp_path: Path) -> None:
    processor = target.find(name)
    if target.missing(processor):
        pytest.skip(f"this processor lacks {', '.join(target.missing(processor))}")
    path = tmp_path / "convert.so"
    path.write_bytes(made(processor, SOURCE + CONVERT))
    convert = ctypes.CDLL(str(path))
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    wide = np.zeros(halves.size, np.float32)
    convert.widen(*map(ctypes.c_void_p, (wide.ctypes.data, halves.ctypes.data)), len(halves))
    np.testing.assert_array_equal(wide, halves.astype(np.float32))

    # Every half, the middle between two, and numbers next to those.
    finite = np.sort(wide[np.isfinite(wide)])
    middles = (finite[1:] / 2 + finite[:-1] / 2)[:, None]
    near = np.nextafter(middles, np.float32([-np.inf, np.inf]))
    edges = np.float32([65504, 65519.996, 65520, 1e30, np.inf, np.nan, 1e-8, 2**-25, 0, 1e-45])
    floats = np.concatenate([wide, middles.ravel(), near.ravel(), edges, -edges])
    narrow = np.zeros(floats.size, np.float16)
    convert.narrow(*map(ctypes.c_void_p, (narrow.ctypes.data, floats.ctypes.data)), len(floats))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(narrow, floats.astype(np.float16))
