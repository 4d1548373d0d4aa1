"""How much memory this machine has, and what comes of too little."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgellm.errors import FitError
from edgellm.processor import ROOT, read_text

REMEDY = "a shorter context (-c) or a smaller model takes less"


def require(
    file: object,
    need: int,
    context: int,
    slots: int,
    room: tuple[str, int] | None = None,
    remedy: str = REMEDY,
) -> None:
    """Raise FitError if `need` bytes are more than there are in `room`, a name and a number of
    bytes; by default, more than this machine has left."""
    name, there = room or ("this machine", available())
    if there is None or need <= there:
        return
    chats = f"{slots} contexts" if slots > 1 else "a context"
    raise FitError(
        f"{file} needs about {size(need)} with {chats} of {context} tokens, {name} has "
        f"{size(max(there, 0))} left; {remedy}; --force tries it anyway"
    )


@contextmanager
def fitting(file: object) -> Iterator[None]:
    """Raise FitError where the system refuses memory to what runs inside."""
    try:
        yield
    except (MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            raise
        raise FitError(f"{file}: there is no memory left to load it; {REMEDY}") from error


def available(root: Path = ROOT) -> int | None:
    """Bytes that this process may have in all: what it has, and what the system below `root` and a
    container's limit leave. None where the system doesn't tell."""
    told = re.search(r"^MemAvailable: +(\d{1,15}) kB", read_text(root / "proc/meminfo"), re.M)
    if told is None:
        return physical()
    left = int(told[1]) << 10
    group = root / "sys/fs/cgroup"
    most, now = read_text(group / "memory.max"), read_text(group / "memory.current")
    if most.isdecimal() and now.isdecimal():
        # Files that are kept in memory give way.
        files = re.search(r"^file (\d{1,15})$", read_text(group / "memory.stat"), re.M)
        left = min(left, int(most) - int(now) + (int(files[1]) if files else 0))
    own = re.search(r"^RssAnon:\s+(\d{1,15}) kB", read_text(root / "proc/self/status"), re.M)
    return left + (int(own[1]) << 10 if own else 0)


def physical() -> int | None:
    """Bytes of memory that this machine has; None where the system doesn't tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def size(count: int) -> str:
    """A number of bytes for people, in binary units."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
