"""Governor: a machine that is too hot, or whose supply is too weak, works slower, and says so.

Strategy:

- Every few seconds it looks at the sensors. Trouble shifts a gear down: first fewer threads, then,
  with a single one, pauses after each step. The lowest gear still works a quarter of the time, so
  that an answer takes longer but is never stopped, and no bit of it changes.
- Heat is trouble from a limit on, or where a Raspberry Pi's firmware has throttled the processor. A
  clock that is low under load is trouble only where it's warm, too, and on boards whose profiles
  say so: others save power in that way, and fewer threads would only be slower. The soft limit of a
  3B+ (60 °C) is told, and no trouble.
- A gear has time to show what it does, but where it is getting much too hot. The next higher one is
  tried when the trouble has been over for a while and the temperature is well below the limit; if
  that brings the trouble back, twice as long passes before it's tried again. So the machine settles
  where it can stay, rather than to go up and down.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import EdgeError
from edgellm.processor import ROOT
from edgellm.sensors import (
    CAPPED,
    NOW,
    SINCE_START,
    THROTTLED,
    UNDER_VOLTAGE,
    Reading,
    Sensors,
    words,
)

INTERVAL_S = 3.0
LIMIT_C = 80.0
"""Where nothing else is known: there a Raspberry Pi's firmware begins to slow it down."""
MUCH_C = 5.0
"""So much above the limit there is no time to wait for what a gear does."""
BAND_C = 8.0
"""So much below it there is room for a higher gear; within the band it is warm."""
SETTLE_S = 10.0
CALM_S, LONGEST_CALM_S = 30.0, 960.0
"""Without trouble, before a higher gear is tried: at first, and at most; and after the latter in
one gear it was no mistake to try it."""
SLOW = 0.9
"""A clock below this share of the highest is slowed down."""
DUTIES = (0.75, 0.5, 0.25)

WEAK = "the supply's voltage is too low"
REMEDIES = {
    "heat": "a cooler or more air helps",
    "supply": "a stronger power supply or a shorter cable helps",
}


@dataclass(frozen=True)
class Gear:
    """How much the machine may work."""

    threads: int
    duty: float = 1.0
    """The share of the time; the rest are pauses between steps."""

    def __str__(self) -> str:
        share = "" if self.duty == 1 else f", {self.duty:.0%} of the time"
        return f"{self.threads} {'threads' if self.threads > 1 else 'thread'}{share}"


