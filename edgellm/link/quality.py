"""Quality: what a line turns out to be like, its errors and its delay."""

from __future__ import annotations

from math import sqrt

from edgellm.link import frames

OVERHEAD = 4 + frames.OVERHEAD
"""Bytes of a frame that aren't payload."""
MIN_PAYLOAD, FIRST_PAYLOAD, MAX_PAYLOAD = 32, 64, 240
ACK_DELAY = 0.02
"""Seconds that a peer may take to acknowledge."""
UNKNOWN_ROUND_TRIP = 1.0
"""Seconds, on a line whose rate isn't known, until it has been measured."""


class Quality:
    """How long a frame should be on this line: measured errors, weighed against the overhead.

    With an error in one of n bytes, a frame of p bytes of payload and h of overhead is used best
    at p = sqrt(h n), as long as p is small against n.
    """

    _OVERHEAD = 14  # header, CRC, COBS, zero bytes, and what going back costs
    _MEMORY = 8192

    def __init__(self) -> None:
        self._bytes = FIRST_PAYLOAD**2 / self._OVERHEAD
        self._errors = 1.0

    def carried(self, nbytes: int) -> None:
        """So many bytes have arrived."""
        self._bytes += nbytes
        if self._bytes > self._MEMORY:
            self._bytes /= 2
            self._errors /= 2

    def failed(self) -> None:
        """A frame hasn't."""
        self._errors += 1

    @property
    def payload(self) -> int:
        """Bytes of a frame's payload that suit the line."""
        best = sqrt(self._OVERHEAD * self._bytes / max(self._errors, 1e-3))
        return int(min(max(best, MIN_PAYLOAD), MAX_PAYLOAD))


class RoundTrip:
    """How long it takes from the end of a frame to its acknowledgement, in seconds."""

    def __init__(self, seconds_a_byte: float) -> None:
        """`seconds_a_byte` of the line, 0 where that isn't known, stands in for measurements."""
        self.quickest = 0.0
        self._mean: float | None = None
        self._deviation = 0.0
        self._unknown = UNKNOWN_ROUND_TRIP
        if seconds_a_byte:
            self._unknown = ACK_DELAY + (MAX_PAYLOAD + OVERHEAD) * seconds_a_byte

    def measure(self, seconds: float) -> None:
        """Smoothed mean and deviation as in RFC 6298."""
        if self._mean is None:
            self.quickest = self._mean = seconds
            self._deviation = seconds / 2
            return
        self.quickest = min(self.quickest, seconds)
        self._deviation += (abs(self._mean - seconds) - self._deviation) / 4
        self._mean += (seconds - self._mean) / 8

    @property
    def longest(self) -> float:
        """What hardly any will exceed."""
        return self._unknown if self._mean is None else self._mean + 4 * self._deviation
