"""Batch: steps over the tokens of several answers. All of it runs in the worker thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import BackendError
from edgellm.executor import Cancelled

if TYPE_CHECKING:
    from edgellm.answer import Answer
    from edgellm.executor import AdaptingExecutor, Executor
    from edgellm.generation import Generation, Piece
    from edgellm.governor import Gear
    from edgellm.pace import Pace
    from edgellm.session import Slot


@dataclass(slots=True)
class Part:
    """One answer's share of a step."""

    answer: Answer
    generation: Generation
    slot: Slot
    tokens: list[int]
    decodes: bool
    """Whether it is past its prompt."""
    goes_on: bool = False
    """After the step: whether it drew a token that is to be fed next."""


REST_S = 0.05
"""Of a pause, before the next look at whether it's still wanted."""

News = list[tuple["Answer", "Piece | Exception"]]
"""What came of a step, for each answer that anything came of."""


class GivenUp(Exception):
    """Nobody waits for this step any more."""


class Batch:
    """While it works, it alone touches the generations and the slots of its parts."""

    def __init__(
        self,
        executor: Executor,
        pace: Pace,
        *,
        backend: str = "in use",
        alive: Callable[[], bool] = lambda: True,
        patient: bool = True,
    ) -> None:
        """The `backend` is named in errors. `alive` is told of each step, and says whether it still
        counts. Unless `patient`, a step that fails for a single answer raises BackendError."""
        self._executor = executor
        self._pace = pace
        self.gear: Gear | None = None
        """How much the machine may work, from the next step on; None: as much as it can."""
        self._backend = backend
        self._alive = alive
        self._patient = patient
        self.slowest_s = 0.0
        """What the slowest step so far has taken."""
        self.answers = 0
        """How many answers drew a token in the last step that drew any."""
        self._drawn = self._seconds = 0.0  # lately: both fade within a second or so of work
        self._rest_end = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of all answers together, lately."""
        return self._drawn / self._seconds if self._seconds else 0.0

    def work(
        self,
        parts: Sequence[Part],
        steps: int,
        interrupted: Callable[[], bool],
        tell: Callable[[News], object],
    ) -> None:
        """Do a step and, while nothing changes but that each answer has one token more to be fed,
        further ones, `steps` at most; tell the news of each at once. Where there is still a pause
        to be made, it comes first, and nothing else if it is interrupted."""
        while True:
            while (left := self._rest_end - time.perf_counter()) > 0:
                if interrupted():
                    return
                time.sleep(min(left, REST_S))
                self._go_on()
            news: News = []
            try:
                self._step(parts, news)
            finally:
                if news:
                    tell(news)
            steps -= 1
            if not steps or interrupted() or not all(part.goes_on for part in parts):
                return
            for part in parts:
                part.tokens, part.decodes = part.generation.tokens[-1:], True

    def _step(self, parts: Sequence[Part], news: News) -> None:
        gear = self.gear
        if gear is not None and gear.threads != self._executor.threads:
            self._executor.threads = gear.threads
        began = time.perf_counter()
        for part in parts:
            part.goes_on = False
        self._feed(parts, news)
        seconds = time.perf_counter() - began
        self.slowest_s = max(self.slowest_s, seconds)
        decoding = sum(part.decodes for part in parts)
        rows = sum(len(part.tokens) for part in parts)
        self._pace.measure(decoding, rows - decoding, seconds)
        if gear is not None and gear.duty < 1:
            pause = seconds * (1 / gear.duty - 1)
            self._rest_end = began + seconds + pause
            seconds += pause
        if news:
            self.answers = len(news)
            fading = max(0.0, 1.0 - seconds)
            self._drawn = self._drawn * fading + len(news)
            self._seconds = self._seconds * fading + seconds

    def _feed(self, parts: Sequence[Part], news: News) -> None:
        """Feed the parts' tokens and draw the next one for each whose last token this was."""
        failed: Exception | None = None
        try:
            drawing, logits = self._run(parts)
        except Cancelled:
            return
        except Exception as error:
            failed = error
        self._go_on()
        if failed is not None:
            if len(parts) > 1:
                for part in parts:  # so that only those fail that must
                    self._feed([part], news)
                return
            parts[0].slot.tokens.clear()
            named = self._named(failed)
            if not self._patient:
                raise named
            news.append((parts[0].answer, named))
            return
        for part in parts:
            part.slot.tokens += part.tokens
        for part, row in zip(drawing, logits, strict=True):
            try:
                news.append((part.answer, self._draw(part, row)))
            except Exception as error:
                news.append((part.answer, error))

    def _go_on(self) -> None:
        """Give a sign of life. Raises GivenUp where nobody waits for it."""
        if not self._alive():
            raise GivenUp

    def _run(self, parts: Sequence[Part]) -> tuple[list[Part], NDArray[np.float32]]:
        """Those parts that come to their last token, and the logits (len, vocab) after it."""
        tokens: list[int] = []
        slots: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        drawing: list[Part] = []
        for part in parts:
            begin, count = len(part.slot.tokens), len(part.tokens)
            if part.generation.strengths:
                adapting = cast("AdaptingExecutor", self._executor)
                adapting.adapt(part.slot.index, part.generation.strengths)
            tokens += part.tokens
            slots += [part.slot.index] * count
            positions += range(begin, begin + count)
            if begin + count == len(part.generation.tokens):
                wanted.append(len(tokens) - 1)
                drawing.append(part)
        logits = self._executor.run(tokens, slots, positions, wanted)
        self._check(logits, len(wanted))
        return drawing, logits

    def _check(self, logits: object, rows: int) -> None:
        """Raise BackendError for what are no logits."""
        shape = (rows, self._executor.config.vocab)
        if not isinstance(logits, np.ndarray) or logits.dtype != np.float32:
            found = logits.dtype if isinstance(logits, np.ndarray) else type(logits).__name__
            raise BackendError(f"the backend {self._backend!r} returned {found} for logits")
        if logits.shape != shape:
            wrong = f"logits of the shape {logits.shape}, not {shape}"
            raise BackendError(f"the backend {self._backend!r} returned {wrong}")
        if rows and not math.isfinite(logits.max()):  # which is NaN if one of them is
            raise BackendError(f"the backend {self._backend!r} returned NaN or infinity for logits")

    def _named(self, error: Exception) -> BackendError:
        """The error with the backend's name to it."""
        if isinstance(error, BackendError):
            return error
        words = f"the backend {self._backend!r} failed ({type(error).__name__}: {error})"
        named = BackendError(f"{words}; ask again" if self._patient else words)
        named.__cause__ = error
        return named

    def _draw(self, part: Part, logits: NDArray[np.float32]) -> Piece:
        generation, slot = part.generation, part.slot
        rolls = generation.rolls
        piece = generation.accept(generation.draw(logits))
        if generation.rolls > rolls:
            del slot.tokens[generation.keep :]
        part.goes_on = piece.done is None and generation.rolls == rolls
        return piece
