"""A serial line in real time, between two pseudo-terminals: paced at the baud rate, noisy, and
unplugged and plugged in again, which removes the host's terminal and makes a new one under the same
name. What noise does is as in `line_simulator`.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import threading
import time
import tty
from pathlib import Path
from typing import Self

from line_simulator import CLEAN, Conditions, Line

PIECE = 32
"""Bytes that are carried at a time: 3 ms at 115,200 baud."""
LATE = 0.05
"""Seconds of this thread's own lateness that the line makes up for."""
REST = 0.05
"""Seconds between two looks at an idle line."""


class Terminal:
    """A pseudo-terminal under a name that stays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1
        self._slave = -1

    def plug(self) -> None:
        self.fd, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self.fd, False)
        self.path.symlink_to(os.ttyname(self._slave))

    def unplug(self) -> None:
        if self.fd >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._slave)  # held, so that reading doesn't fail while nobody has it open
            os.close(self.fd)
            self.fd = -1

    def read(self) -> bytes:
        with contextlib.suppress(OSError):
            return os.read(self.fd, PIECE)
        return b""

    def write(self, data: bytes) -> None:
        """Bytes that nobody reads in time are lost, as in a UART."""
        with contextlib.suppress(OSError):
            os.write(self.fd, data)


class _Way:
    """One direction: at most one piece at a time is on the line."""

    def __init__(self, source: Terminal, sink: Terminal) -> None:
        self.source, self.sink = source, sink
        self.piece = b""
        self.due = 0.0
        self.idle = True
        self.carried = 0


class NoisyLine:
    """The line between the terminals `host` and `device`, carried by a thread while entered."""

    def __init__(
        self, host: Path, device: Path, conditions: Conditions = CLEAN, seed: int = 0
    ) -> None:
        self.host, self.device = Terminal(host), Terminal(device)
        self._byte_s = 10 / conditions.baud
        self._line = Line(conditions, seed)
        self._ways = (_Way(self.device, self.host), _Way(self.host, self.device))
        self._pulled = False
        self._settled = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> Self:
        self.device.plug()
        self.host.plug()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._thread.join()
        self.device.unplug()
        self.host.unplug()

    @property
    def carried(self) -> tuple[int, int]:
        """Bytes that the device has sent, and the host."""
        return self._ways[0].carried, self._ways[1].carried

    def unplug(self) -> None:
        """Remove the host's terminal until `plug`."""
        self._pull(True)

    def plug(self) -> None:
        self._pull(False)

    def _pull(self, pulled: bool) -> None:
        with self._settled:
            self._pulled = pulled
            assert self._settled.wait_for(lambda: (self.host.fd < 0) == pulled, 10)

    def _carry(self) -> None:
        begin = time.monotonic()
        while not self._ending:
            now = time.monotonic()
            away = self._line.unplugged(now - begin)
            with self._settled:
                away = away or self._pulled
                if away != (self.host.fd < 0):
                    (self.host.unplug if away else self.host.plug)()
                    self._settled.notify_all()
            for way in self._ways:
                self._move(way, now, away)
            waiting = [way.source.fd for way in self._ways if not way.piece and way.source.fd >= 0]
            dues = [way.due for way in self._ways if way.piece]
            rest = min([REST, *(due - time.monotonic() for due in dues)])
            select.select(waiting, [], [], max(0.0, rest))

    def _move(self, way: _Way, now: float, away: bool) -> None:
        while True:
            if way.piece:
                if way.due > now:
                    return
                if not away:
                    way.sink.write(self._line.spoil(way.piece))
                way.piece = b""
            if way.source.fd < 0:
                return
            way.piece = way.source.read()
            way.due = now if way.idle else max(way.due, now - LATE)
            way.idle = not way.piece
            if way.idle:
                return
            way.carried += len(way.piece)
            way.due += len(way.piece) * self._byte_s
