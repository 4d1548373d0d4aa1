"""Devices in other words: what is learnt of them must hold whatever their parts are called.

The catalogue's devices always have the same options and nouns, and what a tool is for could be
learnt by heart. Here both are others each time, wherever they are told and said alike.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random

from edgellm.tools.tool import Tool
from edgellm.training.devices import catalogue, words
from edgellm.training.devices.ability import FIELDS, Ability, Use
from edgellm.training.devices.arguments import Argument, Choice, Phrase
from edgellm.training.devices.device import MACHINES, Device

SWAPPED = 0.7
"""How often a noun that is told and said becomes another one."""
CHOSEN = 0.8
"""How often options become others."""
INVENTED = 0.2
"""The share of new words that are in no dictionary."""
JOINED = 0.12
"""The share of new options that are of two words."""
COMMON = 60
"""A word that occurs more often in the catalogue is no option."""

_DEEDS = frozenset((
    "air", "back", "clamp", "crane", "drill", "dry", "dryer", "feed", "filter", "front", "grind",
    "hammer", "heat", "heating", "hook", "hot", "iron", "jack", "lift", "light", "lock", "mill",
    "mixer", "music", "night", "old", "pedal", "power", "press", "print", "rail", "record",
    "relay", "roll", "rolling", "sail", "saw", "scale", "screw", "set", "shower", "sink", "spring",
    "start", "still", "swing", "switch", "tap", "train", "upstairs", "downstairs", "vent", "water",
    "weather",
))  # fmt: skip
"""Words that are deeds or qualities as well, which tell what a tool does."""

Swap = Callable[[str], str]


@functools.cache
def nouns() -> tuple[str, ...]:
    """Single words that things are called by."""
    listed = (
        MACHINES, words.SWITCHED, words.OPENED, words.STARTED, words.PLANTS, words.PLACES,
        words.NOUNS,
    )  # fmt: skip
    return _single(noun for some in listed for noun in some)


@functools.cache
def options() -> tuple[str, ...]:
    """Single words that are chosen among: nouns, adjectives, and whatever the catalogue says, but
    for the words that it says all the time."""
    said = Counter(
        word
        for kind in catalogue.kinds(False)
        for entry in kind.entries
        for text in (*entry.does, *_said(entry.uses), *_options(entry.arguments))
        for word in set(re.findall(r"[a-z]{3,}", text.lower()))
    )
    return _single((*nouns(), *words.ADJECTIVES, *(w for w in said if said[w] <= COMMON)))


def _options(arguments: Sequence[Argument]) -> list[str]:
    choices = (argument for argument in arguments if isinstance(argument, Choice))
    return [value for choice in choices for value in choice.values]


def _single(some: Iterable[str]) -> tuple[str, ...]:
    found = {word for text in some for word in text.lower().replace("_", " ").split()}
    return tuple(sorted(word for word in found if word.isalpha() and len(word) > 2))


def varied(device: Device, rng: Random) -> Device:
    """A device with other nouns and other options."""
    swaps = _swaps(device, rng)
    swap = _swapping(swaps)
    chosen: dict[tuple[str, ...], tuple[str, ...]] = {}

    def changed(ability: Ability) -> Ability:
        return _with_options(_with_nouns(ability, swaps, swap), chosen, rng)

    return Device(
        tuple(map(changed, device.abilities)),
        tuple(map(swap, device.declines)),
        tuple(map(changed, device.lacks)),
    )


def _swaps(device: Device, rng: Random) -> dict[str, str]:
    """Nouns of the device, and others for them."""
    told: set[str] = set()
    for ability in device.abilities:
        line = set(_words(f"{ability.tool.name} {ability.tool.description}".replace("_", " ")))
        told |= line & set(_words(ability.thing or " ".join(_said(ability.uses))))
    found: dict[str, str] = {}
    for noun in sorted(told & set(nouns()) - _DEEDS):
        if rng.random() < SWAPPED:
            new = _word(nouns(), rng)
            if new not in told and new not in found.values():
                found[noun] = new
    return found


def _words(text: str) -> list[str]:
    """Words, without the ending of the plural."""
    return [word.removesuffix("s") for word in re.findall(r"[a-z]+", text.lower())]


def _said(uses: Sequence[Use]) -> list[str]:
    return [
        way
        for use in uses
        for way in (*use.asks, *use.unseen, *use.lacking, *use.lacking_second)
    ]  # fmt: skip


def _word(some: Sequence[str], rng: Random) -> str:
    return words.invented(rng) if rng.random() < INVENTED else rng.choice(some)


def _swapping(swaps: Mapping[str, str]) -> Swap:
    """Puts other nouns into texts and names."""
    if not swaps:
        return lambda text: text
    listed = "|".join(sorted(swaps, key=len, reverse=True))
    pattern = re.compile(rf"(?<![a-z])({listed})(?=s?(?![a-z]))", re.IGNORECASE)
    return lambda text: pattern.sub(lambda found: swaps[found[1].lower()], text)


def _with_nouns(ability: Ability, swaps: Mapping[str, str], swap: Swap) -> Ability:
    tool = ability.tool
    line = f"{tool.name} {tool.description}"
    if swap(line) == line:
        return ability

    def about(ways: tuple[str, ...]) -> tuple[str, ...]:
        """Those that say such a noun, if any do: what means it otherwise doesn't mean the new."""
        new = tuple(map(swap, ways))
        return tuple(
            way for way, old in zip(new, ways, strict=True) if way != old or "{t}" in way
        ) or new  # fmt: skip

    uses = tuple(
        replace(
            use, asks=about(use.asks), unseen=about(use.unseen), lacking=about(use.lacking),
            lacking_second=about(use.lacking_second),
        )
        for use in ability.uses
    )  # fmt: skip
    quantity = ability.quantity
    if quantity:
        quantity = replace(quantity, noun=swap(quantity.noun), key=swap(quantity.key))
    return replace(
        ability, thing=swap(ability.thing), uses=uses, quantity=quantity,
        tool=Tool(swap(tool.name), swap(tool.description), tool.parameters),
    )  # fmt: skip


