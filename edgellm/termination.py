"""SIGTERM for a command of one question: it ends as by Ctrl-C, and says so."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from edgellm.errors import TerminatedError


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """What is done in here ends on SIGTERM in good order, with TerminatedError. In another thread
    than the main one, which alone hears of signals, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminated = False

    def interrupt(*_: object) -> None:
        nonlocal terminated
        terminated = True
        signal.raise_signal(signal.SIGINT)  # asyncio knows how to end on that

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if terminated:
            raise TerminatedError("ended by SIGTERM") from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
