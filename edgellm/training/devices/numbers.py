"""Numbers: how tools declare them and how people say them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


@dataclass(frozen=True)
class Measure:
    """What a number counts."""

    names: tuple[str, ...]
    """Of arguments."""
    symbol: str
    said: tuple[str, ...]
    """What people put behind the number."""
    ranges: tuple[tuple[int, int], ...]
    decimals: bool = False
    seconds: int = 0
    """In a unit of time."""


MEASURES = {
    "percent": Measure(
        ("percent", "percent", "level", "percentage"), "%", (" percent", "%", " %", "",
                                                             " per cent"),
        ((0, 100), (0, 100), (0, 100), (10, 100), (0, 80)),
    ),
    "level": Measure(
        ("level", "step", "stage", "value", "setting", "intensity"), "", ("", "", ""),
        ((0, 10), (1, 5), (0, 5), (1, 10), (0, 20), (1, 3)),
    ),
    "celsius": Measure(
        ("celsius", "degrees", "temperature", "target", "temp_c", "setpoint"), "°C",
        (" degrees", "", " °C", "°C", "C", " celsius", " degrees celsius", "°"),
        ((5, 30), (10, 35), (0, 250), (15, 28), (30, 90), (-20, 10), (0, 300), (4, 40)), True,
    ),
    "seconds": Measure(
        ("seconds", "seconds", "duration_s", "secs", "time"), "s",
        (" seconds", " s", " secs", " sec"),
        ((1, 60), (1, 300), (0, 600), (5, 120), (1, 3600)), seconds=1,
    ),
    "minutes": Measure(
        ("minutes", "minutes", "duration_min", "mins", "duration"), "min",
        (" minutes", " min", " mins", " minutes"),
        ((1, 60), (1, 120), (0, 180), (5, 90), (1, 30)), seconds=60,
    ),
    "hours": Measure(
        ("hours", "hours", "duration_h"), "h", (" hours", " h", " hours"),
        ((1, 12), (1, 24), (0, 48)), seconds=3600,
    ),
    "rpm": Measure(
        ("rpm", "rpm", "speed"), "rpm", (" rpm", "", " revolutions", " rpm"),
        ((0, 3000), (100, 6000), (0, 1200), (50, 24000)),
    ),
    "bar": Measure(
        ("bar", "pressure"), "bar", (" bar", " bar", ""), ((0, 10), (1, 8), (1, 16)), True
    ),
    "ml": Measure(
        ("ml", "millilitres", "amount", "volume", "dose"), "ml", (" ml", " ml", " millilitres"),
        ((1, 500), (5, 100), (0, 1000), (10, 250)),
    ),
    "litres": Measure(
        ("litres", "liters", "amount"), "l", (" litres", " liters", " l"),
        ((1, 50), (0, 200), (1, 10)), True,
    ),
    "grams": Measure(
        ("grams", "amount", "weight", "portion_g"), "g", (" grams", " g", "g"),
        ((1, 500), (5, 100), (0, 50), (10, 1000)),
    ),
    "mm": Measure(
        ("mm", "millimetres", "distance", "height", "offset"), "mm", (" mm", "mm", " millimetres"),
        ((0, 300), (-100, 100), (0, 50), (1, 2000)), True,
    ),
    "angle": Measure(
        ("degrees", "angle", "azimuth", "heading", "tilt"), "°", (" degrees", "°", "", " degrees"),
        ((0, 180), (-90, 90), (0, 360), (-45, 45)),
    ),
    "count": Measure(
        ("count", "times", "portions", "pieces", "number", "repeat"), "", ("", ""),
        ((1, 10), (1, 5), (1, 20), (1, 100)),
    ),
    "watts": Measure(
        ("watts", "power", "limit_w"), "W", (" watts", " W", "W"),
        ((0, 2000), (100, 3000), (0, 500))
    ),
    "kelvin": Measure(
        ("kelvin", "color_temp"), "K", (" kelvin", "K", " K"), ((2200, 6500), (2700, 5000))
    ),
    "volts": Measure(
        ("volts", "voltage"), "V", (" volts", " V", "V"), ((0, 12), (0, 24), (1, 30)), True
    ),
    "amps": Measure(
        ("amps", "current"), "A", (" amps", " A", "A"), ((0, 10), (1, 16), (6, 32)), True
    ),
    "speed": Measure(
        ("speed", "speed", "velocity", "rate"), "", ("", " "), ((0, 100), (1, 9), (0, 255), (1, 5))
    ),
    "hour": Measure(
        ("hour", "at", "start_hour"), "h", ("", " o'clock", "", " h"), ((0, 23), (0, 23), (5, 22))
    ),
    "number": Measure(
        ("number", "channel", "slot", "index", "id", "track", "position"), "", ("",),
        ((1, 8), (0, 15), (1, 4), (1, 99), (1, 16)),
    ),
}  # fmt: skip
UNSEEN_MEASURES = {
    "hz": Measure(("hertz", "frequency"), "Hz", (" hertz", " Hz"), ((1, 60), (20, 2000))),
    "knots": Measure(("knots", "pace"), "kn", (" knots",), ((0, 20), (1, 40))),
    "lumens": Measure(("lumens", "output"), "lm", (" lumens", " lm"), ((0, 2000), (50, 900))),
    "spoons": Measure(("spoons", "helping"), "", (" spoons",), ((1, 6), (1, 12))),
}


def in_words(number: int, rng: Random) -> str:
    """0 to 999, as somebody speaks it."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"{rng.choice('  -')}{_ONES[ones]}" if ones else "")
    hundreds, rest = divmod(number, 100)
    head = "a hundred" if hundreds == 1 and rng.random() < 0.5 else f"{_ONES[hundreds]} hundred"
    return head + (f"{rng.choice((' ', ' and '))}{in_words(rest, rng)}" if rest else "")


