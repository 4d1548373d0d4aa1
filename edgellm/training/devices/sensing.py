"""Abilities that read something."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from edgellm.training.devices import words
from edgellm.training.devices.ability import Ability, Quantity, Use, declared
from edgellm.training.devices.arguments import Choice


@dataclass(frozen=True)
class Sense:
    """Something to read."""

    symbols: tuple[str, ...]
    keys: tuple[str, ...]
    low: float
    high: float
    asks: tuple[str, ...]
    """`{t}` is where or of what; besides those that all have."""
    states: tuple[str, ...] = ()


SENSES = {
    "temperature": Sense(
        ("°C", "°C", "°F"), ("celsius", "temperature", "temp", "degrees"), -20, 99,
        ("how warm is {t}", "how hot is {t}", "how cold is {t}", "is {t} too warm",
         "is it warm in {t}",
         "is {t} too cold", "how warm is it in {t}", "how many degrees has {t}",
         "is {t} hot enough"),
    ),
    "humidity": Sense(
        ("%",), ("percent", "humidity", "rh"), 0, 100,
        ("how humid is {t}", "is {t} too humid", "how damp is {t}", "how dry is {t}",
         "is {t} moist"),
    ),
    "soil moisture": Sense(
        ("%",), ("percent", "moisture"), 0, 100,
        ("how wet is {t}", "is {t} dry", "does {t} need water", "how dry is {t}", "is {t} thirsty"),
    ),
    "water level": Sense(
        ("cm", "%", "l", "mm"), ("level", "cm", "percent"), 0, 100,
        ("how full is {t}", "is {t} full", "is {t} empty", "how much water is in {t}",
         "how much is left in {t}"),
    ),
    "pressure": Sense(
        ("bar", "hPa", "kPa", "psi"), ("bar", "pressure"), 0, 20,
        ("how much pressure is on {t}", "is the pressure of {t} ok"),
    ),
    "battery": Sense(
        ("%", "V"), ("percent", "battery", "charge"), 0, 100,
        ("how much battery is left in {t}", "is {t} charged", "battery of {t}",
         "how full is the battery",
         "does {t} need charging"),
    ),
    "light level": Sense(
        ("lux", "lx"), ("lux", "light"), 0, 5000,
        ("how bright is {t}", "is {t} dark", "how much light is there in {t}"),
    ),
    "weight": Sense(
        ("g", "kg"), ("grams", "kg", "weight"), 0, 900,
        ("how heavy is {t}", "how much does {t} weigh", "what does {t} weigh"),
    ),
    "speed": Sense(
        ("rpm", "km/h", "m/s"), ("speed", "rpm"), 0, 3000, ("how fast is {t}",
                                                            "how fast does {t} run")
    ),
    "ph": Sense((), ("ph",), 4, 9, ("how sour is {t}", "what's the ph of {t}",
                                    "is the ph of {t} ok")),
    "voltage": Sense(("V",), ("volts", "voltage"), 0, 48, ("how many volts has {t}",)),
    "power": Sense(
        ("W", "kW"), ("watts", "power"), 0, 3000,
        ("how much power does {t} use", "what does {t} draw", "how many watts does {t} take"),
    ),
    "co2": Sense(("ppm",), ("ppm", "co2"), 380, 2000, ("how is the air in {t}",
                                                       "how bad is the air")),
    "wind speed": Sense(("km/h", "m/s"), ("speed", "wind"), 0, 90,
                        ("how windy is it", "is it windy")),
    "rain": Sense(("mm",), ("mm", "rain"), 0, 40, ("did it rain", "how much did it rain",
                                                   "is it raining")),
    "distance": Sense(("cm", "mm", "m"), ("distance", "cm"), 0, 400,
                      ("how far is {t}", "how far away is {t}")),
    "angle": Sense(("°",), ("degrees", "angle"), 0, 360, ("where does {t} point",
                                                          "how far is {t} turned")),
    "flow": Sense(("l/min", "l/h"), ("flow", "lpm"), 0, 60, ("how much flows through {t}",
                                                             "is {t} flowing")),
    "count": Sense((), ("count", "total"), 0, 500, ("how many did {t} count",
                                                    "how many are there")),
    "progress": Sense(
        ("%",), ("percent", "progress"), 0, 100,
        ("how far is {t}", "is {t} done", "how long does {t} still take", "is {t} finished"),
    ),
    "status": Sense(
        (), ("status", "state"), 0, 0,
        ("what is {t} doing", "how is {t}", "is {t} ok", "what's up with {t}", "state of {t}",
         "is {t} running", "is {t} on"),
        ("idle", "running", "ok", "stopped", "error", "busy", "charging", "printing", "on", "off"),
    ),
    "position": Sense(
        (), ("state", "position"), 0, 0,
        ("is {t} open", "is {t} closed", "where is {t}", "did i close {t}", "is {t} still open"),
        ("open", "closed", "half open", "up", "down"),
    ),
    "door state": Sense(
        (), ("state",), 0, 0, ("is {t} locked", "is {t} open", "did i lock {t}", "is {t} shut"),
        ("locked", "unlocked", "open", "closed"),
    ),
    "filament": Sense(("g", "m", "%"), ("grams", "left"), 0, 999, ("how much filament is left",)),
    "signal strength": Sense(("dBm",), ("dbm", "signal"), -95, -30,
                             ("how good is the signal of {t}",)),
}  # fmt: skip
_ASKS = (
    "what is the {q} of {t}", "what's the {q} of {t}", "what is the {q} in {t}", "{q} of {t}",
    "{t} {q}", "check the {q} of {t}", "read the {q} of {t}", "tell me the {q} of {t}",
    "how is the {q} of {t}", "show me the {q} of {t}", "what {q} does {t} have",
    "get the {q} of {t}",
    "{q}", "what's the {q}", "measure the {q} of {t}", "i want to know the {q} of {t}",
    "how high is the {q} of {t}", "check {t} {q}", "what does the {q} sensor of {t} say",
    "give me the {q} of {t}", "what's the current {q} of {t}",
)  # fmt: skip
_UNSEEN = (
    "any idea about the {q} of {t}", "report the {q} of {t}", "have a look at the {q} of {t}",
    "which {q} do we have at {t}",
)  # fmt: skip
UNSEEN_SENSES = {
    "salinity": Sense(("ppt",), ("ppt",), 20, 40, ("how salty is {t}",)),
    "turbidity": Sense(("NTU",), ("ntu",), 0, 100, ("how cloudy is {t}",)),
    "torque": Sense(("Nm",), ("nm",), 0, 90, ("how hard does {t} turn",)),
    "uv index": Sense((), ("uv",), 0, 11, ("how strong is the sun at {t}",)),
}


def sensing(thing: str, rng: Random, unseen: bool = False) -> list[Ability]:
    """Reads one quantity of a thing, or of one of several places."""
    senses = UNSEEN_SENSES if unseen and rng.random() < 0.6 else SENSES
    noun = rng.choice(tuple(senses))
    sense = senses[noun]
    symbol = rng.choice(sense.symbols) if sense.symbols and rng.random() < 0.75 else ""
    told = f" in {symbol}" if symbol and rng.random() < 0.6 else f" ({symbol})" if symbol else ""
    free: tuple[Choice, ...] = ()
    properties: dict[str, dict[str, object]] = {}
    about = thing
    if rng.random() < 0.15:
        places = tuple(rng.sample(words.PLACES[:20], rng.randint(2, 4)))
        place = Choice(rng.choice(("zone", "room", "place", "sensor")), places)
        free, properties, about = (place,), {place.name: place.schema()}, ""
    of = f" of the {about}" if about else " of one of the places"
    tool = declared(
        rng, about,
        (f"read_{{t}}_{noun}", f"get_{{t}}_{noun}", f"{{t}}_{noun}", f"read_{noun}", f"get_{noun}",
         f"measure_{noun}", f"check_{{t}}_{noun}", f"{noun}_of_{{t}}"),
        (f"Reads the {noun}{of}{told}", f"Returns the {noun}{of}{told}",
         f"Measures the {noun}{of}{told}",
         f"{noun}{of}{told}", f"Gets the {noun}{of}{told}", f"Tells the {noun}{of}{told}"),
        properties,
    )  # fmt: skip
    told_symbol = symbol if symbol and symbol in tool.description else ""
    ways = _ASKS + sense.asks * 2
    lacking: tuple[str, ...] = ()
    if free:
        lacking = tuple(
            way.replace("{q}", noun)
            for way in ("what's the {q}", "{q}", "read the {q}", "check the {q}")
        )
        ways = tuple(way for way in ways if "{t}" in way)
    use = Use(
        tuple(
            way.replace("{q}", noun).replace("{t}", "the {v}" if free else "{t}") for way in ways
        ),
        tuple(
            way.replace("{q}", noun).replace("{t}", "the {v}" if free else "{t}") for way in _UNSEEN
        ),
        lacking,
    )
    quantity = Quantity(
        noun, told_symbol, rng.choice(sense.keys), sense.low, sense.high, sense.states
    )
    return [Ability("sensing " + noun, about, tool, (use,), free, quantity=quantity)]
