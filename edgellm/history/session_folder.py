"""The folder that sessions' histories are in: one journal each, and a clock. Its methods block."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path

import msgpack

from edgellm.errors import FormatError, UnsupportedError, UsageError
from edgellm.history import journal
from edgellm.history.journal import Contents, Journal
from edgellm.history.records import History, unpack

log = logging.getLogger(__name__)

DAY = 86400.0
SUFFIX = ".journal"
CLOCK = "clock"
ASIDE = ".damaged"
NAME = re.compile("[0-9a-f]{32}")


class SessionFolder:
    """Files are for their owner alone. A damaged one is set aside under another name, never
    removed; what is sound in it takes its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def lock(self) -> None:
        """Make the folder, if need be, and keep other services off it.

        Raises UsageError if another is there already or others may read it, OSError if that can't
        be.
        """
        if self._lock is not None:
            return
        path = Path(os.path.realpath(self.path))
        _make(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_mode & 0o077:
                raise UsageError(f"{self.path}: others can read what is kept there; chmod 700 it")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                remedy = "end it, or give --history another folder, or off"
                raise UsageError(
                    f"{self.path}: another edgellm keeps its sessions there; {remedy}"
                ) from error
        except BaseException:
            os.close(descriptor)
            raise
        self.path, self._lock = path, descriptor

    def take(self) -> tuple[list[tuple[Journal, History]], float, float]:
        """Lock the folder. Returns the sessions in it, the service's age and the latest time that
        the system's clock has shown (0: unknown). Raises what `lock` does."""
        self.lock()
        try:
            return self._scan(), *self._clock()
        except BaseException:
            self.release()
            raise

    @property
    def taken(self) -> bool:
        return self._lock is not None

    def release(self) -> None:
        """Let others have it."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.close(self._lock)
            self._lock = None

    def file(self, name: str) -> Path:
        """Where a session's journal is."""
        return self.path / (name + SUFFIX)

    def read(self, name: str) -> tuple[Journal, History]:
        """A session. Raises FormatError for a damaged file, OSError if it can't be read."""
        contents = journal.read(self.file(name))
        history, _, damage = self._understand(name, contents)
        if damage is not None:
            raise damage
        return Journal(self.file(name), contents.salt, contents.size), history

    def remove(self, names: Iterable[str]) -> None:
        """Forget sessions."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.file(name))

    def write_clock(self, age: float, latest: float) -> None:
        """What `take` will return next time."""
        Journal.create(self.path / CLOCK, [msgpack.packb([age, latest])])

    def _scan(self) -> list[tuple[Journal, History]]:
        """All sessions, with what is damaged set aside and what was left half-done removed."""
        found = []
        for file in sorted(os.listdir(self.path)):
            name, suffix = os.path.splitext(file)
            if suffix == SUFFIX and NAME.fullmatch(name):
                try:
                    if one := self._inspect(name):
                        found.append(one)
                except (OSError, UnsupportedError) as error:
                    log.error("%s: this session isn't used: %s", self.file(name), error)
            elif suffix == journal.DRAFT:
                with contextlib.suppress(OSError):
                    os.unlink(self.path / file)
        return found

    def _inspect(self, name: str) -> tuple[Journal, History] | None:
        """A session as it is from now on; None if nothing of it is usable."""
        file = self.file(name)
        history, sound, damage = None, 0, None
        try:
            contents = journal.read(file)
            history, sound, damage = self._understand(name, contents)
        except UnsupportedError:  # a newer edgellm may want it
            raise
        except FormatError as error:
            damage = error
        if history is not None and damage is None:
            return Journal(file, contents.salt, contents.size), history
        aside = self._aside(file)
        if history is None:
            os.rename(file, aside)
            found = None
        else:
            _put_aside(file, aside)
            found = Journal.create(file, contents.payloads[:sound]), history
        log.error("%s; the file was set aside as %s", damage, aside.name)
        return found

    def _understand(self, name: str, contents: Contents) -> tuple[History, int, FormatError | None]:
        """What a file's records add up to, how many payloads are sound, and what is wrong then.
        Raises FormatError if none is."""
        file, history = self.file(name), History()
        sound, damage = 0, contents.damage
        try:
            for payload in contents.payloads:
                for record in unpack(payload, file):
                    history.add(record)
                sound += 1
        except FormatError as error:
            damage = error
        if history.name != name:
            raise FormatError(file, "session", history.name, f"it must be {name}")
        return history, sound, damage

    def _clock(self) -> tuple[float, float]:
        try:
            (payload,) = journal.read(self.path / CLOCK).payloads
            age, latest = map(float, msgpack.unpackb(payload))
        except (OSError, FormatError, ValueError, TypeError, msgpack.UnpackException):
            return 0.0, 0.0
        if not (0 <= age < math.inf and math.isfinite(latest)):
            return 0.0, 0.0
        return age, latest

    def _aside(self, file: Path) -> Path:
        """A name that isn't in use for a damaged file."""
        taken = set(os.listdir(self.path))
        count = 0
        while f"{file.name}{ASIDE}{count}" in taken:
            count += 1
        return file.with_name(f"{file.name}{ASIDE}{count}")


def absence(latest: float, wall: float) -> float:
    """Seconds that count as gone by while nobody had the folder, by the system's clock then and
    now: at most a day, for it may be wrong by years."""
    return min(max(wall - latest, 0.0), DAY) if latest else 0.0


def _put_aside(file: Path, aside: Path) -> None:
    """Under its new name, and if possible under the old one until another takes its place."""
    try:
        os.link(file, aside)
    except OSError:  # a file system without links, or Android
        os.rename(file, aside)


def _make(path: Path) -> None:
    """Make a folder and those that it is in, and have their names on disk."""
    try:
        os.mkdir(path, 0o700)
    except FileNotFoundError:
        _make(path.parent)
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    journal.sync_folder(path.parent)
