"""Abilities with two states: on and off, open and closed, running and stopped, locked and not."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from edgellm.training.devices import words
from edgellm.training.devices.ability import Ability, Use, declared
from edgellm.training.devices.actions import ACTIONS
from edgellm.training.devices.arguments import Choice, number


@dataclass(frozen=True)
class Switch:
    """Two actions of `ACTIONS` that undo each other."""

    first: str
    second: str
    names: tuple[tuple[str, ...], tuple[str, ...]]
    """Of the tools that do the one and the other."""
    descriptions: tuple[tuple[str, ...], tuple[str, ...]]
    both: tuple[str, ...]
    """Names of a tool that does both."""
    does: tuple[str, ...]
    flags: tuple[str, ...]
    """Names of its argument, true for the first action."""
    states: tuple[tuple[str, str], ...]
    """Its values where it is a choice."""


SWITCHES = {
    "switched": Switch(
        "on", "off",
        (("{t}_on", "turn_on_{t}", "switch_on_{t}", "enable_{t}"),
         ("{t}_off", "turn_off_{t}", "switch_off_{t}", "disable_{t}")),
        (("Turns the {t} on", "Switches on the {t}", "{t} on"),
         ("Turns the {t} off", "Switches off the {t}", "{t} off")),
        ("set_{t}", "switch_{t}", "{t}", "{t}_power", "{t}_switch", "set_{t}_power", "control_{t}"),
        ("Turns the {t} on or off", "Switches the {t}", "Switches the {t} on or off",
         "Power of the {t}", "Sets whether the {t} is on"),
        ("on", "on", "state", "enabled", "power", "active"),
        (("on", "off"), ("on", "off"), ("ON", "OFF")),
    ),
    "opened": Switch(
        "open", "close",
        (("open_{t}", "{t}_open", "open_the_{t}"), ("close_{t}", "{t}_close", "shut_{t}")),
        (("Opens the {t}", "Moves the {t} open"), ("Closes the {t}", "Shuts the {t}")),
        ("set_{t}", "{t}", "move_{t}", "{t}_state", "operate_{t}"),
        ("Opens or closes the {t}", "Moves the {t}", "Sets whether the {t} is open"),
        ("open", "open", "opened"),
        (("open", "closed"), ("open", "close"), ("up", "down")),
    ),
    "started": Switch(
        "start", "stop",
        (("start_{t}", "{t}_start", "run_{t}"), ("stop_{t}", "{t}_stop", "halt_{t}")),
        (("Starts the {t}", "Lets the {t} run"), ("Stops the {t}", "Halts the {t}")),
        ("control_{t}", "{t}", "set_{t}", "{t}_run"),
        ("Starts or stops the {t}", "Controls the {t}", "Sets whether the {t} runs"),
        ("run", "running", "start", "on"),
        (("start", "stop"), ("run", "stop")),
    ),
    "locked": Switch(
        "lock", "unlock",
        (("lock_{t}", "{t}_lock"), ("unlock_{t}", "{t}_unlock")),
        (("Locks the {t}",), ("Unlocks the {t}",)),
        ("set_{t}_lock", "{t}_lock", "set_lock", "{t}"),
        ("Locks or unlocks the {t}", "Sets the lock of the {t}"),
        ("locked", "locked", "lock"),
        (("locked", "unlocked"), ("lock", "unlock")),
    ),
}  # fmt: skip


def use(action: str, fixed: dict[str, object] | None = None) -> Use:
    """An action of `ACTIONS` as it's asked for here."""
    found = ACTIONS[action]
    return Use(found.asks, found.unseen, fixed=fixed or {})


