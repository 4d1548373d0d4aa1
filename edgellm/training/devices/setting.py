"""Abilities that set a number or choose among values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from edgellm.training.devices import numbers, words
from edgellm.training.devices.ability import Ability, Use, declared
from edgellm.training.devices.arguments import Argument, Choice, number
from edgellm.training.devices.switching import places


@dataclass(frozen=True)
class Setting:
    """A number that things have."""

    measures: tuple[str, ...]
    asks: tuple[str, ...] = ()
    """Besides those that all settings have."""
    unseen: tuple[str, ...] = ()


SETTINGS = {
    "brightness": Setting(
        ("percent", "percent", "level"),
        ("dim {t} to {v}", "make {t} {v} bright", "{t} at {v} brightness", "dim {t} down to {v}",
         "brighten {t} to {v}"), ("light {t} at {v}",),
    ),
    "speed": Setting(
        ("percent", "rpm", "speed", "level"),
        ("run {t} at {v}", "spin {t} at {v}", "let {t} run at {v}", "speed of {t} {v}",
         "slow {t} down to {v}", "speed {t} up to {v}"), ("have {t} turn with {v}",),
    ),
    "volume": Setting(
        ("percent", "level", "level"),
        ("volume {v}", "turn {t} up to {v}", "turn {t} down to {v}", "volume to {v}",
         "make {t} {v} loud"), ("loudness {v} please",),
    ),
    "temperature": Setting(
        ("celsius", "celsius"),
        ("heat {t} to {v}", "warm {t} up to {v}", "make {t} {v} warm", "{v} in {t}",
         "cool {t} to {v}", "heat up {t} to {v}", "i want it {v} warm in {t}", "keep {t} at {v}"),
        ("get {t} to a cosy {v}", "preheat {t} to {v}"),
    ),
    "pressure": Setting(("bar",), ("pump {t} up to {v}",), ("hold {t} at {v}",)),
    "position": Setting(
        ("percent", "mm", "angle"),
        ("move {t} to {v}", "drive {t} to {v}", "open {t} to {v}", "{t} {v} open"),
        ("bring {t} to {v}",),
    ),
    "angle": Setting(
        ("angle",), ("turn {t} to {v}", "rotate {t} to {v}", "tilt {t} to {v}", "point {t} to {v}",
                     "swing {t} to {v}"), ("aim {t} at {v}",),
    ),
    "power": Setting(("percent", "watts"), ("{t} with {v}", "limit {t} to {v}"),
                     ("cap {t} at {v}",)),
    "flow": Setting(("percent", "litres"), ("let {t} flow at {v}",)),
    "humidity": Setting(("percent",), ("keep {t} at {v} humidity",)),
    "color temperature": Setting(("kelvin",), ("make {t} {v}",)),
    "voltage": Setting(("volts",), ("give {t} {v}",)),
    "current limit": Setting(("amps",), ("limit {t} to {v}",)),
    "intensity": Setting(("percent", "level"), ("{t} {v} strong",)),
    "channel": Setting(("number",), ("switch {t} to {v}", "{t} channel {v}", "channel {v}")),
    "frequency": Setting(("rpm", "level")),
    "height": Setting(("mm", "percent"), ("raise {t} to {v}", "lower {t} to {v}",
                                          "lift {t} to {v}")),
    "start hour": Setting(
        ("hour",), ("start {t} at {v}", "{t} at {v}", "i need {t} at {v}", "begin at {v}"),
        ("have {t} ready by {v}",),
    ),
    "timer": Setting(
        ("minutes", "seconds"),
        ("set a timer for {v}", "timer {v}", "start a timer of {v}", "remind me in {v}",
         "wake me in {v}", "count down {v}"), ("ring in {v}",),
    ),
}  # fmt: skip
_ASKS = (
    "set {t} to {v}", "set {t} to {v}", "set the {q} of {t} to {v}", "set {t} {q} to {v}",
    "put {t} at {v}", "{t} to {v}", "{t} {v}", "put {t} on {v}", "turn {t} to {v}",
    "change {t} to {v}", "change the {q} of {t} to {v}", "i want {t} at {v}", "make it {v} for {t}",
    "{q} of {t} to {v}", "adjust {t} to {v}", "bring the {q} of {t} to {v}", "{v} for {t}",
    "i'd like {t} at {v}", "{t} {q} {v}", "make the {q} of {t} {v}", "take {t} to {v}",
    "{t} should be at {v}", "set {q} to {v}", "{q} {v}",
)  # fmt: skip
_UNSEEN = (
    "let's have {t} at {v}",
    "dial {t} to {v}",
    "go for {v} on {t}",
    "{t}, {v} would be nice",
)
_LACKING = (
    "set {t}", "change the {q} of {t}", "adjust {t}", "set the {q} of {t}", "change {t}",
    "i want another {q} for {t}", "set {t} {q}", "can you change the {q}",
)  # fmt: skip


def setting(thing: str, rng: Random, unseen: bool = False) -> list[Ability]:
    """Sets one number of a thing."""
    quantity = rng.choice(tuple(SETTINGS))
    found = SETTINGS[quantity]
    if unseen:
        quantity, found = rng.choice((("throughput", Setting(("percent",))), ("swirl", found)))
        measure = rng.choice(tuple(numbers.UNSEEN_MEASURES))
        free = number(measure, rng, numbers.UNSEEN_MEASURES)
    else:
        free = number(rng.choice(found.measures), rng)
    properties, optional = {free.name: free.schema()}, None
    if rng.random() < 0.12 and not free.measure.seconds:
        optional = number(rng.choice(("minutes", "seconds", "hours")), rng)
        if optional.name == free.name:
            optional = None
        else:
            properties[optional.name] = optional.schema()
    tool = declared(
        rng, thing,
        (f"set_{{t}}_{quantity}", f"set_{{t}}_{quantity}", f"{{t}}_{quantity}", "set_{t}",
         f"set_{quantity}", f"{{t}}_set_{quantity}", f"change_{{t}}_{quantity}"),
        (f"Sets the {quantity} of the {{t}}", f"Sets the {{t}}'s {quantity}",
         f"{quantity} of the {{t}}", f"Changes the {quantity} of the {{t}}",
         f"Adjusts {{t}} {quantity}"),
        properties, [optional.name] if optional else [],
    )  # fmt: skip

    def about(ways: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(way.replace("{q}", quantity) for way in ways)

    use = Use(about(_ASKS + found.asks * 2), about(_UNSEEN + found.unseen), about(_LACKING))
    return [Ability("setting " + quantity, thing, tool, (use,), (free,), optional)]


def placing(thing: str, rng: Random) -> list[Ability]:
    """Sets a number, or a choice, for one of several."""
    place: Argument = places(rng)
    numbered = rng.random() < 0.25
    if numbered:
        place = number("number", rng)
    quantity = rng.choice(tuple(SETTINGS))
    free: Argument = number(rng.choice(SETTINGS[quantity].measures), rng)
    if rng.random() < 0.3:
        name, values = rng.choice(MODES)
        quantity, free = name, Choice(name, tuple(rng.sample(values, 2)))
    if place.name == free.name:
        place = replace(place, name="which")
    tool = declared(
        rng, thing,
        (f"set_{{t}}_{quantity}", "set_{t}", f"{{t}}_{quantity}", f"set_{quantity}", "{t}"),
        (f"Sets the {quantity} of one {{t}}", f"Sets the {quantity} of a {{t}}",
         f"{quantity} of one of the {{t}}s", f"Changes the {quantity} of a {{t}}"),
        {place.name: place.schema(), free.name: free.schema()},
    )  # fmt: skip
    asks = (
        ("set {t} {v} to {w}", "{t} {v} to {w}", "{t} {v} {w}", "set {t} number {v} to {w}",
         "put {t} {v} on {w}", "{w} for {t} {v}", "set the {q} of {t} {v} to {w}",
         "{t} number {v}: {w}")
        if numbered else
        ("set the {v} {n} to {w}", "{v} {n} to {w}", "{v} to {w}", "set the {v} to {w}",
         "the {v} {n} {w}",
         "{v} {w}", "{w} for the {v}", "{n} in the {v} to {w}", "put the {v} {n} at {w}",
         "the {v} at {w}",
         "set the {q} of the {v} to {w}", "{w} in the {v}", "i want the {v} at {w}",
         "give the {v} {w}",
         "let the {v} {n} have {w}", "{v} {n} {w}", "the {v} gets {w}", "keep the {v} at {w}")
    )  # fmt: skip
    unseen = (
        ("i'd have {t} {v} at {w}",)
        if numbered
        else ("bring the {v} {n} to {w}", "{w} suits the {v}")
    )
    first = ("set {t} to {w}", "{t} to {w}", "set the {q} of {t} to {w}", "{t} {w}")
    second = (
        ("set {t} {v}", "{t} {v}") if numbered else ("set the {v} {n}", "set the {q} of the {v}")
    )

    def about(ways: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(way.replace("{q}", quantity).replace("{n}", thing) for way in ways)

    use = Use(about(asks), about(unseen), about(first), about(second))
    return [Ability("placing " + quantity, thing, tool, (use,), (place, free))]


MODES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("mode", ("auto", "manual", "eco")), ("mode", ("auto", "cool", "heat", "dry", "fan")),
    ("mode", ("eco", "comfort", "away", "boost")), ("program", ("cotton", "wool", "quick", "silk")),
    ("mode", ("day", "night", "sunrise", "storm")), ("mode", ("low", "medium", "high")),
    ("speed", ("slow", "normal", "fast")), ("level", ("off", "low", "high")),
    ("color", ("red", "green", "blue", "white")), ("color", ("red", "yellow", "purple", "orange")),
    ("colour", ("warm white", "cold white", "pink", "cyan")), ("source", ("radio", "tv", "phono")),
    ("input", ("aux", "bluetooth", "usb", "cd")), ("direction", ("left", "right")),
    ("direction", ("forward", "backward")), ("direction", ("up", "down")),
    ("direction", ("clockwise", "counterclockwise")), ("scene",
                                                       ("movie", "dinner", "party", "relax")),
    ("effect", ("rainbow", "strobe", "fade", "solid")), ("material", ("PLA", "PETG", "ABS")),
    ("profile", ("quiet", "balanced", "turbo")), ("resolution", ("low", "medium", "high")),
    ("track", ("main", "siding", "loop")), ("position", ("home", "park", "flat", "zenith")),
    ("target", ("moon", "jupiter", "saturn", "mars")), ("step", ("mash", "boil", "chill")),
    ("size", ("small", "medium", "large")), ("drink", ("espresso", "latte", "cappuccino", "tea")),
    ("filter", ("red", "clear", "blue")), ("grip", ("soft", "firm")),
    ("tool", ("pen", "knife", "laser")),
    ("preset", ("jazz", "rock", "voice")), ("aspect", ("stop", "caution", "clear")),
    ("quality", ("draft", "normal", "fine")), ("wash", ("short", "intense", "glass")),
)  # fmt: skip
_CHOOSE = (
    "set {t} to {v}", "switch {t} to {v}", "{t} to {v}", "put {t} in {v} {n}", "change {t} to {v}",
    "{t} {v}", "use {v} for {t}", "make {t} {v}", "select {v} for {t}", "i want {t} on {v}",
    "choose {v} on {t}", "{v} {n} for {t}", "set the {n} of {t} to {v}", "put {t} on {v}",
    "go to {v} {n}", "{n} {v}", "{v} {n}", "set {n} to {v}", "pick {v}",
)  # fmt: skip
_CHOOSE_UNSEEN = ("let {t} go {v}", "i'd prefer {v} for {t}", "{v} suits {t} now")


def choosing(thing: str, rng: Random) -> list[Ability]:
    """Chooses among values."""
    name, values = rng.choice(MODES)
    if rng.random() < 0.3:
        name = rng.choice(
            ("mode", "target", "program", "item", "kind", "type", "object", "recipe", "view")
        )
        values = tuple(rng.sample(words.NOUNS, 4))
    some = list(values)
    rng.shuffle(some)
    free = Choice(name, tuple(some[: rng.randint(2, len(some))]))
    tool = declared(
        rng, thing,
        (f"set_{{t}}_{name}", f"{{t}}_{name}", f"set_{name}", "set_{t}", f"select_{{t}}_{name}",
         f"choose_{name}"),
        (f"Sets the {name} of the {{t}}", f"Selects the {{t}}'s {name}", f"{name} of the {{t}}",
         f"Chooses the {name} of the {{t}}"),
        {name: free.schema()},
    )  # fmt: skip

    def about(ways: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(way.replace("{n}", name) for way in ways)

    lacking = about(("set {t} {n}", "change the {n} of {t}", "set the {n}", "another {n} for {t}"))
    use = Use(about(_CHOOSE), about(_CHOOSE_UNSEEN), lacking)
    return [Ability("choosing " + name, thing, tool, (use,), (free,))]
