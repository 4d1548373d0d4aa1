"""Lessons come from their seed alone, their calls are valid, and what is held out never occurs."""

from __future__ import annotations

import json
import re
from random import Random

import numpy as np
import pytest

from edgellm import tokenizer
from edgellm.chat import Chat
from edgellm.session import Called, Message
from edgellm.tokenizer import Tokenizer
from edgellm.tools import call_form
from edgellm.tools.call_form import NUMBERED, result_text
from edgellm.training import bpe_trainer
from edgellm.training.batch import IGNORED
from edgellm.training.devices import (
    Held,
    Lesson,
    lesson,
    numbers,
    rows,
    sensing,
    toolless,
    words,
)
from edgellm.training.devices.device import MACHINES, UNSEEN_MACHINES
from edgellm.training.devices.drill import drill
from edgellm.training.devices.scenes import LISTS, NO_TOOLS, REFUSAL
from edgellm.training.prompt_form import CONTROL, MARK, TEMPLATE

SEEN = 700


@pytest.fixture(scope="module")
def lessons() -> list[Lesson]:
    rng = Random(4)
    return [lesson(rng, 3, catalogued=0.0) for _ in range(SEEN)]


@pytest.fixture(scope="module")
def reader(lessons: list[Lesson]) -> Tokenizer:
    texts = (text for made in lessons[:150] for text, *_ in rows.pieces(made.tools, made.turns))
    return tokenizer.make(bpe_trainer.train(texts, 501, CONTROL, [MARK]))


def test_same_seed_same_lesson() -> None:
    for held in (Held(), Held(phrasings=True), Held(devices=True)):
        first, second = (lesson(Random(5), 4, held) for _ in range(2))
        assert (first.tools, first.turns) == (second.tools, second.turns)


@pytest.mark.parametrize("catalogued", [0.0, 1.0])
@pytest.mark.parametrize("held", [Held(), Held(phrasings=True), Held(devices=True)])
def test_every_call_is_valid_by_its_tool(held: Held, catalogued: float) -> None:
    rng = Random(6)
    for _ in range(300):
        made = lesson(rng, 3, held, catalogued)
        tools = {tool.name: tool for tool in made.tools}
        assert len(tools) == len(made.tools)
        for turn in made.turns:
            assert turn.question.strip()
            assert turn.answer.strip()
            assert not re.search(r"\{[a-z]\}", turn.question + turn.answer)
            for call in turn.calls:
                tool = tools[call.name]
                assert tool.schema.mismatch(call.arguments) is None
                given = [name for name in tool.schema.properties if name in call.arguments]
                assert list(call.arguments) == given  # as the grammar has them


def test_lessons_are_many_and_of_all_kinds(lessons: list[Lesson]) -> None:
    turns = [turn for made in lessons for turn in made.turns]
    assert len({turn.question for turn in turns}) > 0.9 * len(turns)
    assert len({tool.line() for made in lessons for tool in made.tools}) > 2 * len(lessons)
    kinds = {
        "asks": sum(turn.answer.startswith(("Which ", "How many ")) for turn in turns),
        "declines": sum(turn.answer == REFUSAL for turn in turns),
        "range": sum(turn.answer.startswith("It must be from ") for turn in turns),
        "two": sum(len(turn.calls) == 2 for turn in turns),
        "reads": sum(turn.answer.startswith("The ") for turn in turns),
        "fails": sum(turn.answer.startswith("That failed: ") for turn in turns),
    }
    assert min(kinds.values()) > 0.01 * len(turns), kinds
    assert sum(bool(turn.calls) for turn in turns) > 0.5 * len(turns)


def test_nothing_held_out_occurs_in_training(lessons: list[Lesson]) -> None:
    known = {*MACHINES, *words.NOUNS, *words.PLACES, *words.ADJECTIVES}
    known |= {*words.SWITCHED, *words.OPENED, *words.STARTED, *words.PLANTS}
    assert not known & set(UNSEEN_MACHINES)
    said = " ".join(turn.question for made in lessons for turn in made.turns).lower()
    declared = " ".join(tool.line() for made in lessons for tool in made.tools)
    for unseen in (*UNSEEN_MACHINES, *sensing.UNSEEN_SENSES):
        assert not re.search(rf"\b{unseen}\b", said), unseen
    for measure in numbers.UNSEEN_MEASURES.values():
        assert not re.search(rf"\b{measure.names[0]}\b", declared)


def test_no_way_of_asking_is_both_learnt_and_held_out(lessons: list[Lesson]) -> None:
    for made in lessons:
        for ability in made.device.abilities:
            for use in ability.uses:
                assert not set(use.asks) & set(use.unseen)
                assert use.unseen


