"""Generation: one answer as it grows, whoever runs the model; and the loop for a single user."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgellm.channel import Done
from edgellm.errors import ContextError, UsageError
from edgellm.sampling import Sampler, Sampling
from edgellm.text_stream import TextStream

if TYPE_CHECKING:
    from edgellm.executor import Executor
    from edgellm.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Piece:
    """One generated token and the text that it completed."""

    token: int | None
    """None only where an answer ends without any token (`max_tokens` is 0)."""
    text: str
    """Whole characters; empty while a character or a possible stop string is unfinished."""
    done: Done | None = None
    """The statistics, on the last piece."""


class Generation:
    """One answer: draws tokens from logits, turns them into text, knows when to end.

    `draw` may run in another thread than the rest; nothing else touches the sampler.
    """

    def __init__(
        self,
        executor: Executor,
        tokenizer: Tokenizer,
        tokens: Sequence[int],
        sampling: Sampling,
        max_tokens: int = -1,
        stop: Sequence[str] = (),
        echo: str = "",
        reply: bool = False,
    ) -> None:
        """`tokens` is the prompt. A negative `max_tokens` goes on until the context is full; `echo`
        is text that the answer begins with. A `reply` is a text of its own: the space that some
        vocabularies put before every text is dropped, as it is after a prompt of nothing but bos.

        Raises ContextError if the prompt is longer than the context, UsageError if it is empty or
        holds ids that the model doesn't have.
        """
        check_prompt(executor, tokens)
        self.tokens = list(tokens)
        """The prompt and what was generated so far."""
        self.prompt_tokens = len(tokens)
        self.cached_tokens = 0
        # The last token needn't fit: it is drawn, but not fed.
        room = executor.context + 1 - len(tokens)
        self.limit = len(tokens) + (room if max_tokens < 0 else min(max_tokens, room))
        self._sampler = Sampler(sampling, tokenizer)
        self._text = TextStream(tokenizer, stop)
        self._echo = echo
        begins = reply or list(tokens) == [tokenizer.bos]
        self._space = " " if begins and _adds_space(tokenizer) else ""
        self._started = time.perf_counter()
        self._first: float | None = None

    def draw(self, logits: NDArray[np.float32]) -> int:
        """The next token, from the logits (vocab,) after the last one."""
        return self._sampler.sample(logits, self.tokens)

    def accept(self, token: int) -> Piece:
        """Append a drawn token; the piece carries the statistics if the answer ends with it."""
        if self._first is None:
            self._first = time.perf_counter()
        self.tokens.append(token)
        text = self._text.push(token)
        full = len(self.tokens) >= self.limit
        done = None
        if self._text.stopped or full:
            text += self._text.flush()
            done = self.done("stop" if self._text.stopped else "length")
        if text and self._space:
            text, self._space = text.removeprefix(self._space), ""
        text, self._echo = self._echo + text, ""
        return Piece(token, text, done)

    def done(self, reason: str) -> Done:
        """The statistics so far."""
        now = time.perf_counter()
        return Done(
            reason=reason,
            tokens=len(self.tokens) - self.prompt_tokens,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            first_token_s=(self._first or now) - self._started,
            seconds=now - self._started,
        )


def check_prompt(executor: Executor, tokens: Sequence[int]) -> None:
    """Raise ContextError or UsageError if the model can't take this prompt."""
    if not tokens:
        raise UsageError("the prompt is empty; give it at least one token")
    if len(tokens) > executor.context:
        raise ContextError(
            f"the prompt has {len(tokens)} tokens, but the context holds {executor.context}; "
            f"shorten the prompt or load the model with a longer context (-c)"
        )
    vocab = executor.config.vocab
    for token in tokens:
        if not 0 <= token < vocab:
            raise UsageError(
                f"token {token} is not in the vocabulary; ids go from 0 to {vocab - 1}"
            )


def _adds_space(tokenizer: Tokenizer) -> bool:
    """Whether the vocabulary puts a space before every text, which then isn't part of it."""
    ids = tokenizer.encode("a")
    return bool(ids) and tokenizer.piece(ids[0]).startswith(b" ")


class SingleSlot:
    """Slot 0 of an executor that nobody else uses, shared by answers that may take turns in it."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self._last: Generation | None = None

    def logits(self, generation: Generation) -> NDArray[np.float32]:
        """Logits (vocab,) after an answer's last token, of which only that may be new."""
        tokens = generation.tokens
        if self._last is generation:
            (row,) = self.executor.step(tokens[-1:], [0], [len(tokens) - 1])
            return np.asarray(row)
        self._last = generation
        return self.executor.prefill(tokens, 0, 0)

    def move(self, executor: Executor) -> None:
        """Go on with another executor, and close this one."""
        self.executor.close()
        self.executor, self._last = executor, None

    def every(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits (len(tokens), vocab) after each token of a sequence of its own."""
        self._last = None
        return self.executor.prefill(tokens, 0, 0, every=True)


def generate(
    slot: SingleSlot,
    tokenizer: Tokenizer,
    tokens: Sequence[int],
    sampling: Sampling,
    max_tokens: int = -1,
    stop: Sequence[str] = (),
    echo: str = "",
) -> Iterator[Piece]:
    """Run one answer; the last piece has `done`.

    The arguments are Generation's, and so are the errors, raised before the first piece.
    """
    generation = Generation(slot.executor, tokenizer, tokens, sampling, max_tokens, stop, echo)
    return _pieces(slot, generation)


def _pieces(slot: SingleSlot, generation: Generation) -> Iterator[Piece]:
    if generation.limit == generation.prompt_tokens:
        yield Piece(None, "", generation.done("length"))
        return
    while True:
        piece = generation.accept(generation.draw(slot.logits(generation)))
        yield piece
        if piece.done is not None:
            return
