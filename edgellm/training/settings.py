"""Settings: how to train, as a user says it."""

from __future__ import annotations

from dataclasses import dataclass

from edgellm.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """How to train. A training goes on only with the settings that it was begun with."""

    rank: int = 8
    alpha: float = 16.0
    """What adapters add is multiplied by alpha / rank."""
    targets: tuple[str, ...] = ("*",)
    """Patterns of the matrices' names to adapt."""
    dropout: float = 0.0
    learning_rate: float = 2e-4
    warm_up: float = 0.03
    """A share of the steps."""
    weight_decay: float = 0.0
    epochs: float = 3.0
    steps: int = 0
    """Instead of epochs; 0: as many as these have."""
    batch: int = 2048
    """Tokens of a step, at least one row."""
    length: int = 256
    """Tokens of a row; longer samples are cut."""
    together: bool = True
    """Rows hold as many samples as fit, which don't see each other."""
    held_out: float = 0.05
    """The share of the samples that isn't learnt but looked at."""
    looks: int = 10
    """At held-out samples, besides that at the beginning."""
    patience: int = 0
    """Looks without a better loss after which to end; 0: never. Then the best is kept."""
    seed: int = 0
    full: bool = False
    """Every weight learns, and a whole model is written."""

    def check(self) -> None:
        """Raise UsageError for what can't be."""
        from edgellm.adapter import MAX_RANK

        for name, low, high in (
            ("rank", 1, MAX_RANK), ("alpha", 1e-6, 1e6), ("dropout", 0, 0.95),
            ("learning_rate", 1e-9, 10), ("warm_up", 0, 1), ("weight_decay", 0, 1),
            ("epochs", 1e-3, 1e6), ("steps", 0, 10**9), ("batch", 1, 1 << 24),
            ("length", 2, 1 << 20), ("held_out", 0, 0.9), ("looks", 1, 10**6),
            ("patience", 0, 10**6), ("seed", 0, 2**32 - 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                label = name.replace("_", " ")
                raise UsageError(f"{label} {value!r}; give {low:g} to {high:g}")
