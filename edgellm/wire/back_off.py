"""Who has guessed wrong must wait, twice as long after each further time."""

from __future__ import annotations

from collections import OrderedDict

MOST = 1024
"""Guessers that are remembered; the one that has been quiet for longest is forgotten first."""
FORGOTTEN = 600.0
"""Seconds without a wrong guess after which all is forgiven."""
FREE = 3
"""Wrong guesses that cost nothing: whoever has mistyped tries again."""


class BackOff:
    """The table of the addresses that have guessed. Times are seconds of one monotonic clock."""

    def __init__(self, longest: float) -> None:
        """`longest` is the most seconds that anybody must wait; with 0 nobody must."""
        self._longest = longest
        self._guessers: OrderedDict[str, tuple[int, float]] = OrderedDict()  # wrong, when last

    def __len__(self) -> int:
        return len(self._guessers)

    def wait(self, address: str, now: float) -> float:
        """How many seconds `address` has still to wait; 0: none."""
        if address not in self._guessers:
            return 0.0
        wrong, last = self._guessers[address]
        if now - last > FORGOTTEN:
            del self._guessers[address]
            return 0.0
        if wrong <= FREE:
            return 0.0
        # The exponent is bounded for whoever guesses for days.
        return max(0.0, last + min(self._longest, 2.0 ** min(wrong - FREE - 1, 30)) - now)

    def wrong(self, address: str, times: int, now: float) -> None:
        """`address` has guessed wrong."""
        before, _ = self._guessers.pop(address, (0, 0.0))
        self._guessers[address] = before + times, now
        if len(self._guessers) > MOST:
            self._guessers.popitem(last=False)
