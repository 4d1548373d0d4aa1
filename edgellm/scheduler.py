"""Scheduler: many answers from one executor, in fair turns.

Strategy:

- One asyncio task owns the executor and runs it in one worker thread. A turn is: admit, share,
  pick, work. Queue, slots and jobs change only in the event loop's thread, and only between the
  worker's calls; during one, the worker alone touches the generations and slots in it
  (`edgellm.batch`). So there are no locks.
- All that is fed in a step goes in one call of the executor: the newest token of every answer that
  is past its prompt, and a piece of the prompts. While somebody decodes that piece is small, as
  `edgellm.pace` measures; so a long prompt stalls nobody. Prompts take turns.
- The worker goes on by itself while nothing changes but that every answer gets one token longer,
  and tells the event loop after each. It is interrupted by whatever might change a turn's plan.
- An answer is decoding when exactly one of its tokens isn't in its slot yet; there is no other
  state. Reusing a prefix, recomputing after an eviction or when the context rolls, and going on
  with an answer are all the same: feed what the slot lacks.
- What a slot holds outlives its session, so that prompts that begin alike (the same system message)
  are computed once: a newcomer gets the slot that fits best, or a copy of another's beginning, and
  waits for one that is still being computed.
- Lower classes wait for higher ones: in the queue, for rows of a step, and they give up their slot
  to them. Who has waited for too many others counts one class higher (`edgellm.job`).
- An answer that ends, whatever the reason, leaves the running list at the beginning of the next
  turn. `stop` and deadlines take effect at once for the asker, and within one step for the
  executor, whose call is cancelled where nobody else is in it.
- A backend that fails is met by `edgellm.runner`: where another takes over all slots are empty,
  and what they held is fed again.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgellm.answer import Answer, Request
from edgellm.batch import News, Part
from edgellm.channel import Done, Priority, Text
from edgellm.errors import BackendError, BusyError, EdgeError
from edgellm.generation import Generation, Piece
from edgellm.job import Job
from edgellm.runner import Replaced, Runner, Watch
from edgellm.session import Session, Slot

if TYPE_CHECKING:
    from edgellm.executor import Executor
    from edgellm.governor import Gear
    from edgellm.tokenizer import Tokenizer

SMOOTHING = 0.3
"""Weight of the newest answer in the running mean that the retry time is estimated from."""
WORTHWHILE = 8
"""Tokens that another must hold for us to copy them, or be computing for us to wait for them."""
CLOSING = "the service is shutting down"
STEPS = 16
"""Steps that the worker does by itself while others wait in the queue."""


class Scheduler:
    """Owns an executor. Everything but the executor's work happens in the event loop's thread."""

    def __init__(
        self, executor: Executor, tokenizer: Tokenizer, queue: int = 8, watch: Watch | None = None
    ) -> None:
        """At most `queue` requests wait for a slot, not counting those of lower classes; a further
        one is told when to come again."""
        self._runner = Runner(executor, watch or Watch())
        self._tokenizer = tokenizer
        self._queue = queue
        self._slots = [Slot(index) for index in range(executor.slots)]
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._counter = itertools.count(1)
        self._stepping: list[Part] = []
        self._interrupted = False
        self._answer_s = 1.0
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    @property
    def context(self) -> int:
        """Positions that one conversation may take."""
        return self._runner.executor.context

    async def __aenter__(self) -> Scheduler:
        self._task = asyncio.create_task(self._serve(), name="scheduler")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def submit(
        self,
        session: Session,
        request: Request,
        tell: Callable[[Text | Done | EdgeError], None] | None = None,
        after: Answer | None = None,
        owed: bool = False,
    ) -> Answer:
        """Queue a request; for `tell` see Answer.

        A request that goes on `after` an answer of the same turn takes that one's place in the
        queue, and one that was accepted before a restart and is `owed` has one even if it's full.
        Raises what `check_room` does for all others, and what Generation does for a prompt or
        options that can't be used.
        """
        if after is None and not owed:
            self.check_room(session, request.priority)
        else:
            self._check_open()
        generation = Generation(
            self._runner.executor,
            self._tokenizer,
            request.tokens,
            request.sampling,
            request.max_tokens,
            request.stop,
            request.echo,
            request.reply,
            request.keep,
            request.grammar,
            request.strengths,
        )
        number = next(self._counter) if after is None else after.number
        answer = session.answer = Answer(session, generation, self._stopped, tell, number)
        if not generation.limit:
            answer.deliver(Piece(None, request.echo, generation.done("length")))
            return answer
        if request.deadline_s is not None:
            answer.expire_in(request.deadline_s)
        self._waiting.append(Job(answer, session, generation, request.priority, number))
        self._interrupt()
        return answer

    def check_room(self, session: Session, priority: Priority = Priority.PERSON) -> None:
        """Raise BusyError if the queue is full or the session is still answering, BackendError if
        the service is shutting down or its backend is broken."""
        self._check_open()
        self._waiting = [job for job in self._waiting if not job.answer.ended]
        ahead = sum(job.priority <= priority for job in self._waiting)
        place = max(0, ahead - len(self._idle_slots()))
        if session.answering or place >= self._queue:
            raise BusyError(place, self._retry_ms())

    def _check_open(self) -> None:
        if self._closing:
            raise BackendError(CLOSING)
        if self._runner.broken is not None:
            raise self._runner.broken

    def release(self, session: Session) -> None:
        """Stop the session's answer and let its slot go."""
        if session.answer is not None:
            session.answer.stop()
        if session.slot is not None:
            session.slot.owner = None
            session.slot = None

    @property
    def busy(self) -> bool:
        """Whether there are answers under way."""
        return any(not job.answer.ended for job in self._running)

    def shift(self, gear: Gear) -> None:
        """Work so much, from the next step on; see `edgellm.governor`."""
        self._runner.shift(gear)

    def status(self) -> dict[str, object]:
        waiting = [job.priority for job in self._waiting if not job.answer.ended]
        return {
            "answering": sum(not job.answer.ended for job in self._running),
            "waiting": len(waiting),
            **{f"waiting_{one.name.lower()}": waiting.count(one) for one in Priority},
            "queue": self._queue,
            "slots": len(self._slots),
            "context": self.context,
            **self._runner.status(),
        }

    async def close(self) -> None:
        """End all answers, wait for the step under way, then close the executor."""
        first, self._closing = not self._closing, True
        for job in (*self._waiting, *self._running):
            if not job.answer.ended:  # one that is complete may still be delivered
                job.answer.stop()
        self._interrupt()
        try:
            if self._task is not None:
                await self._task
        finally:
            if first:
                await self._runner.close()

    def _interrupt(self) -> None:
        """Something is new: plan again after the step under way."""
        self._interrupted = True
        self._wake.set()

    def _stopped(self) -> None:
        self._interrupt()
        if self._stepping and all(part.answer.ended for part in self._stepping):
            self._runner.cancel()

    # The task

    async def _serve(self) -> None:
        while not self._closing:
            if not (self._waiting or self._running):
                self._wake.clear()
                await self._wake.wait()
                continue
            try:
                await self._turn()
            except Replaced:
                self._begin_anew()
            except Exception as error:  # whatever went wrong in a turn, the service goes on
                for job in (*self._waiting, *self._running):
                    job.answer.fail(error)

    async def _turn(self) -> None:
        """Admit, share, pick, work."""
        self._interrupted = False
        self._running = [job for job in self._running if not job.answer.ended]
        self._waiting = [job for job in self._waiting if not job.answer.ended]
        while job := self._next():
            await self._admit(job)
        for job in self._running:
            if job.answer.ended:  # this very turn: its slot may be another's already
                continue
            if job.leader is not None and not self._leads(job.leader, job.shared):
                job.leader = None
                await self._share(job)
        if parts := self._pick():
            await self._work(parts)

    def _begin_anew(self) -> None:
        """Another executor has taken over: what its slots lack is fed again."""
        for slot in self._slots:
            slot.tokens.clear()
        for job in (*self._running, *self._waiting):
            job.leader = None
            job.generation.use(self._runner.executor.choice)

    # Admit

    def _idle_slots(self) -> list[Slot]:
        taken = {job.slot for job in self._running if not job.answer.ended}
        return [slot for slot in self._slots if slot not in taken]

    def _next(self) -> Job | None:
        """Take the job out of the queue that is to begin now, if there is one. Where no slot is
        idle, one of a lower class goes back into the queue for it."""
        if not self._waiting:
            return None
        if self._idle_slots():
            job = min(self._waiting, key=lambda job: (job.rank, job.number))
        else:
            job = min(self._waiting, key=lambda job: (job.priority, job.number))
            # Where chunks matter, what was computed token by token couldn't be computed again.
            yielding = [one for one in self._running if not one.answer.ended and one.yields_to(job)]
            if not yielding or self._runner.executor.chunk > 1:
                return None
            victim = max(yielding, key=lambda one: (one.priority, one.number))
            victim.evict()
            self._running.remove(victim)
            self._waiting.append(victim)
        self._waiting.remove(job)
        for other in self._waiting:
            other.passed += other.number < job.number
        return job

    async def _admit(self, job: Job) -> None:
        """Give the job a slot that holds as much of its prompt as possible."""
        session = job.session
        at_home = session.slot is not None
        slot = session.slot or self._choose(job)
        if slot.owner is not None:
            slot.owner.slot = None
        slot.owner, session.slot = session, slot
        slot.used = next(self._counter)
        held, slot.strengths = job.held(slot), job.generation.strengths
        del slot.tokens[held if at_home else self._cut(held) :]

        job.leader, job.shared = self._leader(job)
        job.admit(slot)
        self._running.append(job)
        if job.leader is None:
            await self._share(job)

    def _choose(self, job: Job) -> Slot:
        """The slot nobody owns that holds most of the prompt, else the least recently used one."""
        idle = self._idle_slots()
        free = [slot for slot in idle if slot.owner is None]
        if free:
            return max(free, key=lambda slot: (job.held(slot), -slot.used))
        return min(idle, key=lambda slot: slot.used)

    def _cut(self, length: int) -> int:
        """Of what others computed only whole chunks are reused: so a prompt is cut at the same
        places as when it's alone, which may decide how its logits are rounded."""
        return length - length % self._runner.executor.chunk

    # Share

    def _leader(self, job: Job) -> tuple[Job | None, int]:
        """Who is computing a beginning of the prompt that is worth waiting for, and its length."""
        leader, longest = None, max(map(job.held, self._slots)) + WORTHWHILE - 1
        for other in self._running:
            if other.waits_for(job):  # since before the job had to give way, this very turn
                continue
            shared = self._cut(job.like(other))
            if shared > longest and other.priority <= job.priority and self._leads(other, shared):
                leader, longest = other, shared
        return leader, longest

    def _leads(self, leader: Job, shared: int) -> bool:
        """Whether somebody is still computing the first `shared` tokens of a prompt."""
        return (
            leader in self._running
            and not leader.answer.ended
            and not leader.generation.drawn
            and leader.slot is not None
            and len(leader.slot.tokens) < shared
        )

    async def _share(self, job: Job) -> None:
        """Copy what another slot holds of the job's tokens and its own doesn't."""
        slot = job.slot
        if slot is None:
            return
        best = max(self._slots, key=job.held)
        shared = self._cut(job.held(best))
        if shared >= len(slot.tokens) + WORTHWHILE:
            slot.tokens.clear()
            try:
                await self._runner.copy(best.index, slot.index, shared)
            except Replaced:
                raise
            except Exception as error:
                job.answer.fail(error)
                return
            slot.tokens += job.fixed[:shared]
        if not job.generation.drawn:
            job.generation.cached_tokens = len(slot.tokens)

    # Pick

    def _pick(self) -> list[Part]:
        """The newest token of every answer past its prompt, and as much of prompts as may go."""
        ready = [job for job in self._running if not job.answer.ended and job.leader is None]
        decoding = [job for job in ready if job.missing == 1]
        prompts = [job for job in ready if job.missing > 1]
        prompts.sort(key=lambda job: (job.rank, job.served, job.number))
        pace = self._runner.pace.beside if decoding else self._runner.pace.alone
        room = min(pace.rows, self._runner.executor.max_rows - len(decoding))
        parts = [job.part(1) for job in decoding]
        turn = next(self._counter)
        for job in prompts:
            count = job.missing if job.missing <= room else self._cut(room)
            if count:
                parts.append(job.part(count))
                room -= count
                job.served, job.passed = turn, 0
            else:
                job.passed += 1
        return parts

    # Work

    async def _work(self, parts: list[Part]) -> None:
        loop = asyncio.get_running_loop()
        steps = 1 if len(parts) < len(self._running) else STEPS if self._waiting else -1
        self._stepping = parts
        try:
            await self._runner.work(
                parts,
                steps,
                lambda: self._interrupted,
                lambda news: loop.call_soon_threadsafe(self._deliver, news),
            )
        finally:
            self._stepping = []
            self._interrupted = True  # of use where this task was cancelled, not the worker

    def _deliver(self, news: News) -> None:
        for answer, new in news:
            if isinstance(new, Exception):
                answer.fail(new)
                continue
            answer.deliver(new)
            if new.done is not None and answer.begun is not None:
                seconds = time.monotonic() - answer.begun
                self._answer_s += SMOOTHING * (seconds - self._answer_s)

    def _retry_ms(self) -> int:
        """When the next slot will probably become free, between 0.1 s and a minute."""
        return int(1000 * min(60.0, max(0.1, self._answer_s / len(self._slots))))
