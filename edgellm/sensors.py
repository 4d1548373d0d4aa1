"""Sensors: what the machine says of its heat, its supply and its clock.

Linux tells it in /sys. A Raspberry Pi's firmware says more, in eight bits (Raspberry Pi
documentation, `vcgencmd get_throttled`): four of now and, 16 places up, four of what has happened
since it was started.
"""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm.processor import ROOT, read_text

UNDER_VOLTAGE, CAPPED, THROTTLED, SOFT_LIMIT = 1, 2, 4, 8
"""The bits: the supply is too weak; the clock is limited; it is lowered; it is so from the soft
limit on (60 °C, of a 3B+)."""
WORDS = {
    UNDER_VOLTAGE: "supply too weak",
    CAPPED: "clock limited",
    THROTTLED: "throttled",
    SOFT_LIMIT: "soft temperature limit",
}
NOW, SINCE_START = 0xF, 16

PROCESSORS = ("[cC][pP][uU]*", "[sS][oO][cC]*", "*core*", "x86_pkg_temp", "k10temp")
CASES = ("acpitz",)
"""Types of thermal zones that tell of the processor, on a machine whose profile names none; and
those that are told of where there are no better ones."""
LONGEST = 4096
"""Bytes that are looked at of what a command says."""
COLDEST, HOTTEST = -40.0, 150.0
"""Degrees Celsius that a sensor may well say; whatever else it says is none."""
LOWEST_TRIP, HIGHEST_TRIP = 60.0, 110.0
"""Between these a trip point is a processor's."""
PATIENCE_S = 2.0


@dataclass(frozen=True)
class Reading:
    """What was seen at one look; None where the machine doesn't say."""

    temperature_c: float | None = None
    """Of the processor, where it's hottest."""
    throttled: int | None = None
    """The firmware's bits."""
    under_voltage: bool | None = None
    """What a sensor of the supply says."""
    clock: float | None = None
    """The slowest core's, as a share of the most that it can do."""


def words(bits: int) -> str:
    """What the firmware's bits of now say; empty where there are none."""
    return " and ".join(text for bit, text in WORDS.items() if bits & bit)


class Sensors:
    """Those that the machine has, looked up once and read again and again. Reading them may take
    milliseconds, and on a broken bus seconds: no affair for an event loop's thread."""

    def __init__(self, root: Path = ROOT, zones: Sequence[str] = ()) -> None:
        """`root` has the /sys to read; `zones` are the types of the thermal zones, as patterns."""
        self._zones = _thermal_zones(root, zones)
        self._bits = next(
            iter(sorted(root.glob("sys/devices/platform/soc*/*/get_throttled"))), None
        )
        hwmon = (path.parent for path in root.glob("sys/class/hwmon/hwmon*/name"))
        voltages = (path for path in hwmon if read_text(path / "name") == "rpi_volt")
        self._alarms = [path / "in0_lcrit_alarm" for path in voltages]
        self._cores = sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*"))
        self._command: str | None = None
        if self._bits is None and root == ROOT:
            self._command = shutil.which("vcgencmd")

    def __bool__(self) -> bool:
        """Whether there is anything by which heat or a weak supply would be seen."""
        return bool(self._zones or self._bits or self._alarms or self._command)

    def read(self) -> Reading:
        degrees = (_degrees(zone / "temp") for zone in self._zones)
        alarms = [*filter(None, map(read_text, self._alarms))]
        clocks = [*filter(None, map(_clock, self._cores))]
        return Reading(
            max((each for each in degrees if each is not None), default=None),
            self._firmware(),
            any(alarm != "0" for alarm in alarms) if alarms else None,
            min(clocks, default=None),
        )

    def trip_c(self) -> float | None:
        """Where the system itself begins to slow the processor down, or 10 degrees before it turns
        the machine off; the lowest of these."""
        found = []
        for zone in self._zones:
            for kind in zone.glob("trip_point_*_type"):
                below = {"passive": 0.0, "hot": 0.0, "critical": 10.0}.get(read_text(kind))
                trip = _degrees(kind.with_name(kind.name.replace("_type", "_temp")))
                if below is not None and trip is not None and LOWEST_TRIP <= trip <= HIGHEST_TRIP:
                    found.append(trip - below)
        return min(found, default=None)

    def _firmware(self) -> int | None:
        if self._bits is not None:
            return _hexadecimal(read_text(self._bits))
        if self._command is None:
            return None
        try:
            done = subprocess.run(
                [self._command, "get_throttled"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=PATIENCE_S,
            )
        except (OSError, subprocess.SubprocessError):
            self._command = None  # the tool of another machine, or one that hangs
            return None
        return _hexadecimal(done.stdout[:LONGEST].decode(errors="replace"))


def _thermal_zones(root: Path, wanted: Sequence[str]) -> list[Path]:
    kinds = {
        zone: read_text(zone / "type") for zone in root.glob("sys/class/thermal/thermal_zone*")
    }

    def of(patterns: Sequence[str]) -> Iterator[Path]:
        for zone, kind in sorted(kinds.items()):
            if any(fnmatch.fnmatchcase(kind, pattern) for pattern in patterns):
                yield zone

    return [*of(wanted)] or [*of(PROCESSORS)] or [*of(CASES)]


def _number(path: Path) -> int | None:
    text = read_text(path)
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else None


def _degrees(path: Path) -> float | None:
    """Of a thermal zone, which counts in thousandths."""
    number = _number(path)
    celsius = None if number is None else number / 1000
    return celsius if celsius is not None and COLDEST <= celsius <= HOTTEST else None


def _clock(policy: Path) -> float | None:
    now, most = _number(policy / "scaling_cur_freq"), _number(policy / "cpuinfo_max_freq")
    return now / most if now is not None and now > 0 and most is not None and most > 0 else None


def _hexadecimal(text: str) -> int | None:
    """ "50005", as the kernel says it, or "throttled=0x50005", as vcgencmd does."""
    found = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})", text.strip())
    return int(found[1], 16) if found else None
