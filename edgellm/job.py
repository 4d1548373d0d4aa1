"""Job: an answer in the scheduler's care, with the slot that it has and its place among others."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm.batch import Part
from edgellm.channel import Priority
from edgellm.session import Session, Slot, common_prefix

if TYPE_CHECKING:
    from edgellm.answer import Answer
    from edgellm.generation import Generation

PATIENCE = 4
"""Who has let others go first so often counts one class higher."""
TENURE = 32
"""Who has had to give way once keeps its slot for so many tokens the next time."""


@dataclass(eq=False, slots=True)
class Job:
    answer: Answer
    session: Session
    generation: Generation
    priority: Priority
    number: int
    """By the order of submission."""
    slot: Slot | None = None
    """None while it waits in the queue."""
    passed: int = 0
    """How often others went first since it was last served: were let in, or had prompts fed."""
    served: int = 0
    """The turn in which its prompt was last fed."""
    leader: Job | None = None
    """Who is computing a beginning that this one shares, and waits for."""
    shared: int = 0
    """The length of that beginning."""
    evicted: bool = False
    """Whether it has had to give its slot up before."""
    tenure: int = 0
    """It keeps its slot until so many tokens are drawn."""

    @property
    def rank(self) -> int:
        """Its class, with patience rewarded; the lowest goes first."""
        return self.priority - self.passed // PATIENCE

    @property
    def missing(self) -> int:
        """How many of its tokens aren't in its slot: one while it decodes."""
        return len(self.generation.tokens) - (len(self.slot.tokens) if self.slot else 0)

    @property
    def fixed(self) -> list[int]:
        """Those of its tokens that may come from elsewhere than its own steps: the last one is
        always fed, for what follows is drawn from its logits."""
        return self.generation.tokens[:-1]

    def held(self, slot: Slot) -> int:
        """How many of its leading tokens a slot holds, computed with the same adapters."""
        same = slot.strengths == self.generation.strengths
        return common_prefix(slot.tokens, self.fixed) if same else 0

    def like(self, other: Job) -> int:
        """How many of its leading tokens another job has, too, for the same adapters."""
        same = other.generation.strengths == self.generation.strengths
        return common_prefix(other.generation.tokens, self.fixed) if same else 0

    def part(self, count: int) -> Part:
        """The next `count` tokens that its slot lacks."""
        assert self.slot is not None
        begin = len(self.slot.tokens)
        tokens = self.generation.tokens[begin : begin + count]
        return Part(self.answer, self.generation, self.slot, tokens, decodes=self.missing == 1)

    def admit(self, slot: Slot) -> None:
        self.slot, self.passed = slot, 0
        self.answer.begun = self.answer.begun or time.monotonic()
        self.tenure = self.generation.drawn + TENURE * self.evicted

    def evict(self) -> None:
        """Back to the queue; what was generated stays, and so does what the slot holds."""
        self.slot = self.leader = None
        self.evicted = True

    def waits_for(self, other: Job) -> bool:
        """Whether the other is its leader, or one that its leader waits for in turn."""
        return self.leader is not None and (self.leader is other or self.leader.waits_for(other))

    def yields_to(self, newcomer: Job) -> bool:
        """Whether the newcomer may have its slot."""
        return newcomer.priority < self.priority and self.generation.drawn >= self.tenure
