"""A thread for calls that wait for the disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class DiskThread:
    """Makes one call after the other. Unlike a `ThreadPoolExecutor` it doesn't keep the process
    from its end: a disk may never answer."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], object]] | None]
        self._calls = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, function: Callable[..., T], *arguments: object) -> Future[T]:
        """What will come of a call."""
        future: Future[T] = Future()
        self._calls.put((future, lambda: function(*arguments)))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="history", daemon=True)
            self._thread.start()
        return future

    def close(self, patience: float) -> None:
        """Make the calls that are waiting, and no more; wait for that, but not for ever."""
        self._calls.put(None)
        if self._thread is not None:
            self._thread.join(patience)

    def _work(self) -> None:
        while call := self._calls.get():
            future, work = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            del call, future, work  # nothing outlives its call
