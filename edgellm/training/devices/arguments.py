"""Arguments of tools: their schemas, values that people give them, and how these are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from edgellm.training.devices import numbers, words
from edgellm.training.devices.numbers import Measure

Value = tuple[object, str]
"""As the call has it, and as it's said."""

_COUNTED = frozenset((
    "percent", "degrees", "seconds", "minutes", "hours", "ml", "millilitres", "litres", "liters",
    "grams", "mm", "millimetres", "portions", "pieces", "times", "watts", "volts", "amps", "rpm",
    "secs", "mins", "kelvin", "hertz", "knots", "lumens", "spoons",
))  # fmt: skip


@dataclass(frozen=True)
class Argument:
    """One that the sentence gives."""

    name: str

    def schema(self) -> dict[str, Any]:
        raise NotImplementedError

    def draw(self, rng: Random) -> Value:
        raise NotImplementedError

    def question(self) -> str:
        """What to ask where it is missing."""
        if self.name in _COUNTED:
            return f"How many {self.name}?"
        return f"Which {self.name.replace('_', ' ')}?"


@dataclass(frozen=True)
class Number(Argument):
    measure: Measure
    low: int
    high: int
    shown: Mapping[str, str]
    """Its unit, a description, or neither."""

    def schema(self) -> dict[str, Any]:
        kind = "number" if self.measure.decimals else "integer"
        return {"type": kind, "minimum": self.low, "maximum": self.high, **self.shown}

    def draw(self, rng: Random) -> Value:
        return numbers.draw(self.measure, self.low, self.high, rng)

    def beyond(self, rng: Random) -> str:
        """A number out of range, as it's said."""
        value = self.high + rng.choice((1, 2, 5)) * max(10, self.high)
        return f"{value}{rng.choice(self.measure.said)}"


@dataclass(frozen=True)
class Choice(Argument):
    values: tuple[str, ...]
    said: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """How people say a value, where not as it's written."""

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.values)}

    def draw(self, rng: Random) -> Value:
        value = rng.choice(self.values)
        return value, rng.choice(self.said.get(value) or (value.replace("_", " "),))


@dataclass(frozen=True)
class Flag(Argument):
    """True or false, as the way of asking decides."""

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}

    def draw(self, rng: Random) -> Value:
        raise ValueError(f"{self.name} isn't said")


@dataclass(frozen=True)
class Phrase(Argument):
    """Any text."""

    texts: tuple[str, ...]

    def schema(self) -> dict[str, Any]:
        return {"type": "string"}

    def draw(self, rng: Random) -> Value:
        if rng.random() < 0.4:
            text = " ".join(words.invented(rng) for _ in range(rng.randint(1, 3)))
        else:
            text = rng.choice(self.texts)
        return text, text


def number(kind: str, rng: Random, measures: Mapping[str, Measure] = numbers.MEASURES) -> Number:
    """An argument of a kind in `measures`."""
    measure = measures[kind]
    name = rng.choice(measure.names)
    low, high = rng.choice(measure.ranges)
    shown: dict[str, str] = {}
    if measure.symbol and (rng.random() < 0.7 or name not in _COUNTED):
        shown["unit"] = measure.symbol if rng.random() < 0.8 else kind
    elif rng.random() < 0.15:
        shown["description"] = rng.choice(
            (
                f"from {low} to {high}",
                f"{high} is the most",
                f"{low} is off",
                "how much",
                "as given",
            )
        )
    return Number(name, measure, low, high, shown)
