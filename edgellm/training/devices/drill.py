"""Drills: nothing but to find out which line has the words of a question, and what number it says.

All that a device's tools and people's requests add to it, a model learns the sooner for having
learnt this first: from lessons alone, it takes most of a training to come upon it.
"""

from __future__ import annotations

from random import Random

from edgellm.tools.tool import Tool
from edgellm.training.devices import numbers, words
from edgellm.training.devices.ability import opaque
from edgellm.training.devices.arguments import Number, number
from edgellm.training.devices.device import MACHINES
from edgellm.training.devices.lesson import Call, Turn
from edgellm.training.devices.scenes import REFUSAL

_WORDS = tuple(
    sorted({word for some in (MACHINES, words.NOUNS, words.PLACES, words.ADJECTIVES, words.PLANTS)
            for noun in some for word in noun.split() if word.isalpha()})
)  # fmt: skip
_FILLERS = (
    "the", "a", "to", "please", "of", "in", "set", "turn", "now", "my", "for", "with", "at", "and",
    "is", "it",
)  # fmt: skip


def drill(rng: Random) -> tuple[tuple[Tool, ...], Turn]:
    """Some tools whose descriptions are random words, and a question that says some of one's."""
    lines = [_line(rng) for _ in range(rng.choice((2, 2, 3, 3, 4, 5)))]
    tools: list[Tool] = []
    values: dict[str, Number] = {}
    for line in lines:
        name = "_".join(rng.sample(line, min(len(line), rng.choice((1, 2)))))
        if rng.random() < 0.2 or any(tool.name == name for tool in tools):
            name = opaque(rng)
        if any(tool.name == name for tool in tools):
            continue
        properties = {}
        if rng.random() < 0.5:
            value = number(rng.choice(tuple(numbers.MEASURES)), rng)
            values[name] = value
            properties[value.name] = value.schema()
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        tools.append(Tool(name, " ".join(_strewn(line, rng)), schema))
    index = rng.randrange(len(tools) + 1)
    line = _line(rng) if index == len(tools) else lines[index]
    asked = rng.sample(line, rng.randint(1 + (len(line) > 2), len(line)))
    if index == len(tools):
        return tuple(tools), Turn(" ".join(_strewn(asked, rng)), (), REFUSAL)
    arguments: dict[str, object] = {}
    if argument := values.get(tools[index].name):
        arguments[argument.name], said = argument.draw(rng)
        asked.append(said)
    question = " ".join(_strewn(asked, rng))
    call = Call(tools[index].name, arguments, True, "ok")
    return tuple(tools), Turn(question, (call,), "OK, done.")


def _line(rng: Random) -> list[str]:
    return [
        words.invented(rng) if rng.random() < 0.15 else rng.choice(_WORDS)
        for _ in range(rng.randint(2, 4))
    ]


def _strewn(some: list[str], rng: Random) -> list[str]:
    """With words between that tell nothing."""
    found = []
    for word in some:
        if rng.random() < 0.4:
            found.append(rng.choice(_FILLERS))
        found.append(word)
    return found
