"""Generation: one answer as it grows, whoever runs the model; and the loop for a single user."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from edgellm.channel import Done
from edgellm.errors import ContextError, UsageError
from edgellm.sampling import Sampler, Sampling
from edgellm.text_stream import TextStream

if TYPE_CHECKING:
    from edgellm.adapter_choice import Strengths
    from edgellm.executor import AdaptingExecutor, Choice, Executor
    from edgellm.tokenizer import Tokenizer
    from edgellm.tools.grammar import Grammar

LONGEST_PIECE = 1024
"""Bytes of a token; those beyond the end of a stop string are fewer."""


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

    `draw` and `accept` may run in another thread than the rest, which only reads.
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
        keep: int | None = None,
        grammar: Grammar | None = None,
        strengths: Strengths = (),
    ) -> None:
        """`tokens` is the prompt. A negative `max_tokens` sets no limit; `echo` is text that the
        answer begins with. A `reply` is a text of its own: the space that some vocabularies put
        before every text is dropped, as it is after a prompt of nothing but bos.

        Where the context is full, the answer ends, or with `keep` it rolls: that many of the first
        tokens, at most half of the context, and the newest half of the others stay. With a
        `grammar` it holds only tokens that this allows, and ends where nothing may follow.

        Raises ContextError if the prompt is longer than the context, UsageError if it is empty or
        holds ids that the model doesn't have.
        """
        check_prompt(executor, tokens)
        self.tokens = list(tokens)
        """The prompt and what was generated so far, without what had to make room."""
        self.prompt_tokens = len(tokens)
        self.cached_tokens = 0
        self.drawn = 0
        """How many tokens were generated."""
        self.rolls = 0
        """How often the context rolled; each time all tokens from `keep` on changed places."""
        self._context = executor.context
        self._rolling = keep is not None
        self.strengths = strengths
        """Of the executor's adapters."""
        self.keep = min(keep or 0, executor.context // 2)
        self.limit: float = max_tokens if max_tokens >= 0 else math.inf
        """The most tokens to generate."""
        if not self._rolling:
            # The last token needn't fit: it is drawn, but not fed.
            self.limit = min(self.limit, executor.context + 1 - len(tokens))
        self._sampler = Sampler(sampling, tokenizer, executor.choice)
        self._guide = None if grammar is None else grammar.guide()
        self._tokenizer = tokenizer
        self._text = TextStream(tokenizer, stop)
        self._echo = echo
        begins = reply or list(tokens) == [tokenizer.bos]
        self._space = " " if begins and _adds_space(tokenizer) else ""
        self._started = time.perf_counter()
        self._first: float | None = None

    def use(self, choice: Choice | None) -> None:
        """From now on the logits are another executor's, which has this to pick from them."""
        self._sampler.choice = choice

    def draw(self, logits: NDArray[np.float32]) -> int:
        """The next token, from the logits (vocab,) after the last one."""
        if self._guide is not None:
            logits = self._guide.mask(logits)
        return self._sampler.sample(logits, self.tokens)

    def accept(self, token: int) -> Piece:
        """Append a drawn token; the piece carries the statistics if the answer ends with it."""
        if self._first is None:
            self._first = time.perf_counter()
        self.tokens.append(token)
        self.drawn += 1
        text = self._text.push(token)
        ended = self._text.stopped
        if self._guide is not None:
            self._guide.accept(token)
            ended = ended or self._guide.done
        done = None
        if ended or self.drawn >= self.limit:
            text += self._text.flush()
            done = self.done("stop" if ended else "length")
        elif len(self.tokens) > self._context:
            self._roll()
        if text and self._space:
            text, self._space = text.removeprefix(self._space), ""
        text, self._echo = self._echo + text, ""
        return Piece(token, text, done)

    @property
    def stop(self) -> str | None:
        """The stop string that it ended at, if it did at one."""
        return self._text.stop

    def up_to_stop(self, spell: Callable[[str], list[int]]) -> list[int]:
        """The prompt and all that was generated up to the end of the stop string.

        What the last token holds beyond it is cut off: `spell` gives tokens for the text before.
        """
        stop, held, tokens = (self.stop or "").encode(), b"", list(self.tokens)
        for token in reversed(tokens[-self.drawn :]):
            held = self._tokenizer.piece(token) + held
            if stop in held or len(held) > len(stop) + LONGEST_PIECE:
                break  # a stop that is a control token has no piece
        beyond = len(held.partition(stop)[2])
        while beyond:
            last = self._tokenizer.piece(tokens.pop())
            if len(last) > beyond:
                tokens += spell(last[:-beyond].decode(errors="ignore"))
            beyond = max(0, beyond - len(last))
        return tokens

    def done(self, reason: str) -> Done:
        """The statistics so far."""
        now = time.perf_counter()
        return Done(
            reason=reason,
            tokens=self.drawn,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            first_token_s=(self._first or now) - self._started,
            seconds=now - self._started,
        )

    def _roll(self) -> None:
        """Give the older half of what needn't be kept up."""
        del self.tokens[self.keep : (self.keep + len(self.tokens) + 1) // 2]
        self.rolls += 1


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
    """Slot 0 of an executor that nobody else uses, shared by answers that may take turns in it.

    Whoever uses it or the logits that it gives holds `turn`: threads then wait for each other.
    """

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.turn = threading.Lock()
        self._last: tuple[Generation, int] | None = None
        self._closed = False

    def logits(self, generation: Generation) -> NDArray[np.float32]:
        """Logits (vocab,) after an answer's last token, of which only that may be new.

        The next call may overwrite them. Raises UsageError once it is closed.
        """
        self.check_open()
        tokens, now = generation.tokens, (generation, generation.rolls)
        if self._last == now:
            row: NDArray[np.float32] = self.executor.run(tokens[-1:], [0], [len(tokens) - 1], [0])[
                0
            ]
            return row
        self._adapt(generation.strengths)
        self._last = now
        return self.executor.prefill(tokens, 0, 0)

    def move(self, executor: Executor) -> None:
        """Go on with another executor, and close this one."""
        self.executor.close()
        self.executor, self._last = executor, None

    def _adapt(self, strengths: Strengths) -> None:
        """Before the slot is filled from its beginning."""
        self._last = None
        if strengths:
            cast("AdaptingExecutor", self.executor).adapt(0, strengths)

    def close(self) -> None:
        """Close the executor: answers under way can't go on."""
        self._closed = True
        self.executor.close()

    def check_open(self) -> None:
        """Raise UsageError if it is closed."""
        if self._closed:
            raise UsageError("the model is closed; load it again")

    def every(self, tokens: Sequence[int], strengths: Strengths = ()) -> NDArray[np.float32]:
        """Logits (len(tokens), vocab) after each token of a sequence of its own."""
        self._adapt(strengths)
        return self.executor.prefill(tokens, 0, 0, every=True)


def generate(
    slot: SingleSlot,
    tokenizer: Tokenizer,
    tokens: Sequence[int],
    sampling: Sampling,
    max_tokens: int = -1,
    stop: Sequence[str] = (),
    echo: str = "",
    keep: int | None = None,
    strengths: Strengths = (),
) -> Iterator[Piece]:
    """Run one answer; the last piece has `done`.

    The arguments are Generation's, and so are the errors, raised before the first piece.
    """
    generation = Generation(
        slot.executor,
        tokenizer,
        tokens,
        sampling,
        max_tokens,
        stop,
        echo,
        keep=keep,
        strengths=strengths,
    )
    return _pieces(slot, generation)


def _pieces(slot: SingleSlot, generation: Generation) -> Iterator[Piece]:
    if not generation.limit:
        yield Piece(None, "", generation.done("length"))
        return
    while True:
        with slot.turn:
            token = generation.draw(slot.logits(generation))
        piece = generation.accept(token)
        yield piece
        if piece.done is not None:
            return