def gears(threads: int) -> list[Gear]:
    """From all threads down, by quarters, to one; then pauses."""
    counts = {max(1, -(-part * threads // 4)) for part in (4, 3, 2, 1)} | {1}
    return [
        *(Gear(count) for count in sorted(counts, reverse=True)),
        *(Gear(1, duty) for duty in DUTIES),
    ]


class Governor:
    """`watch` looks at the sensors every few seconds, `look` decides."""

    def __init__(
        self,
        threads: int,
        shift: Callable[[Gear], object],
        tell: Callable[[str, bool], object],
        *,
        limit_c: float = LIMIT_C,
        by_clock: bool = False,
    ) -> None:
        """`threads` is how many there are at most. `shift` is told each new gear; `tell` what
        people and devices should know, and whether that holds until the next notice. `limit_c` is
        where heat begins; `by_clock`, whether a low clock is a sign of it."""
        self._gears = gears(threads)
        self._gear = 0
        self._shift, self._tell = shift, tell
        self._limit_c, self._by_clock = limit_c, by_clock
        self._seen: int | None = None  # bits of what has happened since the machine's start
        self._shifted = self._raised = -math.inf
        self._quiet: float | None = None  # since when there is no trouble, nor warmth
        self._waits: dict[
            int, float
        ] = {}  # of gears that were too high, before they're tried again
        self.status: dict[str, object] = {}
        """What was seen last, as far as the machine tells, and what came of it."""
        self._report(Reading(), 0)

    @property
    def gear(self) -> Gear:
        return self._gears[self._gear]

    async def watch(self, busy: Callable[[], bool], root: Path = ROOT) -> None:
        """Look at the machine below `root`, again and again, until cancelled; where it has no
        sensors, never. `busy` tells whether it's working."""
        await asyncio.sleep(INTERVAL_S)  # the first answer is not to wait for this
        try:
            if not await asyncio.to_thread(self._open, root):
                return
        except EdgeError as error:  # a profile of the user's
            self._tell(f"nobody looks at heat and supply: {error}", False)
            return
        loop = asyncio.get_running_loop()
        while True:
            reading = await asyncio.to_thread(self._sensors.read)
            self.look(reading, loop.time(), busy())
            await asyncio.sleep(INTERVAL_S)

    def _open(self, root: Path) -> bool:
        from edgellm import board

        found = board.detect(root).board
        self._sensors = Sensors(root, found.thermal_zones)
        self._by_clock = "cpufreq" in found.throttle
        if "get_throttled" not in found.throttle:
            self._limit_c = self._sensors.trip_c() or self._limit_c
        return bool(self._sensors)

    def look(self, reading: Reading, now: float, busy: bool) -> None:
        """Take account of what the sensors say at `now`, in seconds."""
        bits, celsius = self._bits(reading), reading.temperature_c
        over = -math.inf if celsius is None else celsius - self._limit_c
        warm = over > -BAND_C
        clock_low = self._by_clock and busy and self.gear.duty == 1 and (reading.clock or 1) < SLOW
        limited = bool(bits & CAPPED) or clock_low
        weak = bool(bits & UNDER_VOLTAGE)
        if weak or over >= 0 or bits & THROTTLED or (limited and warm):
            self._quiet = None
            if now - self._shifted >= (0 if over >= MUCH_C else SETTLE_S):
                self._lower(now, "supply" if weak else "heat", celsius)
        elif warm or bits & CAPPED:
            self._quiet = None
        else:
            self._quiet = now if self._quiet is None else self._quiet
            if self._gear and now - self._quiet >= self._waits.get(self._gear - 1, CALM_S):
                self._raise(now)
            elif now - self._shifted >= LONGEST_CALM_S:
                self._waits.pop(self._gear, None)
        self._report(reading, bits)

    def _bits(self, reading: Reading) -> int:
        """Of the firmware's bits those of now, and those of what came and went between two looks;
        what was before the first look is only told."""
        said = reading.throttled or 0
        now, since = said & NOW, said >> SINCE_START & NOW
        if self._seen is None:
            self._seen = since
            if before := words(since & ~now):
                self._tell(f"seen since this machine was started: {before}", False)
        now |= since & ~self._seen
        self._seen |= since
        return now | (UNDER_VOLTAGE if reading.under_voltage else 0)

    def _lower(self, now: float, cause: str, celsius: float | None) -> None:
        if now - self._raised < LONGEST_CALM_S:  # it was too early
            wait = 2 * self._waits.get(self._gear, CALM_S)
            self._waits[self._gear] = min(wait, LONGEST_CALM_S)
            self._raised = -math.inf
        if self._gear == len(self._gears) - 1:
            return
        pausing = self.gear.duty < 1
        self._gear += 1
        self._shifted = now
        self._shift(self.gear)
        if self._gear == 1 or pausing != (self.gear.duty < 1):
            heat = "is throttled" if celsius is None else f"has {celsius:.0f} °C"
            trouble = WEAK if cause == "supply" else f"the processor {heat}"
            self._tell(f"{trouble}: working with {self.gear}; {REMEDIES[cause]}", True)

    def _raise(self, now: float) -> None:
        self._gear -= 1
        self._shifted = self._raised = self._quiet = now
        self._shift(self.gear)
        if not self._gear:
            self._tell(f"back to full speed: working with {self.gear}", False)

    def _report(self, reading: Reading, bits: int) -> None:
        told = reading.throttled is not None or reading.under_voltage is not None
        found = {
            "temperature_c": reading.temperature_c,
            "clock": None if reading.clock is None else round(reading.clock, 2),
            "throttled": (words(bits) or "no") if told else None,
            "threads": self.gear.threads,
            "duty": self.gear.duty,
        }
        self.status.clear()
        self.status.update((name, value) for name, value in found.items() if value is not None)
