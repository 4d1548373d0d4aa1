"""Journal: a file of records that is only appended to, and outlives the process and the power.

  header  magic 8 bytes, version u32, salt u32, CRC-32 u32 of those
  record  length u32, CRC-32 u32, payload

All numbers are little-endian. A record's CRC-32 covers salt, the record's offset, length and
payload: neither what old blocks of the disk hold nor a text made to look like a record is one.

Strategy:

- An append is one record, one write and one fsync. So after a power cut only the last record can be
  torn, and it is one that nobody was told of. What lies before a sound record is damage instead.
- A new file, and one that takes the place of another, gets its name when all of it is on disk.
- Nothing is kept open: a journal is a path, and what its sound part is known to be.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import FormatError, UnsupportedError

MAGIC = b"EDGEjrnl"
VERSION = 1
HEADER = struct.Struct("<8sIII")
RECORD = struct.Struct("<II")
MAX_RECORD = 1 << 20
MAX_FILE = 8 << 20
SEARCH = 64 << 20
"""Bytes of possible records that are checked before what follows a bad record counts as damage."""
DRAFT = ".new"
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: through the drive's cache


@dataclass(frozen=True)
class Contents:
    """What a file holds."""

    salt: int
    payloads: list[bytes]
    size: int
    """Bytes up to the end of the last sound record. What follows is a torn tail, or damage."""
    damage: FormatError | None


def read(path: Path) -> Contents:
    """The sound records of a file, which isn't changed.

    Raises FormatError for a file without a sound header, UnsupportedError for one of a newer
    version, OSError if it can't be read.
    """
    data = _content(path)
    if len(data) < HEADER.size:
        raise FormatError(path, "size", len(data), f"a journal has at least {HEADER.size} bytes")
    magic, version, salt, check = HEADER.unpack_from(data)
    if magic != MAGIC or zlib.crc32(data[: HEADER.size - 4]) != check:
        raise FormatError(path, "header", data[: HEADER.size], "it isn't a journal's, or damaged")
    if version != VERSION:
        allowed = f"this edgellm reads version {VERSION}; use the one that wrote it"
        raise UnsupportedError(path, "version", version, allowed)
    view, place = memoryview(data), HEADER.size
    payloads = []
    while (payload := _record(view, place, salt)) is not None:
        payloads.append(bytes(payload))
        place += RECORD.size + len(payload)
    damage = None
    if _is_damage(view, place, salt):
        allowed = "it is damaged; what stands before it is used"
        damage = FormatError(path, "record", f"at byte {place}", allowed)
    return Contents(salt, payloads, place, damage)


class Journal:
    """A file to append to. Its methods block until all is on disk, and raise OSError otherwise."""

    def __init__(self, path: Path, salt: int, size: int) -> None:
        """The file at `path` whose sound part has `size` bytes, as it was read."""
        self.path = path
        self.size = size
        self._salt = salt
        self._named = False  # on disk: so far what was read may be only in the system's memory

    @classmethod
    def create(cls, path: Path, payloads: Sequence[bytes]) -> Journal:
        """A new file, in place of one that may be there."""
        journal = cls(path, 0, 0)
        journal.replace(payloads)
        return journal

    def append(self, payload: bytes) -> None:
        """Add a record. If that fails, the next append, or the next reader, removes what may have
        been written of it."""
        record = _framed(self._salt, self.size, payload)
        self._sync_name()
        with _opened(self.path, os.O_WRONLY) as descriptor:
            self._cut(descriptor)
            try:
                os.lseek(descriptor, self.size, os.SEEK_SET)
                _write(descriptor, record)
                _sync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, self.size)
                raise
        self.size += len(record)

    def sync(self) -> None:
        """Have what was read on disk, and nothing after it: who wrote it may not have come to that
        before its end."""
        with _opened(self.path, os.O_WRONLY) as descriptor:
            self._cut(descriptor)
            _sync(descriptor)
        self._sync_name()

    def replace(self, payloads: Sequence[bytes]) -> None:
        """Have these records and no others, in one step: either they are there, or what was."""
        salt, draft = secrets.randbits(32), self.path.with_name(self.path.name + DRAFT)
        header = HEADER.pack(MAGIC, VERSION, salt, 0)[:-4]
        data = bytearray(header + struct.pack("<I", zlib.crc32(header)))
        for payload in payloads:
            data += _framed(salt, len(data), payload)
        try:
            with _opened(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
                _write(descriptor, data)
                _sync(descriptor)
            os.replace(draft, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise
        self._salt, self.size, self._named = salt, len(data), False
        self._sync_name()

    def _cut(self, descriptor: int) -> None:
        """Remove what follows the sound part."""
        size = os.fstat(descriptor).st_size
        if size < self.size:
            raise OSError(errno.EIO, "somebody else has shortened it", str(self.path))
        if size > self.size:
            os.ftruncate(descriptor, self.size)

    def _sync_name(self) -> None:
        if not self._named:
            sync_folder(self.path.parent)
            self._named = True


def sync_folder(path: Path) -> None:
    """Have the names in a folder on disk."""
    with _opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        try:
            _sync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that does so by itself, or can't
                raise


def _framed(salt: int, place: int, payload: bytes) -> bytes:
    if not 0 < len(payload) <= MAX_RECORD:
        raise OSError(errno.EFBIG, f"a record has {len(payload)} bytes, {MAX_RECORD} are allowed")
    return RECORD.pack(len(payload), _checksum(salt, place, payload)) + payload


def _checksum(salt: int, place: int, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<IQI", salt, place, len(payload))))


def _record(data: memoryview, place: int, salt: int) -> memoryview | None:
    """The payload of the sound record at `place`, if there is one."""
    begin = place + RECORD.size
    if begin > len(data):
        return None
    length, check = RECORD.unpack_from(data, place)
    if not 0 < length <= min(MAX_RECORD, len(data) - begin):
        return None
    payload = data[begin : begin + length]
    return payload if _checksum(salt, place, payload) == check else None


def _is_damage(data: memoryview, place: int, salt: int) -> bool:
    """Whether what follows the sound records, from `place` on, is more than a torn tail: longer
    than any record, or with a sound one in it, or with too many that might be."""
    rest = len(data) - place
    if rest > RECORD.size + MAX_RECORD:
        return True
    searched = 0
    for at in range(place + 1, len(data) - RECORD.size):
        length = int.from_bytes(data[at : at + 4], "little")
        if 0 < length <= len(data) - at - RECORD.size:
            searched += length
            if searched > SEARCH or _record(data, at, salt) is not None:
                return True
    return False


def _content(path: Path) -> bytes:
    """All of a regular file. Raises FormatError for another kind, or one that is too large."""
    try:
        with _opened(path, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise FormatError(path, "kind", stat.filemode(about.st_mode), "give a plain file")
            if about.st_size > MAX_FILE:
                allowed = f"up to {MAX_FILE} bytes are allowed"
                raise FormatError(path, "size", about.st_size, allowed)
            data = b""
            while len(data) < about.st_size:
                more = os.read(descriptor, about.st_size - len(data))
                if not more:
                    break
                data += more
            return data
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FormatError(path, "kind", "a symbolic link", "give a plain file") from error
        raise


def _write(descriptor: int, data: bytes | bytearray) -> None:
    """In one write; a disk that takes only a part of it is full."""
    if os.write(descriptor, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _sync(descriptor: int) -> None:
    if _FULL_SYNC is None:
        os.fsync(descriptor)
    else:
        fcntl.fcntl(descriptor, _FULL_SYNC)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """A file's descriptor, for its owner alone; never through a link."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
