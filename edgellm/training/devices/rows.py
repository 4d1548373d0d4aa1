"""Lessons as rows of tokens: several to a row, none of which sees another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np

from edgellm.tokenizer import Tokenizer
from edgellm.tools.call_form import result_text
from edgellm.tools.tool import Tool
from edgellm.training.batch import IGNORED, Batch
from edgellm.training.devices.lesson import Turn, lesson
from edgellm.training.dialogues import conversation
from edgellm.training.prompt_form import CONTROL, MARK

END, BEGIN = CONTROL
TALKS = 0.12
"""The share of samples without a device."""

LEFT_OVER = 6
"""A batch is full when so many samples didn't fit any row."""

Pieces = list[tuple[str, bool]]
"""Texts, and whether each is to be learnt."""


def line(tool: Tool) -> str:
    """A tool as `prompt_form.TEMPLATE` declares it."""
    properties = tool.parameters.get("properties", {})
    required = tool.parameters.get("required", [])
    listed = ", ".join(
        f"{name}{'' if name in required else '?'}: {_values(of)}" for name, of in properties.items()
    )
    return f"{tool.description}: {tool.name}({listed})"


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


def pieces(tools: Sequence[Tool], turns: Sequence[Turn]) -> Pieces:
    """A conversation as text. Of its newest turn the answers are learnt: an answer in words up to
    its end, a call without it, since a grammar ends it."""
    found: Pieces = []
    before = ""
    for turn in turns:
        newest = turn is turns[-1]
        before += f"{BEGIN}user\n{turn.question}{END}\n"
        if tools and newest:
            listed = "".join(f"\n{line(tool)}" for tool in tools)
            before += f"{BEGIN}tools{listed}{END}\n"
        before += f"{BEGIN}assistant\n"
        for call in turn.calls:
            found += [(before, False), (f"{MARK} {call.name} {_json(call.arguments)}", newest)]
            result = result_text(call.ok, call.result)
            before = f"{END}\n{BEGIN}tool\n{result}{END}\n{BEGIN}assistant\n"
        found += [(before, False), (f"{turn.answer}{END}", newest)]
        before = "\n"
    return found


def encoded(found: Pieces, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Tokens, and whether each is to be learnt."""
    ids: list[int] = []
    learnt: list[bool] = []
    for text, wanted in found:
        some = tokenizer.encode(text, parse_special=True)
        ids += some
        learnt += [wanted] * len(some)
    return ids, learnt


def samples(
    rng: Random, tokenizer: Tokenizer, length: int, easy: bool
) -> Iterator[tuple[list[int], list[bool]]]:
    """Endless samples of at most `length` tokens and one: turns of lessons, each with none to three
    of those before it, and talks without a device."""
    while True:
        found: list[Pieces] = []
        if rng.random() < TALKS:
            talk = conversation(rng, rng.randint(1, 2))
            told = [Turn(question, (), answer) for question, answer in talk]
            found = [[(text, n % 2 == 1) for n, (text, _) in enumerate(pieces((), told))]]
        else:
            made = lesson(rng, 4, most=3 if easy else 7)
            for index, turn in enumerate(made.turns):
                before = rng.choice((1, 1, 2, 3)) if turn.refers else rng.choice((0, 0, 0, 0, 1, 2))
                found.append(pieces(made.tools, made.turns[max(0, index - before) : index + 1]))
        for some in found:
            ids, learnt = encoded(some, tokenizer)
            if len(ids) <= length + 1:
                yield ids, [True] * len(ids) if easy else learnt


def batch(seed: int, tokenizer: Tokenizer, rows: int, length: int, easy: bool = False) -> Batch:
    """A batch that follows from the seed: rows filled with whole samples.

    Easy ones have few tools, and all of their tokens are learnt: that a description says a name's
    words again, and a question a description's, is what a model learns first to match them by.
    """
    drawn = samples(Random(seed), tokenizer, length, easy)
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
        targets[row, place] = np.where(learnt[1:], ids[1:], IGNORED)
        first[row, place] = used[row]
        used[row] += count
    for row in range(rows):
        first[row, used[row] :] = used[row]
    return Batch(tokens, targets, first)
