"""A Metal device for machines without one: tests/metal, compiled, and what tests ask of it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import metal_language
import pytest

from edgellm.errors import BackendError
from edgellm_backends.cpu import compiler
from edgellm_backends.metal import objc

FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared")
NO_CHECKED_JUMPS = ("-U_FORTIFY_SOURCE",)
"""Fibers jump from stack to stack, which glibc would take for a mistake."""
_COMPILER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)


class FakeMetal:
    """The library's own functions; what the product loads is at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.fake_misuse.restype = ctypes.c_char_p
        self._library.fake_alive.restype = ctypes.c_char_p
        self._library.fake_ran.restype = ctypes.c_char_p
        self._library.fake_launches.restype = ctypes.c_ulong
        self._library.fake_in_place.restype = ctypes.c_ulong
        self._compile = _COMPILER(self._compiled)  # kept: the library calls it
        self._library.fake_compiler(self._compile)
        self.sources: list[str] = []
        """What was compiled, in order."""

    def _compiled(self, source: bytes, answer: int, size: int) -> int:
        try:
            self.sources.append(source.decode())
            text, failed = str(metal_language.compiled(self.sources[-1])), 0
        except (metal_language.MetalError, BackendError) as error:
            text, failed = f"program_source: {error}", 1
        raw = text.encode()[: size - 1] + b"\0"
        ctypes.memmove(answer, raw, len(raw))
        return failed

    def set(self, **settings: int) -> None:
        """See `settings` in tests/metal/fake_metal.cpp."""
        for name, value in settings.items():
            self._library.fake_set(name.encode(), ctypes.c_long(value))

    def misuses(self) -> list[str]:
        """What was done wrong so far; then forgotten."""
        count = self._library.fake_misuses()
        found = [self._library.fake_misuse(index).decode() for index in range(count)]
        self._library.fake_forget()
        return found

    def alive(self) -> str:
        """The objects that somebody holds."""
        names: bytes = self._library.fake_alive()
        return names.decode()

    def launches(self) -> int:
        """How many kernels have run."""
        count: int = self._library.fake_launches()
        return count

    def in_place(self) -> int:
        """Bytes of the host's own memory that the device uses."""
        count: int = self._library.fake_in_place()
        return count

    def ran(self) -> list[str]:
        """The names of the kernels that have run."""
        names = iter(functools.partial(self._next, iter(range(1 << 20))), None)
        return [name.decode() for name in names if name]

    def _next(self, places: Iterator[int]) -> bytes | None:
        name: bytes | None = self._library.fake_ran(next(places))
        return name

    @contextmanager
    def checked(self) -> Iterator[FakeMetal]:
        """Nothing may be done wrong or left behind inside; settings end with it."""
        try:
            yield self
            assert self.misuses() == []
            assert self.alive() == ""
        finally:
            self._library.fake_unset()
            self.misuses()


@functools.cache
def library() -> FakeMetal:
    """The fake, compiled once; skips where there is no C++ compiler or no clang."""
    program = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if program is None:
        pytest.skip("for this, apt-get install g++")
    try:
        metal_language.tools()
    except BackendError as error:
        pytest.skip(str(error))
    sources = sorted(metal_language.SHIM.glob("*.cpp"))
    texts = [path.read_bytes() for path in (*sources, *sorted(metal_language.SHIM.glob("*.h")))]
    key = hashlib.sha256(b"\0".join([program.encode(), repr(FLAGS).encode(), *texts])).hexdigest()
    path = compiler.cache_folder() / "metal" / f"fake-{key[:24]}.so"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        command = [program, *FLAGS, *NO_CHECKED_JUMPS, *map(str, sources), "-o", str(draft)]
        subprocess.run([*command, "-ldl", "-pthread"], check=True)
        draft.replace(path)
    return FakeMetal(path)


@contextmanager
def installed(patch: pytest.MonkeyPatch) -> Iterator[FakeMetal]:
    """The fake in Metal's place: nothing may be done wrong or left behind inside."""
    found = library()
    patch.setattr(objc, "LIBRARIES", (str(found.path),))
    objc.forget()
    try:
        with found.checked():
            yield found
    finally:
        objc.forget()