def test_numbers_are_said_as_they_are_meant() -> None:
    rng = Random(1)
    assert numbers.in_words(17, rng) == "seventeen"
    assert re.fullmatch("forty[ -]two", numbers.in_words(42, rng))
    assert re.fullmatch("(a|one) hundred( and)? five", numbers.in_words(105, rng))
    drawn = {numbers.draw(numbers.MEASURES["seconds"], 1, 600, rng) for _ in range(2000)}
    assert (60, "a minute") in drawn
    assert (300, "five minutes") in drawn
    for value, said in drawn:
        assert 0 < value <= 600
        if said.endswith(" seconds") and said.split()[0].isdigit():
            assert str(value) == said.split()[0]


def test_lessons_are_learnt_as_the_template_writes_them(lessons: list[Lesson]) -> None:
    chat = Chat(TEMPLATE)
    assert call_form.choose(chat.render, TEMPLATE) == NUMBERED
    for made in lessons[:60]:
        messages: list[Message] = []
        for turn in made.turns:
            messages.append(Message(role="user", content=turn.question))
            for call in turn.calls:
                called = Called(number=1, name=call.name, arguments=dict(call.arguments))
                messages.append(Message(role="assistant", content="", call=called))
                result = result_text(call.ok, call.result)
                messages.append(Message(role="tool", content=result, call=called))
            messages.append(Message(role="assistant", content=turn.answer))
        learnt = "".join(text for text, *_ in rows.pieces(made.tools, made.turns))
        prompt = NUMBERED.prompt(chat.render, messages, made.tools, str)
        assert prompt == f"{learnt}\n<|im_start|>assistant\n"


def test_without_tools_too_lessons_are_learnt_as_the_template_writes_them(
    lessons: list[Lesson],
) -> None:
    chat = Chat(TEMPLATE)
    for made in lessons[:60]:
        turns = toolless(made.turns)
        messages = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in (("user", turn.question), ("assistant", turn.answer))
        ]
        learnt = "".join(piece.text for piece in rows.pieces((), turns))
        assert chat.render(messages) == f"{learnt}\n<|im_start|>assistant\n"


def test_the_template_takes_whatever_a_tool_may_declare() -> None:
    schema = {
        "type": "object",
        "properties": {
            "list": {"type": "array", "items": {"type": "integer"}},
            "level": {"enum": [1, 2.5, True, None, "high"]},
            "free": {"type": "number", "minimum": 0},
        },
    }
    function = {"name": "f", "description": "", "parameters": schema}
    messages = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
    prompt = Chat(TEMPLATE).render(messages, tools=[{"type": "function", "function": function}])
    lists = json.dumps(schema["properties"]["list"])  # type: ignore[index]
    wanted = f'f (list?: {lists}, level?: 1|2.5|true|null|"high", free?: number) #1'
    end = f"user\na<|im_end|>\n<|im_start|>tools\t{wanted}<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.endswith(end)
    assert prompt.count("<|im_start|>tools") == 1


def test_batches_hold_whole_samples_that_begin_where_they_say(reader: Tokenizer) -> None:
    batch = rows.batch(3, reader, 4, 600)
    again = rows.batch(3, reader, 4, 600)
    assert np.array_equal(batch.tokens, again.tokens)
    assert not np.array_equal(batch.tokens, rows.batch(4, reader, 4, 600).tokens)
    begin = reader.encode(CONTROL[1], parse_special=True)
    assert (batch.tokens == 0).mean() < 0.3  # ends, and what is left over
    worths = {reader.encode(worth)[0] for worth in (rows.WANTED, rows.LACKING, rows.OTHER)}
    for tokens, targets, first in zip(batch.tokens, batch.targets, batch.first, strict=True):
        used = int(np.flatnonzero(targets != IGNORED)[-1]) + 1
        assert len(np.unique(first)) > 1
        for start in np.unique(first[:used]):
            assert tokens[start] == begin[0]
        learnt = np.flatnonzero(targets[:-1] != IGNORED)
        inside = learnt[first[learnt + 1] == first[learnt]]  # a sample's last token is only wanted
        inside = inside[~np.isin(targets[inside], list(worths))]
        assert np.array_equal(targets[inside], tokens[inside + 1])
    wanted = batch.targets.flatten().tolist()
    text = reader.decode([token for token in wanted if token != IGNORED])
    assert MARK in text
    assert "user" not in text


