"""Runner: the executor at work in its thread, and another in its place when it fails.

Backends are plugins: one may raise, return what are no logits, or never return. A step that fails
is repeated answer by answer (`edgellm.batch`), so that only those fail that must. Where there is
another backend to fall back to, it takes over: slots are then empty, and what they held is fed
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from edgellm.batch import Batch, News, Part
from edgellm.errors import BackendError
from edgellm.executor import Cancelled
from edgellm.pace import Pace
from edgellm.worker import Worker

if TYPE_CHECKING:
    from edgellm.executor import Executor
    from edgellm.governor import Gear

log = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE_S = 60.0
UNKNOWN = 10
"""Times the usual patience that the first step gets, of which nothing is known: devices compile."""
GENEROUS = 20
"""Times the slowest step so far that a step may take, if that is more than the patience."""
LOOK_S = 1.0
"""How often it's looked whether a step is late."""


@dataclass(frozen=True)
class Fallback:
    """What takes over."""

    backend: str
    open: Callable[[], Executor]
    """With the same context and number of slots. Called in the worker's thread; may take long, and
    raise an EdgeError."""


@dataclass(frozen=True)
class Watch:
    """How failures of a backend are met."""

    backend: str = "in use"
    """Its name."""
    fallback: Fallback | None = None
    """None: answers in a step that fails get an error, and after a hang everybody does."""
    patience_s: float = PATIENCE_S
    """How long a step may take, where steps so far don't allow more; 0: for ever."""
    tell: Callable[[str], object] = lambda notice: None
    """Told when another backend takes over."""


class Hang(Exception):
    """A call gives no sign of life."""


class Replaced(Exception):
    """Another executor has taken over; its slots are empty."""


class Runner:
    """All methods are called in the event loop's thread."""

    def __init__(self, executor: Executor, watch: Watch) -> None:
        self.executor = executor
        self.backend = watch.backend
        """The name of the one at work."""
        self.broken: BackendError | None = None
        """Why nothing can be run any more."""
        self._watch = watch
        self._fallback = watch.fallback
        self._gear: Gear | None = None
        self._begin()

    def _begin(self) -> None:
        self._worker = Worker("executor")
        self.pace = Pace(self.executor.chunk, self.executor.max_rows)
        self.batch = Batch(
            self.executor,
            self.pace,
            backend=self.backend,
            alive=self._worker.alive,
            patient=self._fallback is None,
        )
        self.batch.gear = self._gear

    async def work(
        self,
        parts: Sequence[Part],
        steps: int,
        interrupted: Callable[[], bool],
        tell: Callable[[News], object],
    ) -> None:
        """`Batch.work`, in the worker. Raises Replaced, or BackendError once it's broken."""
        await self._do(self.batch.work, parts, steps, interrupted, tell)

    async def copy(self, source: int, target: int, length: int) -> None:
        """`Executor.copy`, in the worker. Raises as `work`; and whatever that does where nothing
        takes over."""
        await self._do(self.executor.copy, source, target, length)

    def shift(self, gear: Gear) -> None:
        """Work so much, from the next step on; see `edgellm.governor`."""
        self._gear = self.batch.gear = gear

    def status(self) -> dict[str, object]:
        return {
            "batch": self.batch.answers,
            "tokens_per_second": round(self.batch.tokens_per_second, 1),
            "backend": "broken" if self.broken else self.backend,
        }

    def cancel(self) -> None:
        """End the step under way."""
        try:
            self.executor.cancel()
        except Exception:
            log.exception("the backend %r: a step couldn't be cancelled", self.backend)

    async def close(self) -> None:
        """Wait for the call under way, then close the executor."""
        try:
            if self.broken is None:
                await self._call(self.executor.close)
        except Exception:
            log.exception("the backend %r: the model couldn't be closed", self.backend)
        finally:
            self._worker.close()

    async def _do(self, function: Callable[..., None], *arguments: Any) -> None:
        if self.broken is not None:
            raise self.broken
        try:
            await self._call(function, *arguments)
        except Cancelled:
            raise
        except Hang as error:
            await self._fall_back(f"the backend {self.backend!r} hangs: {error}", error, hung=True)
        except Exception as error:
            if self._fallback is None:
                raise
            failed = f"the backend {self.backend!r} failed ({type(error).__name__}: {error})"
            words = str(error) if isinstance(error, BackendError) else failed
            await self._fall_back(words, error, hung=False)

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Raises Hang where the call gives no sign of life for too long."""
        call = asyncio.wrap_future(self._worker.submit(function, *arguments))
        patience = self._watch.patience_s
        try:
            while not call.done():
                look = min(LOOK_S, patience / 4) if patience else None
                await asyncio.wait([call], timeout=look)
                limit = max(patience, GENEROUS * self.batch.slowest_s)
                limit = limit if self.batch.slowest_s else patience * UNKNOWN
                if patience and not call.done() and self._worker.give_up_after(limit):
                    raise Hang(f"no end of a step within {limit:.3g} s")
        except BaseException:
            call.cancel()
            raise
        return call.result()

    async def _fall_back(self, words: str, error: Exception, hung: bool) -> None:
        """Let another executor take over, and raise Replaced; or be broken, and raise that."""
        fallback, self._fallback = self._fallback, None
        old = self.executor
        if fallback is None:
            self.broken = BackendError(f"{words}; start the service again")
            log.error("%s", self.broken)
            raise self.broken from error
        # The place is of use only in what the backend raised itself.
        log.warning("%s; %r takes over", words, fallback.backend, exc_info=error.__cause__)
        self._watch.tell(f"{words}; {fallback.backend!r} takes over")
        if not hung:
            with contextlib.suppress(Exception):  # it has failed before
                await self._call(old.close)
        self._worker.close()
        opener = Worker("executor opening")
        try:
            opened = asyncio.wrap_future(opener.submit(fallback.open))
            self.executor = await opened
        except Exception as reason:
            self.broken = BackendError(f"{words}, and {fallback.backend!r} can't go on: {reason}")
            log.error("%s", self.broken)
            raise self.broken from reason
        finally:
            opener.close()
        self.backend = fallback.backend
        self._begin()
        raise Replaced
