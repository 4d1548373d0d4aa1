"""Numbers with their units, times of day and durations."""

from __future__ import annotations

from random import Random

_WORDS = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "fifteen", "twenty", "thirty", "forty", "fifty", "sixty", "eighty", "ninety",
)  # fmt: skip


def value(rng: Random, kind: str) -> str:
    """A value of one of the kinds in `words.SETTABLE`, as a person would type it."""
    if kind == "temperature":
        number = str(rng.randint(1, rng.choice((30, 99, 250))))
        if rng.random() < 0.12:
            number += f".{rng.randint(1, 9)}"
        elif rng.random() < 0.06:
            number = f"{rng.choice(('twenty', 'thirty', 'sixty'))} {rng.choice(_WORDS[:9])}"
        units = (" degrees", " degrees", " degrees", "", "", "°", " °C", "°C", " degrees celsius",
                 " degrees fahrenheit", " celsius", "C", "F", " F")  # fmt: skip
        return number + rng.choice(units)
    if kind == "percent":
        number = str(rng.choice((rng.randint(0, 100), rng.randint(0, 20) * 5)))
        return number + rng.choice((" percent", " percent", "%", "%", " %", ""))
    if kind == "level":
        number = str(rng.randint(0, rng.choice((10, 10, 40))))
        return rng.choice(("", "", "level ", "speed ")) + number
    if kind == "speed":
        number = str(rng.choice((rng.randint(1, 99), rng.randint(1, 60) * 50, rng.randint(1, 12))))
        return number + rng.choice((" rpm", " rpm", " rpm", "", " percent", " revolutions"))
    if kind == "pressure":
        return str(rng.randint(1, 12)) + rng.choice((" bar", " bar", " psi", "", " kPa"))
    if kind == "clock":
        return clock(rng)
    return duration(rng)


def duration(rng: Random) -> str:
    if rng.random() < 0.12:
        return rng.choice(
            ("an hour", "half an hour", "a minute", "a while", "a few minutes",
             "an hour and a half",
             "the night", "the weekend", "a moment", "the whole day", "a day")
        )  # fmt: skip
    if rng.random() < 0.12:
        number = rng.choice(_WORDS[1:])
    else:
        number = str(rng.randint(2, rng.choice((10, 60, 99))))
    return f"{number} {rng.choice(('minutes', 'minutes', 'minutes', 'seconds', 'hours', 'min'))}"


def clock(rng: Random) -> str:
    hour = rng.randint(1, 12)
    return rng.choice(
        (
            f"{hour} {rng.choice(('am', 'pm'))}",
            f"{hour}{rng.choice(('am', 'pm'))}",
            f"{rng.randint(0, 23)}:{rng.randint(0, 59):02}",
            f"{hour} o'clock",
            f"half past {rng.choice(_WORDS[:12])}",
        )
    )


def moment(rng: Random) -> str:
    """When something is to happen: "at 7 pm", "in 10 minutes", "tomorrow morning"."""
    pick = rng.random()
    if pick < 0.45:
        return f"at {clock(rng)}"
    if pick < 0.8:
        return f"in {duration(rng)}"
    return rng.choice(
        ("tonight", "tomorrow", "tomorrow morning", "this evening", "at sunset", "at sunrise",
         "at midnight", "at noon", "later today", "on monday", "on friday", "at dawn",
         "this afternoon", "tomorrow evening")
    )  # fmt: skip
