"""Sessions' histories, kept on disk as they come about.

Strategy:

- Histories of sessions that are in use are in memory too, and change in the event loop's thread. A
  task takes what is new in them to one worker thread, which writes it to disk. Records that come
  while a session's file is being written go together with the next write.
- After a write has failed, the next one writes the whole history in place of the file, so no gap
  is left. That is also how a file that has grown is made smaller, and how words are forgotten.
- Nobody waits for a disk that hangs: after a time, what is to be saved counts as not saved, until
  the disk answers; then all is written.
- Age is counted by a clock of our own, which runs while the service does and is kept beside the
  sessions. The time in between is taken from the system's clock, but as a day at most, and only
  beyond the latest that this clock has ever shown: it may be wrong by years.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from edgellm.errors import BusyError, FormatError
from edgellm.history.disk_thread import DiskThread
from edgellm.history.journal import Journal
from edgellm.history.records import Forgotten, History, Record, pack
from edgellm.history.session_folder import DAY, SessionFolder, absence

log = logging.getLogger(__name__)

TIDYING_S = 3600.0
SMALL = 16 << 10
"""Bytes that a file may have without being made smaller."""
PATIENCE_S = 10.0
"""A call to the disk that takes longer hangs."""
READ_S = 0.05
"""The longest that the event loop waits for a session's file."""
RETRY_MS = 1000
"""When to ask again for a session that wasn't read by then."""
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What is kept. Beyond it go the oldest turns of a session, and the oldest sessions."""

    days: float = 30.0
    """Since a session's last question."""
    sessions: int = 1000
    session_bytes: int = 256 << 10
    total_bytes: int = 64 << 20


@dataclass(eq=False)
class _Entry:
    """A session that has a file, or is in use."""

    name: str
    time: float
    """When it was used last."""
    journal: Journal | None = None
    """None: it has no file yet."""
    history: History | None = None
    """While it is in use."""
    leaving: bool = False
    """It won't be in use any more once all of it is written."""
    least: int = 0
    """The file's size when it was last written whole."""
    failed: bool = False
    """The file lacks something."""
    synced: bool = False
    """All of the file is on disk for sure, also what an earlier service has written."""
    reading: Future[tuple[Journal, History]] | None = None
    new: list[Record] = field(default_factory=list)
    waiting: list[asyncio.Future[bool]] = field(default_factory=list)


