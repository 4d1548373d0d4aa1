"""Pace: how many tokens of prompts go in a step, by what steps have taken."""

from __future__ import annotations

STEPS = 3
"""While somebody decodes, a step may take as long as so many that feed no prompt,"""
UNNOTICED_S = 0.02
"""or, where they are short, as long as nobody notices."""
ALONE_S = 1.0
"""What a step may take while nobody decodes: for so long a newcomer may have to wait."""
FIRST = 32
LEAST = 8
SMOOTHING = 0.3


class Limit:
    """Halved when a step took too long, doubled when there would have been time for that."""

    def __init__(self, rows: int, least: int, most: int) -> None:
        self._least, self._most = min(max(least, LEAST), most), most
        self.rows = min(max(self._least, rows), most)

    def measure(self, rows: int, seconds: float, allowed: float) -> None:
        if seconds > allowed:
            self.rows = max(self.rows // 2, self._least)
        elif rows == self.rows and 2 * seconds <= allowed:
            self.rows = min(self.rows * 2, self._most)


class Pace:
    def __init__(self, least: int, most: int) -> None:
        """Limits are from `least` to `most` rows, however long these take."""
        self.beside = Limit(FIRST, least, most)
        """Rows of prompts in a step in which somebody decodes."""
        self.alone = Limit(most, least, most)
        """In one in which nobody does."""
        self._plain_s = 0.0

    def measure(self, decoding: int, prompts: int, seconds: float) -> None:
        """Take account of a step that took `seconds`, of so many rows of each kind."""
        if not decoding:
            self.alone.measure(prompts, seconds, ALONE_S)
        elif not prompts:
            weight = SMOOTHING if self._plain_s else 1.0
            self._plain_s += weight * (seconds - self._plain_s)
        elif self._plain_s:
            self.beside.measure(prompts, seconds, max(STEPS * self._plain_s, UNNOTICED_S))
