"""An ability: a tool of a device, with the ways in which people ask for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from edgellm.tools.tool import Tool
from edgellm.training.devices import words
from edgellm.training.devices.arguments import Argument

FIELDS = ("{v}", "{w}", "{u}")
"""Where in a way to ask the values of the arguments stand that are free, in their order."""


@dataclass(frozen=True)
class Use:
    """One thing to ask of a tool."""

    asks: tuple[str, ...]
    """`{t}` is the thing; see `FIELDS`."""
    unseen: tuple[str, ...] = ()
    """Ways that are held out for evaluation."""
    lacking: tuple[str, ...] = ()
    """Ways to ask that lack the first free argument's value."""
    lacking_second: tuple[str, ...] = ()
    """The same for the second one's."""
    fixed: Mapping[str, object] = field(default_factory=dict)
    """Arguments that the way of asking decides."""


@dataclass(frozen=True)
class Quantity:
    """What a sensor measures."""

    noun: str
    symbol: str = ""
    """Its unit, where the tool tells it."""
    key: str = ""
    """The key of the result, where it's an object."""
    low: float = 0
    high: float = 100
    states: tuple[str, ...] = ()
    """Results that are words."""


@dataclass(frozen=True)
class Ability:
    kind: str
    thing: str
    """The noun that it's about, with its place or adjective: "kitchen lamp"."""
    tool: Tool
    uses: tuple[Use, ...]
    free: tuple[Argument, ...] = ()
    """In the order of their `FIELDS`."""
    optional: Argument | None = None
    """One that may be added to what is asked, "for 5 minutes"."""
    quantity: Quantity | None = None

    @property
    def family(self) -> str:
        """Its kind without what is set, chosen or read: what people may mean by the same words."""
        return self.kind.partition(" ")[0]


_TAILS = (
    " of this machine", " in the garden", " in the house", " at once", " by the motor",
    " for the night",
    " and tells when it's done", " that stands outside", " on the left side", " of the main unit",
    " from now on", " as long as there is power", " (slow)", " next to the entrance", " safely",
)  # fmt: skip


def declared(
    rng: Random,
    thing: str,
    names: Sequence[str],
    descriptions: Sequence[str],
    properties: Mapping[str, Mapping[str, Any]] | None = None,
    optional: Sequence[str] = (),
) -> Tool:
    """A tool of one of these names and descriptions, in which `{t}` is the thing."""
    name = named(rng.choice(names).replace("{t}", thing), rng)
    description = rng.choice(descriptions).replace("{t}", thing)
    style = rng.random()
    if style < 0.08:
        name = opaque(rng)
    elif style < 0.2 and thing:
        description = ""  # its name says it all
    if description and rng.random() < 0.15:
        description += rng.choice(_TAILS)
    if description and rng.random() < 0.3:
        description = infinitive(description)
    if description and rng.random() < 0.4:
        description += "."
    properties = dict(properties or {})
    required = [key for key in properties if key not in optional]
    return Tool(
        name, description, {"type": "object", "properties": properties, "required": required}
    )


def named(text: str, rng: Random) -> str:
    """A function's name from words."""
    plain = re.sub(r"[^a-z0-9 _]", "", text.lower().replace("-", " ")).replace("_", " ")
    parts = re.sub(r"^(?=[0-9])", "no ", plain).split()
    if rng.random() < 0.1:
        return parts[0] + "".join(part.title() for part in parts[1:])
    return "_".join(parts)


def opaque(rng: Random) -> str:
    """A function's name that doesn't tell what it does."""
    stem = rng.choice(("out", "relay", "ch", "port", "fn", "unit", "io", "cmd", "do", "act"))
    if rng.random() < 0.4:
        return words.invented(rng)
    return f"{stem}{rng.choice(('', '_'))}{rng.choice('abcdefgh12345678')}"


def infinitive(description: str) -> str:
    """ "Sets the fan" as "Set the fan"."""
    verb, _, rest = description.partition(" ")
    if verb.endswith(("ches", "shes", "sses", "oes")):
        verb = verb[:-2]
    elif verb.endswith("s") and not verb.endswith("ss"):
        verb = verb[:-1]
    return f"{verb} {rest}"
