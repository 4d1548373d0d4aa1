"""A progress bar for loading and compiling: on standard error, only where that is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from edgellm.executor import Progress

INTERVAL = 0.1
"""Seconds between two drawings: a terminal on a serial line is slow."""
BAR = 24


class Bar:
    """Draws `compiling [######------]  50%` in place and wipes it at the end."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.drawn = 0.0
        self.width = 0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.drawn < INTERVAL and done < total:
            return
        self.drawn = now
        share = min(done / total, 1.0) if total > 0 else 0.0
        filled = int(BAR * share)
        line = f"{what} [{'#' * filled}{'-' * (BAR - filled)}] {share:4.0%}"
        from shutil import get_terminal_size

        line = line[: get_terminal_size().columns - 1]
        self.stream.write("\r" + line.ljust(self.width))
        self.stream.flush()
        self.width = len(line)

    def close(self) -> None:
        if self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.stream.flush()


@contextmanager
def bar(stream: TextIO | None = None) -> Iterator[Progress | None]:
    """A bar to hand to whoever loads a model; None where nobody would see it."""
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        yield None
        return
    drawn = Bar(stream)
    try:
        yield drawn
    finally:
        drawn.close()
