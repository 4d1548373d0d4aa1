"""How fast this machine's memory is read: what bounds the speed of decoding."""

from __future__ import annotations

import ctypes
import mmap
import time
from concurrent.futures import ThreadPoolExecutor

from edgellm.memory import physical

LARGEST = 512 << 20
"""Bytes of the buffer where there is memory enough; several times any common last cache."""
PAGE = 4096


class ReadBandwidth:
    """A buffer that fits no cache, and threads that read it. Close it to free its memory.

    The C library does the reading, as it compares two halves that are equal: it is vectorised for
    the processor at hand, and two streams a thread are read faster than one.
    """

    def __init__(self, threads: int, size: int | None = None) -> None:
        """`size` is in bytes; by default 512 MiB, but a quarter of the memory at most."""
        if size is None:
            size = min(LARGEST, (physical() or 4 * LARGEST) // 4)
        self.half = max(size // threads // PAGE // 2, 1) * PAGE
        self._buffer = mmap.mmap(-1, 2 * self.half * threads)
        # A page that was never written is the same page of zeros everywhere.
        for start in range(0, len(self._buffer), PAGE):
            self._buffer[start] = 0
        self._view = (ctypes.c_char * len(self._buffer)).from_buffer(self._buffer)
        first = ctypes.addressof(self._view)
        self._starts = range(first, first + len(self._buffer), 2 * self.half)
        self._compare = ctypes.CDLL(None).memcmp
        self._compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
        self._pool = ThreadPoolExecutor(threads)

    def measure(self) -> float:
        """Bytes a second of reading the buffer once, each thread a part of its own."""
        started = time.perf_counter()
        list(self._pool.map(self._read, self._starts))
        return len(self._buffer) / (time.perf_counter() - started)

    def _read(self, start: int) -> None:
        self._compare(start, start + self.half, self.half)

    def close(self) -> None:
        self._pool.shutdown()
        del self._view
        self._buffer.close()
