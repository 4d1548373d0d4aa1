"""Lessons: a device's tools, and a conversation with the calls and answers that are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from edgellm.tools.tool import Tool
from edgellm.training.devices import words
from edgellm.training.devices.ability import Ability
from edgellm.training.devices.device import CATALOGUED, Device, device
from edgellm.training.devices.noise import finish, mistype, mistype_around
from edgellm.training.devices.phrases import AFTER, BEFORE

REASONS = (
    "it's raining", "it's too loud", "we have guests", "i'm cold", "it's hot", "it's dark",
    "i'm back",
    "it's late", "we are leaving", "i can't sleep", "the baby sleeps", "it's getting cold",
    "i'm in a hurry",
    "dinner is ready", "it smells", "the sun is out", "the neighbours complain", "i'm bored",
    "clouds are coming",
    "we are done", "the job is finished", "it's enough for today", "it looks thirsty",
    "they are hungry",
    "there is a storm", "i forgot it", "it's monday", "my hands are full", "the wind is picking up",
)  # fmt: skip
MISTYPED = 0.1
"""The share of requests with a slip of the finger."""


@dataclass(frozen=True)
class Held:
    """What is held out of training, and wanted now."""

    phrasings: bool = False
    devices: bool = False


@dataclass(frozen=True)
class Call:
    name: str
    arguments: Mapping[str, object]
    ok: bool
    result: object
    """What the device answers."""


@dataclass(frozen=True)
class Turn:
    question: str
    calls: tuple[Call, ...]
    answer: str
    """What is said after the last call."""
    refers: bool = False
    """It can only be understood after the turn before it."""
    lacking: str = ""
    """The tool that is meant but can't be called, since a value is missing or impossible."""


@dataclass
class Lesson:
    """A conversation under way."""

    rng: Random
    device: Device
    held: Held = field(default_factory=Held)
    turns: list[Turn] = field(default_factory=list)
    last: tuple[Ability, int, Mapping[str, object]] | None = None
    """The newest call's ability, the index of its use, and all its arguments."""

    @property
    def tools(self) -> tuple[Tool, ...]:
        return tuple(ability.tool for ability in self.device.abilities)

    def say(
        self, question: str, answer: str, *calls: Call, refers: bool = False, lacking: str = ""
    ) -> None:
        asking = question.startswith(("what", "how", "is ", "did ", "can ", "could "))
        said = finish(question, self.rng, asking)
        self.turns.append(Turn(said, calls, answer, refers, lacking))

    def way(self, ability: Ability, ways: tuple[str, ...]) -> str | None:
        """One of the ways that tell this ability from the device's others."""
        clear = [way for way in ways if self._is_clear(ability, way)]
        if not clear:
            return None
        way = self.rng.choice(clear)
        if not self.held.phrasings and self.rng.random() < MISTYPED:
            way = mistype_around(way, self.rng)
        return way

    def _is_clear(self, ability: Ability, way: str) -> bool:
        family, _, word = ability.kind.partition(" ")
        named = bool(word) and word in way
        for other in self.device.abilities:
            if other is ability or other.tool.name == ability.tool.name:
                continue
            same_thing = other.thing == ability.thing or not other.thing or not ability.thing
            if "{t}" not in way:
                rivals = other.kind == ability.kind or (not named and other.family == family)
            else:
                rivals = same_thing and other.family == family and not named
            if rivals:
                return False
        return True

    def thing(self, noun: str) -> str:
        """A noun as it's said."""
        rng, said = self.rng, noun
        first, _, rest = noun.partition(" ")
        if rest and first in words.PLACES and rng.random() < 0.35:
            said = f"{rest} in the {first}"
        elif rest and not rest.isdigit() and rng.random() < 0.2 and self._only(rest):
            said = rest
        if rng.random() < 0.05:
            said = mistype(said, rng)
        if noun[-1:].isdigit():
            return said
        draw = rng.random()
        return f"the {said}" if draw < 0.78 else f"my {said}" if draw < 0.86 else said

    def _only(self, base: str) -> bool:
        things = {ability.thing for ability in self.device.abilities}
        return sum(thing.endswith(base) for thing in things) == 1

    def politely(self, text: str) -> str:
        rng = self.rng
        if rng.random() < 0.22 and not text.startswith(
            ("i ", "i'd", "the ", "my ", "what", "how", "is ")
        ):
            text = rng.choice(BEFORE) + text
        if rng.random() < 0.12:
            text += rng.choice(AFTER)
        if rng.random() < 0.07:
            text = f"{rng.choice(REASONS)}, {text}"
        elif rng.random() < 0.04:
            text += f", {rng.choice(REASONS)}"
        return text

    def called(self, ability: Ability, index: int, arguments: Mapping[str, object]) -> Call:
        """A call of an ability, in the order of declaration."""
        self.last = ability, index, arguments
        ordered = {
            name: arguments[name] for name in ability.tool.schema.properties if name in arguments
        }
        ok, result = outcome(ability, ordered, self.rng)
        return Call(ability.tool.name, ordered, ok, result)


