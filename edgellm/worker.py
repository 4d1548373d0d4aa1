"""Worker: one thread for calls that may never return."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """Runs calls one after the other. Where one doesn't return it's given up: its thread ends when
    the call does, if it ever does, and keeps nothing from ending."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._since: float | None = None
        """The last sign of life, while a call is under way."""
        self._given_up = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., T], *arguments: Any) -> concurrent.futures.Future[T]:
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)

        self._calls.put(call)
        return future

    def alive(self) -> bool:
        """A sign of life, from within the call. If it says False the call has been given up, and
        may touch nothing that others use."""
        with self._lock:
            self._since = time.monotonic()
            return not self._given_up

    def give_up_after(self, seconds: float) -> bool:
        """Give the worker up if a call is under way without a sign of life for so long; returns
        whether it's given up."""
        with self._lock:
            late = self._since is not None and time.monotonic() - self._since > seconds
            self._given_up = self._given_up or late
            return self._given_up

    def close(self) -> None:
        """No more calls; waits for the one under way, unless it's given up."""
        self._calls.put(None)
        if not self._given_up:
            self._thread.join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            self.alive()
            call()
            del call  # what it holds is freed while the next one is waited for
            with self._lock:
                self._since = None
