"""Batch: steps over the tokens of several answers. All of it runs in the worker thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgellm.executor import Cancelled

if TYPE_CHECKING:
    from edgellm.answer import Answer
    from edgellm.executor import Executor
    from edgellm.generation import Generation, Piece
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


News = list[tuple["Answer", "Piece | Exception"]]
"""What came of a step, for each answer that anything came of."""


class Batch:
    """While it works, it alone touches the generations and the slots of its parts."""

    def __init__(self, executor: Executor, pace: Pace) -> None:
        self._executor = executor
        self._pace = pace
        self.answers = 0
        """How many answers drew a token in the last step that drew any."""
        self._drawn = self._seconds = 0.0  # lately: both fade within a second or so of work

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
        further ones, `steps` at most; tell the news of each at once."""
        while True:
            news = self._step(parts)
            if news:
                tell(news)
            steps -= 1
            if not steps or interrupted() or not all(part.goes_on for part in parts):
                return
            for part in parts:
                part.tokens, part.decodes = part.generation.tokens[-1:], True

    def _step(self, parts: Sequence[Part]) -> News:
        began = time.perf_counter()
        news: News = []
        for part in parts:
            part.goes_on = False
        self._feed(parts, news)
        seconds = time.perf_counter() - began
        decoding = sum(part.decodes for part in parts)
        rows = sum(len(part.tokens) for part in parts)
        self._pace.measure(decoding, rows - decoding, seconds)
        if news:
            self.answers = len(news)
            fading = max(0.0, 1.0 - seconds)
            self._drawn = self._drawn * fading + len(news)
            self._seconds = self._seconds * fading + seconds
        return news

    def _feed(self, parts: Sequence[Part], news: News) -> None:
        """Feed the parts' tokens and draw the next one for each whose last token this was."""
        try:
            drawing, logits = self._run(parts)
        except Cancelled:
            return
        except Exception as error:
            if len(parts) > 1:
                for part in parts:  # so that only those fail that must
                    self._feed([part], news)
                return
            parts[0].slot.tokens.clear()
            news.append((parts[0].answer, error))
            return
        for part in parts:
            part.slot.tokens += part.tokens
        for part, row in zip(drawing, logits, strict=True):
            try:
                news.append((part.answer, self._draw(part, row)))
            except Exception as error:
                news.append((part.answer, error))

    def _run(self, parts: Sequence[Part]) -> tuple[list[Part], NDArray[np.float32]]:
        """Those parts that come to their last token, and the logits (len, vocab) after it."""
        tokens: list[int] = []
        slots: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        drawing: list[Part] = []
        for part in parts:
            begin, count = len(part.slot.tokens), len(part.tokens)
            tokens += part.tokens
            slots += [part.slot.index] * count
            positions += range(begin, begin + count)
            if begin + count == len(part.generation.tokens):
                wanted.append(len(tokens) - 1)
                drawing.append(part)
        return drawing, self._executor.run(tokens, slots, positions, wanted)

    def _draw(self, part: Part, logits: NDArray[np.float32]) -> Piece:
        generation, slot = part.generation, part.slot
        rolls = generation.rolls
        piece = generation.accept(generation.draw(logits))
        if generation.rolls > rolls:
            del slot.tokens[generation.keep :]
        part.goes_on = piece.done is None and generation.rolls == rolls
        return piece
