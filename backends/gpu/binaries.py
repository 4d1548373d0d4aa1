"""What drivers compiled, kept from one start to the next."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from edgellm import folders
from edgellm.errors import UsageError

HASH_BYTES = 32
MAX_BYTES = 256 << 20
"""Programs of one backend that were used last are kept, up to so many bytes."""


class BinaryCache:
    """Programs by their source and by the driver that compiled them, in the user's cache.

    A cache that can't be written or read is no error: what isn't there is compiled.
    """

    def __init__(self, backend: str, driver: str) -> None:
        self._driver = driver
        try:
            self._folder: Path | None = folders.cache() / backend
        except UsageError:
            self._folder = None

    def find(self, source: str) -> bytes | None:
        """The program compiled from this source; None where there is none, or it is damaged."""
        path = self._path(source)
        if path is None:
            return None
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        digest, program = data[:HASH_BYTES], data[HASH_BYTES:]
        return program if hashlib.sha256(program).digest() == digest else None

    def keep(self, source: str, program: bytes) -> None:
        """Put a program into the cache, at once or not at all."""
        path = self._path(source)
        if path is None:
            return
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                draft.write_bytes(hashlib.sha256(program).digest() + program)
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
            self._tidy(path.parent)

    def _path(self, source: str) -> Path | None:
        if self._folder is None:
            return None
        key = hashlib.sha256(f"{self._driver}\0{source}".encode()).hexdigest()[:32]
        return self._folder / f"{key}.bin"

    def _tidy(self, folder: Path) -> None:
        abouts = [(path, path.stat()) for path in folder.glob("*.bin")]
        kept = 0
        for path, about in sorted(abouts, key=lambda each: -each[1].st_mtime):
            kept += about.st_size
            if kept > MAX_BYTES:
                path.unlink(missing_ok=True)
