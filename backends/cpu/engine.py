"""The run-time engine (kernels/engine.c): a bundle's shared object loaded, with its threads."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import BackendError

ABI = 1
"""Of the structures that the library and this package share: `edge_abi` in kernels/engine.c."""


class Step(ctypes.Structure):
    """As kernels/edge.h has it."""

    _fields_ = [
        ("rows", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("tokens", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("context", ctypes.c_int32),
        ("slot_count", ctypes.c_int32),
        ("kv_int8", ctypes.c_int32),
        ("from_memory", ctypes.c_int32),
        ("scratch", ctypes.c_void_p),
        ("scratch_bytes", ctypes.c_size_t),
    ]


_INT, _LONG, _POINTER, _SIZE = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p, ctypes.c_size_t
_FUNCTIONS: dict[str, tuple[type | None, list[type]]] = {
    "edge_pool": (_POINTER, [_INT]),
    "edge_pool_threads": (_INT, [_POINTER]),
    "edge_pool_free": (None, [_POINTER]),
    "edge_run": (_INT, [_POINTER, _POINTER, _POINTER, _INT, _POINTER, _POINTER]),
    "edge_scratch": (_SIZE, [_POINTER, _POINTER, _INT, _POINTER]),
    "edge_state_bytes": (_LONG, [_LONG, _LONG, _LONG, _INT]),
    "edge_copy_state": (None, [_POINTER, _LONG, _LONG, _LONG, _INT, _LONG, _LONG, _LONG]),
    "edge_argmax": (_INT, [_POINTER, _INT]),
    "edge_top_k": (None, [_POINTER, _INT, _INT, _POINTER, _POINTER]),
}


class Engine:
    """A library's functions, and a pool of `threads` threads, the caller's among them.

    Not thread-safe. A forked child can't use its parent's engine: it has none of its threads.
    """

    def __init__(
        self, library: bytes | memoryview, threads: int, cpus: frozenset[int] | None = None
    ) -> None:
        """Only the logical processors `cpus` are computed on, if given: the pool's threads stay
        there, the caller goes there for as long as a call lasts.

        Raises BackendError if the library can't be loaded.
        """
        self._cpus = cpus
        self._pool: int | None = None
        self._file: int | None
        self._library, self._file = _load(library)
        try:
            self._declare()
            with _running_on(cpus):  # which threads inherit
                self._pool = self._library.edge_pool(threads)
        except AttributeError as error:
            self.close()
            raise BackendError(f"the bundle's library isn't edgellm's: {error}") from error
        if not self._pool:
            self.close()
            raise BackendError("the engine gets no memory for its threads")
        self.threads: int = self._library.edge_pool_threads(self._pool)
        """As many as the system gave."""
        self.adapts = hasattr(self._library, "edge_adapts")
        """Whether the library has the kernels for adapters; older ones don't."""

    def _declare(self) -> None:
        if self._library.edge_abi() != ABI:
            raise AttributeError(f"its ABI is {self._library.edge_abi()}, not {ABI}")
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments

    @property
    def pool(self) -> int:
        """The address of the threads, for functions of the library that take it."""
        if self._pool is None:
            raise BackendError("the engine is closed")
        return self._pool

    def address(self, name: str) -> int:
        """Of a function of the library, for code that calls it by itself."""
        function = getattr(self._library, name)
        return ctypes.cast(function, ctypes.c_void_p).value or 0

    def prepared(
        self, calls: tuple[int, int, int], step: Step, cancel: ctypes.c_int32
    ) -> Callable[[], int]:
        """A function that runs some calls (`CallTable.part`): 1 if it was cancelled, else 0.

        It looks at `cancel` before each call, and takes everything by its address.
        """
        which, table, count = calls
        addresses = (self._pool, which, table), (ctypes.addressof(step), ctypes.addressof(cancel))
        # Converted once, not for every token.
        before, after = (tuple(map(ctypes.c_void_p, part)) for part in addresses)
        run: Callable[[], int] = partial(
            self._library.edge_run, *before, ctypes.c_int(count), *after
        )
        if self._cpus is None:
            return run

        def run_there() -> int:
            with _running_on(self._cpus):
                return run()

        return run_there

    def scratch(self, calls: tuple[int, int, int], step: Step) -> int:
        """Bytes of scratch memory that the hungriest of some calls asks for (`CallTable.part`)."""
        size: int = self._library.edge_scratch(*calls, ctypes.addressof(step))
        return size

    def state_bytes(self, heads: int, width: int, context: int, int8: bool) -> int:
        """Bytes that an attention layer takes for a slot."""
        size: int = self._library.edge_state_bytes(heads, width, context, int8)
        return size

    def copy_state(
        self,
        state: int,
        shape: tuple[int, int, int, bool],
        slots: tuple[int, int],
        length: int,
    ) -> None:
        """Copy the first positions of an attention layer's state at an address, from slot to slot.

        `shape` is what `state_bytes` takes.
        """
        self._library.edge_copy_state(state, *shape, *slots, length)

    def argmax(self, numbers: NDArray[np.float32]) -> int:
        """The place of the greatest; NaN counts as minus infinity, of equals the first is taken."""
        place: int = self._library.edge_argmax(numbers.ctypes.data, numbers.size)
        return place

    def top_k(
        self, numbers: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Places and values of the k greatest (or all), greatest first, else as `argmax` orders."""
        k = min(k, numbers.size)
        places, values = np.empty(k, np.int32), np.empty(k, np.float32)
        if k > 0:
            self._library.edge_top_k(
                numbers.ctypes.data, numbers.size, k, places.ctypes.data, values.ctypes.data
            )
        return places, values

    def close(self) -> None:
        """End the threads and unload the library. Closing twice is harmless."""
        if self._file is None:
            return
        if self._pool:
            self._library.edge_pool_free(self._pool)
        import _ctypes

        _ctypes.dlclose(self._library._handle)
        os.close(self._file)
        self._file = None


@contextmanager
def _running_on(cpus: frozenset[int] | None) -> Iterator[None]:
    """Keep this thread on some logical processors, wherever it was allowed to be before."""
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    with suppress(OSError):  # they may have been taken from this process meanwhile
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, before)


def _load(library: bytes | memoryview) -> tuple[ctypes.CDLL, int]:
    """A shared object loaded from its bytes, and the descriptor of the file that it was put in.

    The file stays open while the library is in use: the system knows libraries by their path, which
    has the descriptor's number in it, and would take another one of that number for the same.
    """
    if hasattr(os, "memfd_create"):
        try:
            file = os.memfd_create("edgellm", os.MFD_CLOEXEC)
            return _load_from(file, f"/proc/self/fd/{file}", library)
        except OSError:
            pass  # a system that runs nothing out of memory files, or shows none in /proc
    return _load_from_disk(library)


def _load_from_disk(library: bytes | memoryview) -> tuple[ctypes.CDLL, int]:
    import tempfile

    from .compiler import ELSEWHERE, cache_folder

    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        file, path = tempfile.mkstemp(prefix="library-", suffix=".so", dir=folder)
    except OSError as error:
        raise BackendError(f"cannot write the bundle's library: {error}; {ELSEWHERE}") from error
    try:
        return _load_from(file, path, library)
    except OSError as error:
        raise BackendError(f"cannot load the bundle's library: {error}") from error
    finally:
        os.unlink(path)


def _load_from(file: int, path: str, library: bytes | memoryview) -> tuple[ctypes.CDLL, int]:
    try:
        with open(file, "wb", closefd=False) as stream:
            stream.write(library)
        return ctypes.CDLL(path), file
    except OSError:
        os.close(file)
        raise