def draw(measure: Measure, low: int, high: int, rng: Random) -> tuple[int | float, str]:
    """A number from `low` to `high`, and how somebody says it."""
    if measure.seconds and rng.random() < 0.25:
        found = _other_unit(measure, low, high, rng)
        if found:
            return found
    if low == 0 and rng.random() < 0.05:
        return 0, rng.choice(("off", "zero", "off"))
    if measure.names[0] == "percent" and low <= 50 <= high and rng.random() < 0.08:
        return _share(low, high, rng)
    value: int | float
    if measure.decimals and rng.random() < 0.2:
        value = rng.randint(low, high - 1) + rng.randint(1, 9) / 10
        said = f"{value:g}"
        if value > 0 and rng.random() < 0.15 and f"{value:g}".endswith(".5") and value < 100:
            return value, f"{in_words(int(value), rng)} and a half{rng.choice(measure.said)}"
        return value, said + rng.choice(measure.said)
    value = _whole(low, high, rng)
    unit = rng.choice(measure.said)
    if 0 <= value < 1000 and rng.random() < 0.2:
        if value == 1:
            unit = unit.removesuffix("s") if len(unit) > 3 else unit
        unit = unit if unit[:1] in (" ", "") else f" {unit}"
        return value, in_words(value, rng) + unit
    if value < 0 and rng.random() < 0.4:
        return value, f"minus {-value}{unit}"
    return value, f"{value}{unit}"


def _whole(low: int, high: int, rng: Random) -> int:
    """Round numbers are commoner."""
    value = rng.randint(low, high)
    for step in (100, 50, 10, 5):
        if high - low >= 4 * step and rng.random() < 0.4:
            rounded = value - value % step
            return rounded if low <= rounded else value
    return value


def _share(low: int, high: int, rng: Random) -> tuple[int, str]:
    ways: list[tuple[int, str]] = [(50, "half"), (25, "a quarter"), (75, "three quarters")]
    ways += [(high, "the maximum"), (high, "full"), (low, "the minimum"), (high, "max")]
    value, said = rng.choice(ways)
    return (value, said) if low <= value <= high else (50, "half")


def _other_unit(
    measure: Measure, low: int, high: int, rng: Random
) -> tuple[int | float, str] | None:
    """A time in another unit than the declared one, where it comes out whole and in range."""
    ways: list[tuple[int, str]] = [
        (60, "a minute"), (60, "one minute"), (30, "half a minute"), (90, "a minute and a half"),
        (1800, "half an hour"), (3600, "an hour"), (3600, "one hour"), (5400, "an hour and a half"),
        (900, "a quarter of an hour"), (300, "five minutes"), (600, "ten minutes"),
        (7200, "two hours"), (7200, "2 hours"), (86400, "a day"),
    ]  # fmt: skip
    count = rng.randint(2, 10)
    ways += [(count * 60, f"{count} minutes"), (count * 60, f"{in_words(count, rng)} minutes")]
    ways += [(count * 3600, f"{count} hours"), (count * 60, f"{count} min")]
    fitting = [
        (seconds // measure.seconds, said)
        for seconds, said in ways
        if seconds % measure.seconds == 0 and low <= seconds // measure.seconds <= high
    ]
    return rng.choice(fitting) if fitting else None
