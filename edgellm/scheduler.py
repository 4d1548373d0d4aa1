"""Scheduler: many answers from one executor, in fair turns.

Strategy:

- One asyncio task owns the executor and runs it in one worker thread. Everything that describes the
  work (queue, slots, answers) changes only in the event loop's thread; the worker sees parts, small
  plans of what to feed, and returns them with the tokens that were drawn. So there are no locks.
- The work is a sequence of turns: admit, pick, step, sample, deliver (`_turn`). A turn feeds at
  most one chunk of one waiting prompt, and then one token to every answer that is past its prompt,
  all in one step. A long prompt thus delays the others by one chunk a token, and prompts take
  their chunks in rotation.
- An answer is decoding when exactly one of its tokens isn't in its slot yet; there is no other
  state. Reusing a prefix, recomputing after an eviction and going on with an answer are all the
  same: feed what the slot lacks.
- What a slot holds outlives its session, so that prompts that begin alike (the same system message)
  are computed once: a newcomer gets the slot that fits best, or a copy of another's beginning.
- An answer that ends, whatever the reason, leaves the running list at the beginning of the next
  turn. `stop` therefore takes effect at once for the asker, who gets no more of the text that waits
  for delivery either, and within one step for the executor.
- Who goes first is decided in one place, the order of the waiting answers: as they came.
- A step that fails is repeated answer by answer, so that only those fail that must; their slots
  count as empty afterwards.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgellm.answer import Answer, Request
from edgellm.channel import Done
from edgellm.errors import BackendError, BusyError
from edgellm.generation import Generation, Piece
from edgellm.session import Session, Slot, common_prefix

if TYPE_CHECKING:
    from edgellm.executor import Executor
    from edgellm.tokenizer import Tokenizer

SMOOTHING = 0.3
"""Weight of the newest answer in the running means that the retry time is estimated from."""
T = TypeVar("T")


@dataclass(slots=True)
class _Part:
    """One answer's share of a turn: what it feeds, and what came of it."""

    answer: Answer
    slot: Slot
    tokens: list[int]
    drawn: int | None = None
    error: Exception | None = None


