"""Lessons as rows of tokens: several to a row, none of which sees another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import numpy as np

from edgellm.tokenizer import Tokenizer
from edgellm.tools.call_form import result_text
from edgellm.tools.tool import Tool
from edgellm.training.affinity import Request
from edgellm.training.batch import IGNORED, Batch
from edgellm.training.devices.device import CATALOGUED
from edgellm.training.devices.drill import drill
from edgellm.training.devices.lesson import Turn, lesson, toolless
from edgellm.training.devices.scenes import LISTS, talk
from edgellm.training.prompt_form import CONTROL, MARK

END, BEGIN = CONTROL
NEWEST, EARLIER, DECLARED = "user", "earlier", "tools"
"""Whose message it is: of the newest question, of those before it, of what tools there are."""
TOOLLESS = 0.12
"""The share of samples without a device's tools; half of them end with small talk."""

OTHERS = 0.2
"""How often a tool that isn't meant stays where few are shown."""

LEFT_OVER = 6
"""A batch is full when so many samples didn't fit any row."""

WANTED, LACKING, OTHER = "\x06", "\x05", "\x15"
"""What is learnt in place of a tool's number where it is declared: whether it is to be called,
would be if nothing were missing, or neither. Which one it is would take long to find out from the
calls alone. Nothing ever writes these bytes."""
BREAK = "\t"
"""Before each line of a declaration, and nowhere else: lines are counted by it."""
MARKS = (BEGIN, NEWEST, DECLARED, BREAK)
"""What tells a prompt's parts: see `evidence.Marks`."""


@dataclass(frozen=True)
class Mix:
    """What samples are of."""

    drills: float
    """A share."""
    catalogued: float
    """Of the lessons' devices, the share that is of the catalogue."""
    fewer: float = 0.0
    """Of the lessons' samples, the share that shows few tools besides those that are meant: short
    ones, from which arguments are learnt sooner."""
    varied: float = 0.0
    """Of the lessons' devices, the share that is in other words: see `variation`."""
    joint: float = 0.0
    """How often two commands are asked for, besides those of any lesson."""


LESSONS = Mix(0.03, CATALOGUED, varied=0.4, joint=0.08)


class Piece(NamedTuple):
    """A part of a conversation's text."""

    text: str
    learnt: bool | str = False
    """Whether it is to be learnt, or what in its place."""


def shown(question: str) -> str:
    """A question as `prompt_form.TEMPLATE` shows it: nobody means anything by capitals alone."""
    return question.lower() if question == question.upper() else question


def line(tool: Tool) -> str:
    """A tool as `prompt_form.TEMPLATE` declares it, up to its number."""
    properties = tool.parameters.get("properties", {})
    required = tool.parameters.get("required", [])
    listed = ", ".join(
        f"{name}{'' if name in required else '?'}: {_values(of)}" for name, of in properties.items()
    )
    said = tool.name.replace("_", " ")
    if tool.description:
        said += f": {tool.description}"
    return f"{said} ({listed}) #" if listed else f"{said} #"


def _values(of: Mapping[str, Any]) -> str:
    if "enum" in of:
        text = "|".join(map(_json, of["enum"]))
    elif "minimum" in of and "maximum" in of:
        text = f"{of['minimum']}..{of['maximum']}"
    else:
        kinds = {"boolean": "true|false", "string": "text", "integer": "number", "number": "number"}
        text = kinds[of["type"]]
    shown = of.get("unit") or of.get("description")
    return f"{text} {shown}" if shown else text


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def pieces(tools: Sequence[Tool], turns: Sequence[Turn]) -> list[Piece]:
    """A conversation as text. Of its newest turn the answers are learnt: an answer in words up to
    its end, a call without it, since a grammar ends it."""
    found: list[Piece] = []
    before = ""
    names = [tool.name for tool in tools]
    for turn in turns:
        newest = turn is turns[-1]
        found += [
            Piece(f"{before}{BEGIN}{NEWEST if newest else EARLIER}\n"),
            Piece(shown(turn.question)),
        ]
        before = f"{END}\n"
        if tools and newest:
            found.append(Piece(f"{before}{BEGIN}{DECLARED}{BREAK}"))
            for number, tool in enumerate(tools, 1):
                after = END if number == len(tools) else BREAK
                found.append(Piece(line(tool)))
                found.append(Piece(f"{number}{after}", _worth(tool, turn)))
            before = "\n"
        before += f"{BEGIN}assistant\n"
        for call in turn.calls:
            called = f"{MARK}{names.index(call.name) + 1} {_json(call.arguments)}"
            found += [Piece(before), Piece(called, newest)]
            result = result_text(call.ok, call.result)
            before = f"{END}\n{BEGIN}tool\n{result}{END}\n{BEGIN}assistant\n"
        found += [Piece(before), Piece(f"{turn.answer}{END}", newest)]
        before = "\n"
    return found


