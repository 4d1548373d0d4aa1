"""Devices as they are: what `kinds/*.toml` lists, with what people say to them.

A file holds devices, each with its tools, and for each tool names, descriptions, arguments, and
ways to ask for it; an argument's name in braces stands for its value. The other devices are
composed of abilities that any thing may have; these here teach what no composition does: that it's
stuffy where a window should be opened.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from edgellm.training.devices.ability import FIELDS, Ability, Quantity, Use, declared
from edgellm.training.devices.arguments import Argument, Choice, Flag, Number, Phrase
from edgellm.training.devices.numbers import MEASURES

FOLDER = Path(__file__).with_name("kinds")
HELD_OUT = 11
"""Of so many devices one is held out of training, as is of so many ways to ask."""


@dataclass(frozen=True)
class Entry:
    """A tool of the catalogue."""

    names: tuple[str, ...]
    does: tuple[str, ...]
    arguments: tuple[Argument, ...]
    optional: tuple[str, ...]
    """Names of arguments that needn't be given."""
    free: tuple[Argument, ...]
    """Those that sentences give."""
    uses: tuple[Use, ...]
    quantity: Quantity | None

    def ability(self, rng: Random) -> Ability:
        properties = {argument.name: argument.schema() for argument in self.arguments}
        tool = declared(rng, "", self.names, self.does, properties, self.optional)
        told = self.quantity
        if told and told.symbol not in tool.description:
            told = replace(told, symbol="")
        # No other tool has its kind: its ways of asking are clear beside the device's others.
        kind = f"catalogue:{self.names[0]}"
        return Ability(kind, "", tool, self.uses, self.free, quantity=told)


@dataclass(frozen=True)
class Kind:
    """A kind of device."""

    name: str
    entries: tuple[Entry, ...]
    declines: tuple[str, ...]
    """What none of its tools can do."""


@functools.cache
def kinds(held_out: bool) -> tuple[Kind, ...]:
    """The devices that are held out of training, or the others."""
    files = sorted(FOLDER.glob("*.toml"))
    found = [
        kind(listed)
        for file in files
        for listed in tomllib.loads(file.read_text(encoding="utf-8"))["device"]
    ]
    return tuple(
        one for index, one in enumerate(found) if (index % HELD_OUT == HELD_OUT // 2) == held_out
    )


def sentences() -> set[str]:
    """All that the catalogue lists to be said."""
    found: set[str] = set()
    for one in kinds(False) + kinds(True):
        found.update(one.declines)
        for use in (use for entry in one.entries for use in entry.uses):
            found.update(use.asks, use.unseen, use.lacking, use.lacking_second)
    return found


def kind(listed: Mapping[str, Any]) -> Kind:
    """A device as a file lists it. Raises ValueError or KeyError where that is wrong."""
    entries = tuple(entry(tool) for tool in listed["tool"])
    return Kind(listed["name"], entries, tuple(listed["declines"]))


def entry(listed: Mapping[str, Any]) -> Entry:
    """A tool as a file lists it. Raises ValueError or KeyError where that is wrong."""
    arguments = tuple(_argument(one) for one in listed.get("arguments", ()))
    asks = [(ask, {}) if isinstance(ask, str) else (ask[0], ask[1]) for ask in listed["asks"]]
    lacking = [(name, text) for name, text in listed.get("lacking", ())]
    sentences = [ask for ask, _ in asks] + [text for _, text in lacking]
    free = tuple(
        argument for argument in arguments
        if any(f"{{{argument.name}}}" in sentence for sentence in sentences)
    )  # fmt: skip
    if len(free) > len(FIELDS):
        raise ValueError(f"{listed['names'][0]}: more than {len(FIELDS)} arguments are free")
    optional = tuple(one["name"] for one in listed.get("arguments", ()) if one.get("optional"))
    returns = listed.get("returns")
    return Entry(
        tuple(listed["names"]), tuple(listed["does"]), arguments, optional, free,
        tuple(_uses(asks, lacking, free, arguments)), _quantity(returns) if returns else None,
    )  # fmt: skip


def _argument(listed: Mapping[str, Any]) -> Argument:
    name = listed["name"]
    if "values" in listed:
        said = {value: tuple(ways) for value, ways in listed.get("said", {}).items()}
        return Choice(name, tuple(listed["values"]), said)
    if listed.get("flag"):
        return Flag(name)
    if "texts" in listed:
        return Phrase(name, tuple(listed["texts"]))
    measure = MEASURES[listed["measure"]]
    if listed.get("integer"):
        measure = replace(measure, decimals=False)
    shown = {key: listed[key] for key in ("unit", "description") if key in listed}
    return Number(name, measure, listed["low"], listed["high"], shown)


def _uses(
    asks: Sequence[tuple[str, Mapping[str, object]]], lacking: Sequence[tuple[str, str]],
    free: Sequence[Argument], arguments: Sequence[Argument],
) -> list[Use]:  # fmt: skip
    """Ways to ask with the same arguments decided together; the first lacks what is missing."""
    names = [argument.name for argument in free]

    def opened(sentence: str) -> str:
        for name, field in zip(names, FIELDS, strict=False):
            sentence = sentence.replace(f"{{{name}}}", field)
        return sentence

    found: dict[str, tuple[Mapping[str, object], list[str], list[str]]] = {}
    for index, (sentence, fixed) in enumerate(asks):
        if unknown := set(fixed) - {argument.name for argument in arguments}:
            raise ValueError(f"{sentence!r} decides {', '.join(sorted(unknown))}")
        _, seen, unseen = found.setdefault(repr(sorted(fixed.items())), (fixed, [], []))
        (unseen if index % HELD_OUT == HELD_OUT // 2 else seen).append(opened(sentence))
    uses = [Use(tuple(seen), tuple(unseen), fixed=fixed) for fixed, seen, unseen in found.values()]
    ways = [tuple(opened(text) for name, text in lacking if name == wanted) for wanted in names[:2]]
    if any(ways):
        first, second = (*ways, (), ())[:2]
        uses.insert(0, Use((), lacking=first, lacking_second=second))
    return uses


def _quantity(listed: Mapping[str, Any]) -> Quantity:
    noun, states = listed["noun"], tuple(listed.get("states", ()))
    key = noun.split()[-1]
    return Quantity(
        noun, listed.get("unit", ""), key, listed.get("low", 0), listed.get("high", 100), states
    )
