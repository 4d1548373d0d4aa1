"""What is written down of a training: its steps, and its looks at held-out samples."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass
class Step:
    """One step, as the log has it."""

    step: int
    """The first is 1."""
    loss: float
    """The mean cross-entropy of its tokens, before it."""
    rate: float
    tokens: int
    """That were read."""
    seconds: float


@dataclass
class Look:
    """One look at held-out samples."""

    step: int
    loss: float


@dataclass
class History:
    steps: list[Step] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    @property
    def best(self) -> Look | None:
        return min(self.looks, key=lambda look: look.loss, default=None)

    def as_json(self) -> dict[str, object]:
        return asdict(self)
