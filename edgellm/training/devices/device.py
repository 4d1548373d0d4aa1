"""Devices: a few abilities of a few things."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from edgellm.training.devices import catalogue, doing, sensing, setting, switching, words
from edgellm.training.devices.ability import Ability

MACHINES = (
    "pump", "valve", "arm", "gripper", "nozzle", "print bed", "extruder", "feeder", "dome", "mount",
    "turntable", "signal", "barrier", "skimmer", "chiller", "kettle", "spindle", "conveyor",
    "drone", "tank",
    "aquarium", "greenhouse", "hive", "boiler", "camera", "focuser", "telescope", "crane", "winch",
    "elevator", "mower", "robot", "amplifier", "radio", "speaker", "display", "heater", "fan",
    "light",
    "led strip", "curtain", "gate", "garage door", "lock", "thermostat", "fridge", "oven", "scale",
    "press", "laser", "cutter", "plotter", "mixer", "grinder", "fermenter", "still", "reactor",
    "pool",
    "sauna", "pond", "fountain", "sprinkler", "well", "cistern", "battery", "inverter", "charger",
    "wallbox", "train", "switch", "crossing", "lamp", "beacon", "siren", "door", "window",
    "shutter",
    "weather station", "incubator", "terrarium", "coop", "stable", "silo", "tractor", "boat",
    "anchor",
    "sail", "projector", "screen", "doorbell", "vacuum", "washer", "dryer", "coffee machine", "bed",
    "desk", "chair", "slider", "gimbal", "stage", "filter wheel", "dimmer", "relay", "motor",
    "servo",
    "stepper", "wheel", "rotor", "tower", "chimney", "stove", "pellet feeder", "solar panel",
)  # fmt: skip
UNSEEN_MACHINES = (
    "gondola", "funicular", "theremin", "zeppelin", "smokehouse", "hydrofoil", "waterslide",
    "harpsichord", "submarine", "wine press", "zip line", "rain barrel", "fog horn", "autoclave",
    "cyclotron", "turnstile", "gantry", "bellows", "hovercraft", "mangle", "pasteurizer", "sieve",
    "kaleidoscope", "bobsled", "foghorn", "mash tun", "dialysis unit", "spectrometer", "marquee",
)  # fmt: skip


CATALOGUED = 0.5
"""The share of devices that are of the catalogue."""


@dataclass(frozen=True)
class Device:
    abilities: tuple[Ability, ...]
    declines: tuple[str, ...] = ()
    """Of the catalogue: what none of its kind can do."""
    lacks: tuple[Ability, ...] = ()
    """Of the catalogue: what others of its kind can."""

    def alike(self, ability: Ability) -> list[Ability]:
        """Others of the same kind."""
        return [one for one in self.abilities if one.kind == ability.kind and one is not ability]


def noun(rng: Random, unseen: bool = False) -> str:
    """What a device has: perhaps with a place or an adjective, or a word that doesn't exist."""
    draw = rng.random()
    if unseen and draw < 0.7:
        base = rng.choice(UNSEEN_MACHINES)
    elif draw < 0.5:
        base = rng.choice(MACHINES)
    elif draw < 0.75:
        base = rng.choice(rng.choice((words.SWITCHED, words.OPENED, words.STARTED)))
    elif draw < 0.85:
        base = rng.choice(words.NOUNS)
    else:
        base = words.invented(rng)
    draw = rng.random()
    if draw < 0.18:
        return f"{rng.choice(words.PLACES)} {base}"
    if draw < 0.3:
        return f"{rng.choice(words.ADJECTIVES)} {base}"
    if draw < 0.34:
        return f"{base} {rng.randint(1, 4)}"
    return base


def abilities(thing: str, rng: Random, unseen: bool = False) -> list[Ability]:
    """Some ability of a thing."""
    draw = rng.random()
    if draw < 0.24:
        kind = rng.choice(("switched", "switched", "opened", "started", "locked"))
        return switching.switches(kind, thing, rng)
    if draw < 0.31:
        return switching.running(thing, rng)
    if draw < 0.46:
        return setting.setting(thing, rng, unseen and rng.random() < 0.5)
    if draw < 0.52:
        return setting.placing(thing, rng)
    if draw < 0.58:
        return setting.choosing(thing, rng)
    if draw < 0.76:
        return sensing.sensing(thing, rng, unseen)
    if draw < 0.81:
        return doing.dispensing(thing, rng)
    if draw < 0.84:
        return doing.watering(thing, rng)
    if draw < 0.88:
        return doing.moving(thing, rng)
    if draw < 0.92:
        return doing.saying(thing, rng)
    if draw < 0.98:
        return doing.acting(thing, rng)
    return doing.inventing(thing, rng)


def device(rng: Random, unseen: bool = False, catalogued: float = CATALOGUED) -> Device:
    """A device of one to seven tools, of the catalogue or composed; names of tools and pairs of
    kind and thing occur once."""
    wanted = rng.choice((1, 2, 3, 3, 4, 4, 5, 5, 6, 7))
    if rng.random() < catalogued:
        return _catalogued(rng, unseen, wanted)
    found: list[Ability] = []
    names: set[str] = set()
    things = [noun(rng, unseen) for _ in range(rng.randint(1, 4))]
    for _ in range(30):
        if len(found) >= wanted:
            break
        thing = rng.choice(things)
        some = abilities(thing, rng, unseen)
        taken = {(_deed(one), one.thing) for one in found}
        if any((_deed(one), one.thing) in taken for one in some):
            continue
        if len({one.tool.name for one in some} | names) < len(some) + len(names):
            continue
        found += some
        names |= {one.tool.name for one in some}
    rng.shuffle(found)
    return Device(tuple(found))


def _catalogued(rng: Random, unseen: bool, wanted: int) -> Device:
    """A device of the catalogue with so many of its tools."""
    kind = rng.choice(catalogue.kinds(unseen))
    some = [one.ability(rng) for one in rng.sample(kind.entries, len(kind.entries))]
    names = [one.tool.name for one in some]
    some = [one for index, one in enumerate(some) if one.tool.name not in names[:index]]
    return Device(tuple(some[:wanted]), kind.declines, tuple(some[wanted:]))


def _deed(ability: Ability) -> str:
    """Its kind; what is switched on can't be started besides."""
    return "started" if ability.kind == "switched" else ability.kind