class Scheduler:
    """Owns an executor. Everything but the executor's work happens in the event loop's thread."""

    def __init__(self, executor: Executor, tokenizer: Tokenizer, queue: int = 8) -> None:
        """At most `queue` requests wait for a slot; a further one is told when to come again."""
        self._executor = executor
        self._tokenizer = tokenizer
        self._queue = queue
        self._slots = [Slot(index) for index in range(executor.slots)]
        self._waiting: deque[Answer] = deque()
        self._running: list[Answer] = []
        self._counter = itertools.count(1)
        self._answer_s = 1.0
        self._token_s = 0.0
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="executor")

    @property
    def context(self) -> int:
        """Positions that one conversation may take."""
        return self._executor.context

    async def __aenter__(self) -> Scheduler:
        self._task = asyncio.create_task(self._serve(), name="scheduler")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def submit(self, session: Session, request: Request) -> Answer:
        """Queue a request.

        Raises what `check_room` does, and what Generation does for a prompt or options that can't
        be used.
        """
        self.check_room(session)
        generation = Generation(
            self._executor,
            self._tokenizer,
            request.tokens,
            request.sampling,
            request.max_tokens,
            request.stop,
            request.echo,
            request.reply,
        )
        answer = session.answer = Answer(session, generation)
        if generation.limit == generation.prompt_tokens:
            answer.deliver(Piece(None, request.echo, generation.done("length")))
        else:
            self._waiting.append(answer)
            self._wake.set()
        return answer

    def check_room(self, session: Session) -> None:
        """Raise BusyError if the queue is full or the session is still answering, BackendError if
        the service is shutting down."""
        if self._closing:
            raise BackendError("the service is shutting down")
        self._waiting = deque(answer for answer in self._waiting if not answer.ended)
        place = max(0, len(self._waiting) - len(self._idle_slots()))
        if session.answering or place >= self._queue:
            raise BusyError(place, self._retry_ms())

    def release(self, session: Session) -> None:
        """Stop the session's answer and let its slot go."""
        if session.answer is not None:
            session.answer.stop()
        if session.slot is not None:
            session.slot.owner = None
            session.slot = None

    def status(self) -> dict[str, object]:
        return {
            "answering": sum(not answer.ended for answer in self._running),
            "waiting": sum(not answer.ended for answer in self._waiting),
            "queue": self._queue,
            "slots": len(self._slots),
            "context": self.context,
            "tokens_per_second": round(1 / self._token_s, 1) if self._token_s else 0.0,
        }

    async def close(self) -> None:
        """End all answers, wait for the step under way, then close the executor."""
        first, self._closing = not self._closing, True
        for answer in (*self._waiting, *self._running):
            if not answer.ended:  # one that is complete may still be delivered
                answer.stop()
        self._wake.set()
        try:
            if self._task is not None:
                await self._task
        finally:
            if first:
                closed = self._worker.submit(self._executor.close)
                self._worker.shutdown()
                closed.result()

    # The task

    async def _serve(self) -> None:
        while not self._closing:
            if not (self._waiting or self._running):
                self._wake.clear()
                await self._wake.wait()
                continue
            try:
                await self._turn()
            except Exception as error:  # whatever went wrong in a turn, the service goes on
                for answer in (*self._waiting, *self._running):
                    answer.fail(error)

    async def _turn(self) -> None:
        """Admit, pick, step, sample, deliver."""
        self._running = [answer for answer in self._running if not answer.ended]
        while self._waiting and (idle := self._idle_slots()):
            answer = self._waiting.popleft()
            if not answer.ended:
                await self._admit(answer, idle)

        prompt, decoding = self._pick()
        await self._in_worker(self._compute, prompt, decoding)

        for part in (*prompt, *decoding):
            self._deliver(part)

    # Admit

    def _idle_slots(self) -> list[Slot]:
        taken = {answer.slot for answer in self._running}
        return [slot for slot in self._slots if slot not in taken]

    async def _admit(self, answer: Answer, idle: list[Slot]) -> None:
        """Give the answer a slot that holds as much of its prompt as possible."""
        session, generation = answer.session, answer.generation
        # The prompt's last token is always fed: what follows it is drawn from its logits.
        prompt = generation.tokens[:-1]
        at_home = session.slot is not None
        slot = session.slot or self._choose(idle, prompt)
        if slot.owner is not None:
            slot.owner.slot = None
        slot.owner, session.slot, answer.slot = session, slot, slot
        slot.used = next(self._counter)
        answer.admitted = time.monotonic()
        self._running.append(answer)

        held = common_prefix(slot.tokens, prompt)
        if not at_home:
            held = self._whole_chunks(held)
        del slot.tokens[held:]
        best = max(self._slots, key=lambda other: common_prefix(other.tokens, prompt))
        shared = self._whole_chunks(common_prefix(best.tokens, prompt))
        if shared > held:
            try:
                await self._in_worker(self._executor.copy, best.index, slot.index, shared)
            except Exception as error:
                slot.tokens.clear()
                answer.fail(error)
                return
            slot.tokens[:] = prompt[:shared]
        generation.cached_tokens = len(slot.tokens)

    def _whole_chunks(self, length: int) -> int:
        """Of what others computed only whole chunks are reused: so a prompt is cut at the same
        places as when it's alone, which decides how its logits are rounded."""
        return length - length % self._executor.chunk

    @staticmethod
    def _choose(idle: list[Slot], prompt: list[int]) -> Slot:
        """The slot nobody owns that holds most of the prompt, else the least recently used one."""
        free = [slot for slot in idle if slot.owner is None]
        if free:
            return max(free, key=lambda slot: (common_prefix(slot.tokens, prompt), -slot.used))
        return min(idle, key=lambda slot: slot.used)

    # Pick

    def _pick(self) -> tuple[list[_Part], list[_Part]]:
        """One chunk of one prompt (or none), and the next token of every answer past its prompt."""
        prompt: list[_Part] = []
        decoding: list[_Part] = []
        for answer in self._running:
            slot = answer.slot
            if slot is None or answer.ended:
                continue
            missing = answer.generation.tokens[len(slot.tokens) :]
            if len(missing) == 1:
                decoding.append(_Part(answer, slot, missing))
            elif not prompt:
                prompt.append(_Part(answer, slot, missing[: self._executor.chunk]))
        for part in prompt:  # to the end of the rotation
            self._running.remove(part.answer)
            self._running.append(part.answer)
        return prompt, decoding

    # Step and sample, in the worker thread

    async def _in_worker(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)

    def _compute(self, prompt: list[_Part], decoding: list[_Part]) -> None:
        for parts in (prompt, decoding):
            if parts:
                self._feed(parts)

    def _feed(self, parts: list[_Part]) -> None:
        try:
            rows = self._logits(parts)
        except Exception as error:
            if len(parts) == 1:
                parts[0].error = error
            else:
                for part in parts:  # each alone, to the same positions as before
                    self._feed([part])
            return
        for part, logits in zip(parts, rows, strict=True):
            generation = part.answer.generation
            if len(part.slot.tokens) + len(part.tokens) == len(generation.tokens):
                try:
                    part.drawn = generation.draw(logits)
                except Exception as error:
                    part.error = error

    def _logits(self, parts: list[_Part]) -> NDArray[np.float32]:
        """After each part's last token, (len(parts), vocab)."""
        if len(parts[0].tokens) > 1:
            (part,) = parts
            return self._executor.prefill(part.tokens, part.slot.index, len(part.slot.tokens))[None]
        return self._executor.step(
            [part.tokens[0] for part in parts],
            [part.slot.index for part in parts],
            [len(part.slot.tokens) for part in parts],
        )

    # Deliver

    def _deliver(self, part: _Part) -> None:
        answer, slot = part.answer, part.slot
        if part.error is not None:
            slot.tokens.clear()
            answer.fail(part.error)
            return
        slot.tokens.extend(part.tokens)
        if part.drawn is None or answer.ended:
            return
        try:
            piece = answer.generation.accept(part.drawn)
        except Exception as error:
            answer.fail(error)
            return
        answer.deliver(piece)
        if piece.done is not None:
            self._measure(answer, piece.done)

    def _measure(self, answer: Answer, done: Done) -> None:
        self._answer_s += SMOOTHING * (time.monotonic() - answer.admitted - self._answer_s)
        token_s = (done.seconds - done.first_token_s) / max(1, done.tokens - 1)
        self._token_s += (SMOOTHING if self._token_s else 1.0) * (token_s - self._token_s)

    def _retry_ms(self) -> int:
        """When the next slot will probably become free, between 0.1 s and a minute."""
        return int(1000 * min(60.0, max(0.1, self._answer_s / len(self._slots))))
