"""The course of a training: batch after batch, looked at, saved and ended in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgellm.training.batch import Batch
from edgellm.training.network import Network
from edgellm.training.optimiser import AdamW, Rule
from edgellm.training.record import History, Look, Step
from edgellm.training.schedule import Schedule
from edgellm.training.tie import Tie


class Listener(Protocol):
    """Is told how training goes."""

    def stepped(self, history: History) -> None: ...

    def looked(self, history: History) -> None: ...

    def stopping(self) -> bool:
        """Whether to end now; asked before each batch."""


@dataclass(frozen=True)
class Tied:
    """When the rows of the head learn in common: see `Tie`."""

    share: float
    """Of the learning rate."""
    after: int = 0
    """Steps before the first."""


@dataclass(frozen=True)
class Plan:
    """What a training does besides its batches."""

    schedule: Schedule
    rule: Rule = field(default_factory=Rule)
    look_every: int = 0
    """Steps between two looks at held-out samples; 0: only at the end."""
    patience: int = 0
    """Looks without a better loss after which training ends; 0: it goes on."""
    tied: Tied | None = None


class Course:
    """A network's training, from wherever it is.

    `batches(step)` gives the batches of a step, each of the network's shape, whose gradients are
    added up; the same for the same step. `held_out` are looked at.
    """

    def __init__(
        self,
        network: Network,
        plan: Plan,
        batches: Callable[[int], Iterable[Batch]],
        held_out: Sequence[Batch] = (),
        seed: int = 0,
    ) -> None:
        self.network, self.plan, self.seed = network, plan, seed
        self.optimiser = AdamW([*network.layers, network.top], plan.rule)
        self.tie = Tie(network.top, plan.rule) if plan.tied else None
        self.history = History()
        self.best: dict[str, NDArray[np.float32]] = {}
        """What had been learnt at the best look."""
        self._batches, self._held_out = batches, held_out

    @property
    def done(self) -> bool:
        return self.optimiser.taken >= self.plan.schedule.steps or self._exhausted()

    def run(self, listener: Listener, save: Callable[[], None], every: float) -> bool:
        """Train to the end; saves every so many seconds and at the end. False if it was stopped."""
        saved = time.monotonic()
        if self._held_out and not self.history.looks:
            self._look(listener)
        while not self.done:
            if not self._step(listener):
                save()
                return False
            taken, looks = self.optimiser.taken, self.plan.look_every
            last = taken == self.plan.schedule.steps
            if self._held_out and (last or (looks and taken % looks == 0)):
                self._look(listener)
            if time.monotonic() - saved >= every:
                save()
                saved = time.monotonic()
        save()
        return True

    def held_out_loss(self) -> float:
        """The mean cross-entropy of the held-out samples' tokens."""
        wanted = sum(batch.wanted for batch in self._held_out)
        return sum(self.network.loss(batch) for batch in self._held_out) / max(wanted, 1)

    def _step(self, listener: Listener) -> bool:
        """False if it was stopped; gradients of a stopped step are lost."""
        step, began = self.optimiser.taken, time.monotonic()
        batches = list(self._batches(step))
        wanted = sum(batch.wanted for batch in batches)
        loss = 0.0
        for index, batch in enumerate(batches):
            if listener.stopping():
                self.network.forget()
                return False
            chance = (self.seed * 1000003 + step * 1009 + index) & 0xFFFFFFFF
            loss += self.network.learn(batch, 1 / max(wanted, 1), chance)
        rate, tied = self.plan.schedule.rate(step), self.plan.tied
        if self.tie and tied and step >= tied.after:
            self.tie.step(tied.share * rate)
        self.optimiser.step(rate)
        tokens = sum(batch.tokens.size for batch in batches)
        seconds = time.monotonic() - began
        mean = loss / max(wanted, 1)
        if not math.isfinite(mean):
            raise FloatingPointError(step + 1)
        self.history.steps.append(Step(step + 1, mean, rate, tokens, seconds))
        listener.stepped(self.history)
        return True

    def _look(self, listener: Listener) -> None:
        best = self.history.best
        look = Look(self.optimiser.taken, self.held_out_loss())
        self.history.looks.append(look)
        if self.plan.patience and (best is None or look.loss < best.loss):
            self.best = self.network.arrays()
        listener.looked(self.history)

    def _exhausted(self) -> bool:
        best, looks = self.history.best, self.history.looks
        if not self.plan.patience or best is None:
            return False
        return len(looks) - 1 - looks.index(best) >= self.plan.patience

    def learnt(self) -> dict[str, NDArray[np.float32]]:
        """What has been learnt: with patience, at the best look, else now."""
        return self.best or self.network.arrays()
