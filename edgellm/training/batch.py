"""Batch: rows of tokens as a model reads them in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORED = -1
"""The target of a position that isn't learnt."""


SCORES = 1 << 24
"""Of the head's positions times tokens, at a time: 64 MiB."""


def head_rows(vocabulary: int, positions: int) -> int:
    """Of so many positions those that the head computes at a time."""
    return max(min(256, SCORES // vocabulary, positions), 1)


@dataclass(frozen=True)
class Batch:
    """Rows (B, T), int32 each. A row may hold several samples, which don't see each other."""

    tokens: NDArray[np.int32]
    targets: NDArray[np.int32]
    """The token after each one, where that is to be learnt, else IGNORED."""
    first: NDArray[np.int32]
    """Where in its row the sample begins that a position belongs to."""

    @property
    def wanted(self) -> int:
        """Tokens to be learnt."""
        return int((self.targets >= 0).sum())

    def places(self) -> NDArray[np.int32]:
        """Each position within its own sample."""
        return np.arange(self.tokens.shape[1], dtype=np.int32) - self.first