def test_a_tool_s_number_is_learnt_as_what_it_is_worth() -> None:
    rng = Random(9)
    kinds = set()
    for _ in range(200):
        made = lesson(rng, 1)
        turn = made.turns[-1]
        worths = [
            (piece.text.strip().removesuffix(CONTROL[0]), piece.learnt)
            for piece in rows.pieces(made.tools, [turn])
            if isinstance(piece.learnt, str)
        ]
        called = {call.name for call in turn.calls}
        for number, tool in enumerate(made.tools, 1):
            shown, worth = worths[number - 1]
            assert shown == str(number)
            assert (worth == rows.WANTED) == (tool.name in called)
            assert (worth == rows.LACKING) == (tool.name == turn.lacking)
            kinds.add(worth)
    assert kinds == {rows.WANTED, rows.LACKING, rows.OTHER}


def test_requests_are_questions_that_stand_alone_and_the_tools_they_mean(
    reader: Tokenizer,
) -> None:
    words = [2 * token for token in range(reader.size)]
    found = list(rows.requests(Random(7), reader, words, 150))
    rng, wanted, kinds = Random(7), [], set()
    for made in [lesson(rng, 4) for _ in range(150)]:
        lines = [reader.encode(rows.line(tool)) for tool in made.tools]
        for turn in made.turns:
            kinds.add((turn.refers, len(turn.calls), bool(turn.lacking)))
            if turn.refers:
                continue
            meant = {call.name for call in turn.calls} | {turn.lacking}
            right = {index for index, tool in enumerate(made.tools) if tool.name in meant}
            wanted.append((reader.encode(rows.shown(turn.question)), lines, right))
    assert {(False, 0, True), (False, 1, False), (False, 2, False), (True, 1, False)} <= kinds
    assert len(found) == len(wanted)
    for request, (said, lines, right) in zip(found, wanted, strict=True):
        assert list(request.said) == [2 * token for token in said]
        assert [list(one) for one in request.choices] == [[2 * t for t in one] for one in lines]
        assert request.meant == right


def test_a_word_is_the_same_wherever_it_stands(reader: Tokenizer) -> None:
    pieces = [reader.piece(token).decode(errors="replace") for token in range(reader.size)]
    told = {piece: rows.word(reader, token) for token, piece in enumerate(pieces)}
    spaced = [piece for piece in told if piece[1:].isalpha() and piece[0] == " "]
    known = [piece for piece in spaced if piece[1:] in told]
    assert len(known) > 10
    for piece in known:
        assert told[piece] == told[piece[1:]] == piece[1:].lower()
    assert all(told.values())


def test_the_newest_question_is_told_from_earlier_ones(lessons: list[Lesson]) -> None:
    marks = 0
    for made in lessons[:60]:
        text = "".join(piece.text for piece in rows.pieces(made.tools, made.turns))
        asked = re.findall(rf"{re.escape(CONTROL[1])}(user|earlier|tools)[\n\t]", text)
        assert asked == [rows.EARLIER] * (len(made.turns) - 1) + [rows.NEWEST, rows.DECLARED]
        marks += len(asked)
    assert marks > 200


def test_few_tools_are_those_that_are_meant_and_some_others(lessons: list[Lesson]) -> None:
    shown = declared = 0
    for made in lessons:
        for turn in made.turns:
            few = rows.fewer(made.tools, [turn], Random(1))
            assert few
            assert [tool for tool in made.tools if tool in few] == few
            meant = {call.name for call in turn.calls} | {turn.lacking} - {""}
            assert meant <= {tool.name for tool in few}
            if turn.answer.startswith(LISTS):
                assert len(few) == len(made.tools)
            shown += len(few)
            declared += len(made.tools)
    assert shown < 0.7 * declared


def test_a_drill_names_the_line_that_the_question_says() -> None:
    rng = Random(3)
    refused = 0
    for _ in range(200):
        tools, turn = drill(rng)
        assert len({tool.name for tool in tools}) == len(tools)
        refused += not turn.calls
        for call in turn.calls:
            (tool,) = (tool for tool in tools if tool.name == call.name)
            assert set(turn.question.split()) & set(tool.description.split())
            assert tool.schema.mismatch(call.arguments) is None
    assert 20 < refused < 100


def test_without_tools_nothing_is_called() -> None:
    rng = Random(8)
    answers = set()
    for _ in range(300):
        made = lesson(rng, 1)
        for turn, plain in zip(made.turns, toolless(made.turns), strict=True):
            assert not plain.calls
            assert plain.question == turn.question
            answers.add(plain.answer)
    assert REFUSAL in answers
    assert NO_TOOLS in answers
    assert not any(answer.startswith(LISTS) for answer in answers)
