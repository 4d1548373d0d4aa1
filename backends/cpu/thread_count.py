"""How many threads take a single step fastest: measured once, then remembered.

Memory may give more to a few threads than to many: a Raspberry Pi 5's reads 13.2 GB/s with two
threads, 11.6 with four (llama.cpp #26484).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from edgellm import folders, processor
from edgellm.errors import UsageError

ROUNDS = 9
LEAST_S, MOST_S = 0.02, 0.25
"""Short steps are repeated for longer, long ones less often: another system on the same hardware
may take a core away for some milliseconds, unseen."""
MOST_COUNTS = 8
"""Of many cores only every second, third … count is tried."""
GAIN = 1.05
"""Fewer threads than there could be must be so many times faster."""


def remembered(library: bytes | memoryview, cpus: Iterable[int], most: int) -> Memory:
    """What is known of a bundle's library on these logical processors, `most` threads at most."""
    kinds = sorted(processor.cores())
    told = f"{processor.machine()} {kinds} {sorted(cpus)} {most}\n".encode()
    name = hashlib.sha256(told + bytes(library)).hexdigest()[:24]
    try:
        return Memory(folders.cache() / "threads" / name, most)
    except UsageError:
        return Memory(None, most)


class Memory:
    """The fastest count, in a file of the cache."""

    def __init__(self, path: Path | None, most: int) -> None:
        """Without a path nothing is remembered."""
        self._path, self._most = path, most

    def fastest(self, run: Callable[[int], object]) -> int:
        """How many threads do `run(count)` fastest; it is called only if that isn't known."""
        count = self._read()
        if count is None:
            count = measured(self._most, run)
            if count is None:
                return self._most
            self._write(count)
        return count

    def _read(self) -> int | None:
        text = "" if self._path is None else processor.read_text(self._path)
        known = text.isdecimal() and len(text) < 4 and 1 <= int(text) <= self._most
        return int(text) if known else None

    def _write(self, count: int) -> None:
        if self._path is None:
            return
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a cache that can't be written: it is measured anew
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(f"{count}\n")
            draft.replace(self._path)


def measured(most: int, run: Callable[[int], object]) -> int | None:
    """How many threads, `most` at most, do `run(count)` fastest; None where other programs were in
    the way."""
    counts = range(most, 0, -math.ceil(most / MOST_COUNTS))
    times = dict.fromkeys(counts, math.inf)
    begin = time.perf_counter()
    run(most)  # pages come in, clocks go up
    for rounds in itertools.count(1):
        for count in counts:
            times[count] = min(times[count], _time(run, count))
        spent = time.perf_counter() - begin
        if spent > MOST_S or (spent > LEAST_S and rounds >= ROUNDS):
            break
    if math.inf in times.values():
        return None
    best = min(counts, key=lambda count: times[count])
    return best if times[best] * GAIN <= times[most] else most


def _time(run: Callable[[int], object], count: int) -> float:
    """Seconds; infinite if a thread was interrupted for another program."""
    before, begin = _interruptions(), time.perf_counter()
    run(count)
    seconds = time.perf_counter() - begin
    return seconds if _interruptions() == before else math.inf


def _interruptions() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