def _with_options(
    ability: Ability, chosen: dict[tuple[str, ...], tuple[str, ...]], rng: Random
) -> Ability:
    """`chosen` has the options that others of the device have become."""
    uses, tool = ability.uses, ability.tool
    free: list[Argument] = []
    properties = dict(tool.parameters.get("properties", {}))
    for argument, field in zip(ability.free, FIELDS, strict=False):
        if isinstance(argument, Phrase):
            argument = replace(argument, texts=tuple(_phrase(rng) for _ in range(4)))
        elif isinstance(argument, Choice):
            left = tuple(use for use in uses if argument.name not in use.fixed)
            if any(field in ask for use in left for ask in use.asks):
                if argument.values not in chosen:
                    new = tuple({_option(rng): None for _ in range(rng.randint(2, 5))})
                    chosen[argument.values] = new if rng.random() < CHOSEN else argument.values
                if chosen[argument.values] != argument.values:
                    argument, uses = Choice(argument.name, chosen[argument.values]), left
                    properties[argument.name] = {
                        **properties[argument.name], "enum": list(argument.values)
                    }  # fmt: skip
        free.append(argument)
    tool = Tool(tool.name, tool.description, {**tool.parameters, "properties": properties})
    return replace(ability, tool=tool, uses=uses, free=tuple(free))


def _option(rng: Random) -> str:
    first = _word(options(), rng)
    if rng.random() >= JOINED:
        return first
    return f"{first}{rng.choice('_ ')}{_word(options(), rng)}"


def _phrase(rng: Random) -> str:
    return " ".join(_word(options(), rng) for _ in range(rng.randint(1, 4)))
