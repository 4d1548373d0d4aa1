"""The course of the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Rates(Protocol):
    """A learning rate for each step."""

    @property
    def steps(self) -> int:
        """How many there are."""

    def rate(self, step: int) -> float:
        """At a step, the first being 0."""


@dataclass(frozen=True)
class Schedule:
    """The learning rate: linear up to `peak`, level for a share of the steps, then half a cosine
    down to `floor` times the peak. Without a level share that is warm-up and cosine; with one,
    warm-up, stable and decay (Hu et al. 2024, arXiv:2404.06395, section 4)."""

    steps: int
    peak: float
    warm_up: int = 0
    """Steps."""
    level: float = 0.0
    """The share of all steps before the fall begins."""
    floor: float = 0.0

    def rate(self, step: int) -> float:
        """At a step, the first being 0."""
        if step < self.warm_up:
            return self.peak * (step + 1) / self.warm_up
        fall = max(self.warm_up, self.level * self.steps)
        done = min(max((step - fall) / max(self.steps - fall, 1), 0.0), 1.0)
        share = 0.5 * (1 + math.cos(math.pi * done))
        return self.peak * (self.floor + (1 - self.floor) * share)


@dataclass(frozen=True)
class Restart:
    """A schedule that another one takes over from before its end (Loshchilov and Hutter 2017,
    arXiv:1608.03983)."""

    first: Schedule
    at: int
    """The step that is the other one's first."""
    second: Schedule

    @property
    def steps(self) -> int:
        return self.at + self.second.steps

    def rate(self, step: int) -> float:
        if step < self.at:
            return self.first.rate(step)
        return self.second.rate(step - self.at)