def switches(kind: str, thing: str, rng: Random) -> list[Ability]:
    """One ability with an argument for the state, or two without; where there is one, perhaps with
    a time after which it's undone, or for several places."""
    switch = SWITCHES[kind]
    actions = switch.first, switch.second
    style = rng.random()
    if style < 0.4:
        found = []
        for index, action in enumerate(actions):
            tool = declared(rng, thing, switch.names[index], switch.descriptions[index])
            found.append(Ability(kind, thing, tool, (use(action),)))
        return found
    flag = rng.choice(switch.flags)
    if style < 0.8:
        values: tuple[object, object] = (True, False)
        schema: dict[str, object] = {"type": "boolean"}
    else:
        flag = rng.choice(("state", "state", "mode", "value", "to", "action"))
        values = rng.choice(switch.states)
        schema = {"type": "string", "enum": list(values)}
    uses = tuple(use(a, {flag: v}) for a, v in zip(actions, values, strict=True))
    draw = rng.random()
    if draw < 0.2:
        place = places(rng)
        uses = tuple(placed(one, thing) for one in uses)
        properties = {place.name: place.schema(), flag: schema}
        tool = declared(rng, thing, switch.both, switch.does, properties)
        return [Ability("placed " + kind, thing, tool, uses, (place,))]
    properties, optional = {flag: schema}, None
    if draw < 0.4:
        optional = number(rng.choice(("minutes", "seconds", "hours")), rng)
        properties[optional.name] = optional.schema()
    names = [optional.name] if optional else []
    tool = declared(rng, thing, switch.both, switch.does, properties, names)
    return [Ability(kind, thing, tool, uses, optional=optional)]


def places(rng: Random) -> Choice:
    """Which one of several."""
    name, values = rng.choice((
        ("room", words.PLACES[:24]), ("zone", words.PLACES), ("place", words.PLACES),
        ("bed", words.PLANTS),
        ("side", ("left", "right", "front", "back", "top")), ("item", words.ADJECTIVES[10:16]),
        ("color", ("red", "green", "blue", "yellow", "white", "black")), ("item", words.NOUNS),
        ("direction", ("north", "south", "east", "west")), ("target", words.NOUNS),
        ("id", tuple("abcde")),
        ("pet", ("cat", "dog", "hamster", "parrot", "rabbit")),
        ("floor", ("ground", "first", "second")),
        ("name", tuple(words.invented(rng) for _ in range(4))), ("unit", device_words(rng)),
    ))  # fmt: skip
    some = rng.sample(tuple(values), min(rng.randint(2, 4), len(values)))
    return Choice(name, tuple(value.replace("'", "") for value in some))


def device_words(rng: Random) -> tuple[str, ...]:
    """A few machines."""
    return tuple(rng.sample(words.SWITCHED + words.STARTED, 4))


def placed(one: Use, thing: str) -> Use:
    """A use for one place of several."""

    def at(ways: tuple[str, ...], where: str) -> tuple[str, ...]:
        return tuple(way.replace("{t}", where) for way in ways)

    ways = (
        at(one.asks, "the {v} {n}") + at(one.asks, "the {n} in the {v}") + at(one.asks, "the {v}")
    )
    return Use(
        tuple(way.replace("{n}", thing) for way in ways),
        tuple(way.replace("{n}", thing) for way in at(one.unseen, "the {v} {n}")),
        at(one.asks, "{t}"),
        fixed=one.fixed,
    )


RUN_ASKS = (
    "run {t} for {v}", "start {t} for {v}", "let {t} run for {v}", "{t} for {v}", "{v} of {t}",
    "turn on {t} for {v}", "switch {t} on for {v}", "i want {t} on for {v}", "{t} on for {v}",
    "keep {t} running for {v}", "for {v} run {t}", "give {t} {v}",
)  # fmt: skip
RUN_UNSEEN = ("have {t} going for {v}", "{t} should run {v}")


def running(thing: str, rng: Random) -> list[Ability]:
    """Runs for a time and stops by itself."""
    free = number(rng.choice(("seconds", "minutes", "minutes", "hours")), rng)
    tool = declared(
        rng, thing,
        ("run_{t}", "{t}_run", "start_{t}", "{t}_for", "pulse_{t}", "activate_{t}"),
        ("Runs the {t} for a while", "Runs the {t} for some time", "Starts the {t} for a time",
         "Switches the {t} on for a time", "Lets the {t} run"),
        {free.name: free.schema()},
    )  # fmt: skip
    lacking = ("run {t}", "start {t}", "let {t} run", "turn on {t}", "i need {t} for a while")
    found = [Ability("started", thing, tool, (Use(RUN_ASKS, RUN_UNSEEN, lacking),), (free,))]
    if rng.random() < 0.5:
        switch = SWITCHES["started"]
        stop = declared(rng, thing, switch.names[1], switch.descriptions[1])
        found.append(Ability("started", thing, stop, (use("stop"),)))
    return found