def outcome(ability: Ability, arguments: Mapping[str, object], rng: Random) -> tuple[bool, object]:
    """What a device answers to a call."""
    if rng.random() < 0.06:
        reasons = ("jammed", "timeout", "not connected", "overheated", "no power", "door open",
                   "E12",
                   "motor stalled", "out of water", "sensor broken", "busy",
                   "not homed")  # fmt: skip
        return False, rng.choice(reasons)
    quantity = ability.quantity
    if quantity is None:
        ways: list[object] = [
            "ok", "ok", None, True, dict(arguments) or {"ok": True}, {"ok": True}, "done",
            {"status": "ok"}
        ]  # fmt: skip
        return True, rng.choice(ways)
    value: object
    if quantity.states:
        value = rng.choice(quantity.states)
    elif rng.random() < 0.5:
        value = rng.randint(int(quantity.low), int(quantity.high))
    else:
        value = round(rng.uniform(quantity.low, quantity.high), 1)
    draw = rng.random()
    if draw < 0.4:
        return True, value
    if draw < 0.9 or not quantity.symbol:
        return True, {quantity.key if draw < 0.75 else "value": value}
    return True, f"{value} {quantity.symbol}"


def report(ability: Ability, call: Call) -> str:
    """What is said of a call's result."""
    if not call.ok:
        return f"That failed: {call.result}."
    quantity, value = ability.quantity, call.result
    if quantity is None:
        return "OK, done."
    if isinstance(value, dict):
        (value,) = value.values()
    unit = f" {quantity.symbol}" if quantity.symbol and not isinstance(value, str) else ""
    return f"The {quantity.noun} is {value}{unit}."


def lesson(
    rng: Random,
    turns: int,
    held: Held | None = None,
    catalogued: float = CATALOGUED,
    varied: float = 0.0,
    joint: float = 0.0,
) -> Lesson:
    """A conversation of at least so many turns with a device that `rng` makes up or, in a share of
    cases, takes from the catalogue; in a share of cases `varied`, in other words. A share `joint`
    of what is asked is two commands, besides those that are so by chance."""
    from edgellm.training.devices import variation
    from edgellm.training.devices.scenes import scene, two  # which make turns of lessons

    held = held or Held()
    one = device(rng, held.devices, catalogued)
    if varied and rng.random() < varied:
        one = variation.varied(one, rng)
    found = Lesson(rng, one, held)
    while len(found.turns) < turns:
        act = two if joint and rng.random() < joint else scene
        act(found)
    return found


def toolless(turns: Sequence[Turn]) -> list[Turn]:
    """The same questions to a model that has no tools."""
    from edgellm.training.devices.scenes import LISTS, NO_TOOLS, REFUSAL

    answers = [
        REFUSAL if turn.calls or turn.lacking
        else NO_TOOLS if turn.answer.startswith(LISTS)
        else turn.answer
        for turn in turns
    ]  # fmt: skip
    return [Turn(turn.question, (), answer) for turn, answer in zip(turns, answers, strict=True)]
