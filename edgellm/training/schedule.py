"""The course of the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