def _worth(tool: Tool, turn: Turn) -> str:
    if any(call.name == tool.name for call in turn.calls):
        return WANTED
    return LACKING if tool.name == turn.lacking else OTHER


def encoded(found: Sequence[Piece], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Tokens, and what is to be learnt in the place of each."""
    ids: list[int] = []
    learnt: list[int] = []
    for piece in found:
        some = tokenizer.encode(piece.text, parse_special=True)
        if isinstance(piece.learnt, str):
            (mark,) = tokenizer.encode(piece.learnt)
            learnt += [mark] * len(some)
        else:
            learnt += some if piece.learnt else [IGNORED] * len(some)
        ids += some
    return ids, learnt


def word(tokenizer: Tokenizer, token: int) -> str:
    """What a token says, wherever it stands."""
    return tokenizer.piece(token).decode(errors="replace").strip(" _").lower() or str(token)


def requests(
    rng: Random, tokenizer: Tokenizer, words: Sequence[int], lessons: int
) -> Iterator[Request]:
    """What so many lessons ask that can be understood alone, and which tools are meant; `words`
    has the word of each token."""
    for _ in range(lessons):
        made = lesson(rng, 4)
        lines = [[words[token] for token in tokenizer.encode(line(tool))] for tool in made.tools]
        for turn in made.turns:
            if not turn.refers:
                said = [words[token] for token in tokenizer.encode(shown(turn.question))]
                meant = (_worth(tool, turn) != OTHER for tool in made.tools)
                yield Request(said, lines, frozenset(i for i, is_it in enumerate(meant) if is_it))


def fewer(tools: Sequence[Tool], turns: Sequence[Turn], rng: Random) -> list[Tool]:
    """The tools that some turns mean, and now and then others; all where an answer lists them."""
    if any(turn.answer.startswith(LISTS) for turn in turns):
        return list(tools)
    used = {call.name for turn in turns for call in turn.calls} | {turn.lacking for turn in turns}
    kept = [tool for tool in tools if tool.name in used or rng.random() < OTHERS]
    return kept or [rng.choice(tools)]


def samples(
    rng: Random, tokenizer: Tokenizer, length: int, mix: Mix
) -> Iterator[tuple[list[int], list[int]]]:
    """Endless samples of at most `length` tokens and one: drills, and turns of lessons, each with
    none to three of those before it, now and then without the tools."""
    while True:
        found: list[Sequence[Piece]] = []
        if rng.random() < mix.drills:
            tools, turn = drill(rng)
            found.append(pieces(tools, [turn]))
        elif rng.random() < TOOLLESS:
            made = lesson(rng, 1)
            if rng.random() < 0.5:
                talk(made)
            found.append(pieces((), toolless(made.turns)[-2:]))
        else:
            made = lesson(rng, 4, catalogued=mix.catalogued, varied=mix.varied, joint=mix.joint)
            for index, turn in enumerate(made.turns):
                before = rng.choice((1, 1, 2, 3)) if turn.refers else rng.choice((0, 0, 0, 0, 1, 2))
                turns = made.turns[max(0, index - before) : index + 1]
                few = mix.fewer and rng.random() < mix.fewer
                found.append(pieces(fewer(made.tools, turns, rng) if few else made.tools, turns))
        for some in found:
            ids, learnt = encoded(some, tokenizer)
            if len(ids) <= length + 1:
                yield ids, learnt


def batch(seed: int, tokenizer: Tokenizer, rows: int, length: int, mix: Mix = LESSONS) -> Batch:
    """A batch that follows from the seed: rows filled with whole samples."""
    drawn = samples(Random(seed), tokenizer, length, mix)
    tokens = np.zeros((rows, length), np.int32)
    targets = np.full((rows, length), IGNORED, np.int32)
    first = np.zeros((rows, length), np.int32)
    used, left_over = [0] * rows, 0
    while left_over < LEFT_OVER:
        ids, learnt = next(drawn)
        count = len(ids) - 1
        row = next((row for row in range(rows) if used[row] + count <= length), None)
        if row is None:
            left_over += 1
            continue
        place = slice(used[row], used[row] + count)
        tokens[row, place] = ids[:-1]
        targets[row, place] = learnt[1:]
        first[row, place] = used[row]
        used[row] += count
    for row in range(rows):
        first[row, used[row] :] = used[row]
    return Batch(tokens, targets, first)
