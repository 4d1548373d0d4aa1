"""An event loop whose clock jumps: it never waits, but sets its time to when somebody wants to be
woken. So what takes minutes of a line's time is computed in seconds, and always in the same order.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from line_simulator import Line

from edgellm.errors import LinkError

T = TypeVar("T")


class Clock(selectors.SelectSelector):
    """Passes the time that the loop would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits for ever"
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = Clock()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """What `asyncio.run` does, in virtual time. Nothing in it may wait for a thread."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def now() -> float:
    return asyncio.get_running_loop().time()


class Cable:
    """A line between two wires, until it's cut."""

    def __init__(self, line: Line) -> None:
        self.ends = (Plug(self, line, 0), Plug(self, line, 1))
        self.is_cut = False

    def cut(self) -> None:
        self.is_cut = True
        for end in self.ends:
            end.news.set()


class Plug:
    """One end of a cable; see `edgellm.connection.Wire`."""

    def __init__(self, cable: Cable, line: Line, number: int) -> None:
        self.news = asyncio.Event()
        self.stuck = False
        """Whether nothing can be written, as if the other end didn't read."""
        self._cable = cable
        self._number = number
        self._side = line.sides[number]

    async def read(self) -> bytes:
        while True:
            self._check()
            if data := self._side.read(now()):
                return data
            self.news.clear()
            arrival = self._side.arrival()
            try:
                async with asyncio.timeout_at(None if arrival == float("inf") else arrival):
                    await self.news.wait()
            except TimeoutError:
                pass

    async def write(self, data: bytes) -> None:
        while self.stuck:
            self._check()
            await asyncio.sleep(0.1)
        self._check()
        self._side.write(data, now())
        self._cable.ends[1 - self._number].news.set()

    def _check(self) -> None:
        if self._cable.is_cut:
            raise LinkError("unplugged")