class SessionStore:
    """Use it as an asynchronous context manager. Trouble with the disk is no error: answers go on,
    `save` says that they aren't kept, and the log says it once."""

    def __init__(
        self,
        folder: Path,
        limits: Limits | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`folder` is made if it isn't there. The clocks give seconds."""
        self.limits = limits or Limits()
        self._folder = SessionFolder(folder)
        self._monotonic = monotonic
        self._wall = wall
        self._age, self._since = 0.0, monotonic()
        self._latest = 0.0
        self._entries: dict[str, _Entry] = {}
        self._trouble = self._hangs = False
        self._dirty: dict[str, _Entry] = {}
        self._wake = asyncio.Event()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._writing: list[asyncio.Future[bool]] = []
        """Those who wait for the write under way."""
        self._worker, self._reader = DiskThread(), DiskThread()

    def lock(self) -> None:
        """Keep other services off the folder. Raises UsageError if one is there already, or others
        may read it; any other trouble is told later. Blocks."""
        with contextlib.suppress(OSError):
            self._folder.lock()

    async def __aenter__(self) -> SessionStore:
        """Raises UsageError as `lock`."""
        try:
            await self._take()
        except OSError as error:
            self._tell(error)
        except BaseException:
            self._folder.release()
            raise
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._keep_tidy())]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write what is still to be written."""
        writing, tidying = self._tasks
        tidying.cancel()
        self._retry()
        self._closing = True
        self._wake.set()
        while not (writing.done() or self._hangs):
            await asyncio.wait([writing], timeout=PATIENCE_S)
        writing.cancel()
        try:
            await asyncio.wait(self._tasks)
            if not writing.cancelled():
                writing.result()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE_S):
                        await self._write_clock()
        finally:
            self._reader.close(0)
            self._worker.close(0 if self._hangs else PATIENCE_S)
            if not self._hangs:  # else the folder is ours until the process ends
                self._folder.release()

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def now(self) -> float:
        """Seconds by the store's clock."""
        return self._age + self._monotonic() - self._since

    def __len__(self) -> int:
        return len(self._entries)

    def has(self, name: str) -> bool:
        """Whether there is such a session."""
        return name in self._entries

    def begin(self, name: str) -> History:
        """A new session, in use, which gets a file when something is saved."""
        history = History(name)
        self._entries[name] = _Entry(name, self.now, history=history)
        return history

    def load(self, name: str) -> History | None:
        """The history of a session that is in use from now on; None if there's none, or its file
        can't be read any more. Raises BusyError where the disk takes its time with the file."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        entry.leaving = False
        if entry.history is None:
            entry.reading = entry.reading or self._reader.submit(self._folder.read, name)
            if not wait([entry.reading], READ_S).done:
                raise BusyError(0, RETRY_MS)
            reading, entry.reading = entry.reading, None
            try:
                entry.journal, entry.history = reading.result()
            except (OSError, FormatError) as error:
                log.error("a session isn't used: %s", error)
                del self._entries[name]
        return entry.history

    def note(self, name: str, *records: Record) -> None:
        """Go on with a session in use, without haste: this is written with what is saved next."""
        entry = self._entries[name]
        assert entry.history is not None
        for record in records:
            entry.history.add(record)
        entry.new += records
        entry.time = self.now

    def save(self, name: str, *records: Record) -> asyncio.Future[bool]:
        """Go on with a session in use. The result comes when all of it is on disk, or can't be."""
        self.note(name, *records)
        entry = self._entries[name]
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._hangs:
            future.set_result(False)
        else:
            entry.waiting.append(future)
        self._touch(entry)
        return future

    def release(self, name: str) -> None:
        """A session is no longer in use."""
        entry = self._entries.get(name)
        if entry is not None and entry.history is not None:
            entry.leaving = True
            self._touch(entry)

    # The task that writes

    def _touch(self, entry: _Entry) -> None:
        self._dirty[entry.name] = entry
        self._wake.set()

    def _retry(self) -> None:
        """Have all written that isn't."""
        for entry in self._entries.values():
            if entry.new or entry.failed:
                self._touch(entry)

    async def _write(self) -> None:
        while self._dirty or not self._closing:
            if self._dirty:
                await self._write_entry(self._dirty.pop(next(iter(self._dirty))))
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _write_entry(self, entry: _Entry) -> None:
        """Take one session's file to where its history is."""
        waiting, entry.waiting = entry.waiting, []
        self._writing = waiting
        if entry.new or entry.failed or (waiting and not entry.synced):
            try:
                if not self._folder.taken:
                    await self._take()
                await self._write_new(entry)
                self._tell(None)
            except Exception as error:  # whatever it was, answers go on
                entry.failed = True
                self._tell(error)
        _settle(waiting, not entry.failed)
        if entry.leaving and entry.name not in self._dirty:
            entry.history = None
            entry.failed = entry.synced = False
            if entry.journal is None:
                del self._entries[entry.name]

    async def _write_new(self, entry: _Entry) -> None:
        file, history = entry.journal, entry.history
        assert history is not None
        new, entry.new = entry.new, []
        if file is None or entry.failed or self._has_grown(file.size, entry.least, history, new):
            # What an answer depends on stays until it is complete.
            limit = math.inf if history.open else self.limits.session_bytes / 2
            payloads = history.payloads(limit)
            await self._make_room(entry)
            if file is None:
                path = self._folder.file(entry.name)
                entry.journal = file = await self._in_worker(Journal.create, path, payloads)
            else:
                await self._in_worker(file.replace, payloads)
            entry.least = file.size
        elif new:
            payload = pack(new)
            await self._make_room(entry)
            await self._in_worker(file.append, payload)
        else:
            await self._in_worker(file.sync)
        entry.failed, entry.synced = False, True

    def _has_grown(self, size: int, least: int, history: History, new: list[Record]) -> bool:
        """Whether a file is to be made smaller, or must lose what is forgotten."""
        if any(isinstance(record, Forgotten) for record in new):
            return True
        most = min(self.limits.session_bytes, max(2 * least, SMALL))
        return history.open is None and size > most

    async def _make_room(self, entry: _Entry) -> None:
        """Remove the oldest sessions that aren't in use, as far as there are too many."""
        sizes = {one.name: one.journal.size for one in self._entries.values() if one.journal}
        count, total = len(sizes | {entry.name: 0}), sum(sizes.values())
        if count <= self.limits.sessions and total <= self.limits.total_bytes:
            return
        gone = []
        idle = [one for one in self._entries.values() if one.history is None]
        for one in sorted(idle, key=lambda one: one.time):
            if count <= self.limits.sessions and total <= self.limits.total_bytes:
                break
            gone.append(one.name)
            count -= 1
            total -= sizes[one.name]
        await self._remove(gone)
        if entry.journal is None and count > self.limits.sessions:
            raise OSError(errno.EDQUOT, f"{self.limits.sessions} sessions are in use")

    async def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            del self._entries[name]
        if names:
            await self._in_worker(self._folder.remove, names)

    # Age

    async def _keep_tidy(self) -> None:
        """From time to time: try again what has failed, remove what is too old."""
        while True:
            self._retry()
            oldest = self.now - self.limits.days * DAY
            entries = self._entries.values()
            old = [one.name for one in entries if one.history is None and one.time < oldest]
            try:
                await self._remove(old)
            except OSError as error:
                self._tell(error)
            await self._write_clock()
            await asyncio.sleep(TIDYING_S)

    async def _write_clock(self) -> None:
        self._latest = max(self._latest, self._wall())
        if self._folder.taken:
            with contextlib.suppress(OSError):  # without it, the sessions' own times must do
                await self._in_worker(self._folder.write_clock, self.now, self._latest)

    async def _take(self) -> None:
        """Take the folder, and find what is in it. Raises UsageError, OSError."""
        found, age, latest = await self._in_worker(self._folder.take)
        wall = self._wall()
        times = [history.time for _, history in found]
        self._age = max(age + absence(latest, wall), self.now, *times)
        self._since = self._monotonic()
        self._latest = max(latest, wall)
        for file, history in found:
            entry = _Entry(history.name, history.time, file, least=file.size)
            self._entries.setdefault(history.name, entry)

    async def _in_worker(self, function: Callable[..., T], *arguments: object) -> T:
        timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._hang)
        call = self._worker.submit(function, *arguments)
        try:
            return await asyncio.wrap_future(call)
        finally:
            timer.cancel()
            self._hangs = self._hangs and not call.done()

    def _hang(self) -> None:
        """The disk has taken too long: nobody waits for it any more."""
        self._hangs = True
        self._tell(TimeoutError(errno.ETIMEDOUT, f"the disk takes more than {PATIENCE_S:g} s"))
        _settle(self._writing, False)
        for entry in self._entries.values():
            _settle(entry.waiting, False)

    def _tell(self, error: Exception | None) -> None:
        """Say once that histories aren't saved, and once that they are again."""
        if error is not None and not self._trouble:
            reason = error.strerror if isinstance(error, OSError) else error
            log.error("%s: history isn't being saved: %s; answers go on", self._folder.path, reason)
        elif error is None and self._trouble:
            log.warning("%s: history is being saved again", self._folder.path)
        self._trouble = error is not None


def _settle(waiting: Sequence[asyncio.Future[bool]], saved: bool) -> None:
    """Tell those who wait, but for those who don't any more."""
    for future in waiting:
        if not future.done():
            future.set_result(saved)
