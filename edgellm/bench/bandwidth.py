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

    The C library's search for a byte that doesn't occur does the reading: it is vectorised for the
    processor at hand, and as fast as a loop over whole vector registers.
    """

    def __init__(self, threads: int, size: int | None = None) -> None:
        """`size` is in bytes; by default 512 MiB, but a quarter of the memory at most."""
        if size is None:
            size = min(LARGEST, (physical() or 4 * LARGEST) // 4)
        self.part = max(size // threads // PAGE, 1) * PAGE
        self._buffer = mmap.mmap(-1, self.part * threads)
        # A page that was never written is the same page of zeros everywhere.
        for start in range(0, len(self._buffer), PAGE):
            self._buffer[start] = 0
        self._view = (ctypes.c_char * len(self._buffer)).from_buffer(self._buffer)
        first = ctypes.addressof(self._view)
        self._starts = range(first, first + len(self._buffer), self.part)
        self._find = ctypes.CDLL(None).memchr
        self._find.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
        self._find.restype = ctypes.c_void_p
        self._pool = ThreadPoolExecutor(threads)

    def measure(self) -> float:
        """Bytes a second of reading the buffer once, each thread a part of its own."""
        started = time.perf_counter()
        list(self._pool.map(lambda start: self._find(start, 1, self.part), self._starts))
        return len(self._buffer) / (time.perf_counter() - started)

    def close(self) -> None:
        self._pool.shutdown()
        del self._view
        self._buffer.close()
