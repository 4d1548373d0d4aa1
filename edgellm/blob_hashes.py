"""The hashes of a bundle's blobs, checked by other processors while this one goes on reading."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType

from edgellm.errors import FormatError
from edgellm.manifest import Blob


class BlobHashes:
    """Use it in a `with` statement: after its end all blobs are those of their hashes.

    Within it only those that `require` was called for are. Raises FormatError for one that isn't.
    """

    def __init__(
        self, parts: Mapping[str, memoryview], blobs: Sequence[Blob], file: object
    ) -> None:
        """`parts` are the blobs' bytes by name."""
        self._parts, self._file = parts, file
        self._wanted = {blob.name: blob.sha256 for blob in blobs}
        self._left = deque(sorted(self._wanted, key=lambda name: -parts[name].nbytes))
        self._sound: set[str] = set()
        self._damaged: list[str] = []
        self._threads: list[threading.Thread] = []

    def require(self, name: str) -> None:
        """Check one blob now."""
        self._check(name)
        self._raise()

    def __enter__(self) -> BlobHashes:
        with contextlib.suppress(RuntimeError):  # as many as the system gives
            for _ in range(min(_processors(), len(self._wanted)) - 1):
                thread = threading.Thread(target=self._work, daemon=True)
                thread.start()
                self._threads.append(thread)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if error is not None:
            self._left.clear()
        self._work()
        for thread in self._threads:
            thread.join()
        if error is None:
            self._raise()
            for name in self._wanted.keys() - self._sound:  # a thread that ended before its time
                self.require(name)

    def _work(self) -> None:
        while not self._damaged:
            try:
                name = self._left.popleft()
            except IndexError:
                return
            self._check(name)

    def _check(self, name: str) -> None:
        if hashlib.sha256(self._parts[name]).hexdigest() != self._wanted[name]:
            self._damaged.append(name)
        else:
            self._sound.add(name)

    def _raise(self) -> None:
        if self._damaged:
            name = self._damaged[0]
            raise FormatError(self._file, name, "not that of its hash", "the file is damaged")


def _processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
