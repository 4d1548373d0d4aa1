"""The dialogues come from their seed alone, and what is held out never occurs in training."""

from __future__ import annotations

import itertools
import re
from random import Random

import numpy as np
import pytest

from edgellm import tokenizer
from edgellm.tokenizer import Tokenizer
from edgellm.training import bpe_trainer
from edgellm.training.batch import IGNORED
from edgellm.training.dialogues import actions, conversation, noise, phrases, things, values, words
from edgellm.training.dialogues.commands import UNSEEN_SET
from edgellm.training.dialogues.rows import encode, rows
from edgellm.training.prompt_form import CONTROL

UNSEEN_NOUNS = (
    *words.UNSEEN_SWITCHED, *words.UNSEEN_OPENED, *words.UNSEEN_STARTED, *words.UNSEEN_LOCKED,
    *words.UNSEEN_PLANTS, *words.UNSEEN_SETTABLE, *words.UNSEEN_PLACES,
)  # fmt: skip


@pytest.fixture(scope="module")
def talks() -> list[list[tuple[str, str]]]:
    rng = Random(3)
    return [conversation(rng, 2) for _ in range(4000)]


@pytest.fixture(scope="module")
def reader(talks: list[list[tuple[str, str]]]) -> Tokenizer:
    texts = (text for turns in talks[:500] for turn in turns for text in turn)
    return tokenizer.make(bpe_trainer.train(texts, 400, CONTROL))


def test_same_seed_same_talks() -> None:
    first, second = ([conversation(Random(5), 3) for _ in range(2)] for _ in range(2))
    assert first == second


def test_there_are_many_different_questions(talks: list[list[tuple[str, str]]]) -> None:
    questions = {question for turns in talks for question, _ in turns}
    assert len(questions) > 6000


def test_every_turn_has_a_question_and_an_answer(talks: list[list[tuple[str, str]]]) -> None:
    for question, answer in itertools.chain.from_iterable(talks):
        assert question.strip()
        assert re.fullmatch(r"[A-Z].*[.!?]", answer)
        assert "{" not in question + answer


def test_nothing_held_out_occurs_in_training(talks: list[list[tuple[str, str]]]) -> None:
    said = " ".join(f"{q} {a}" for turns in talks for q, a in turns).lower()
    for noun in UNSEEN_NOUNS:
        assert not re.search(rf"\b{re.escape(noun)}\b", said), noun


def test_seen_and_unseen_words_and_phrasings_are_apart() -> None:
    for seen, unseen in things.KINDS.values():
        assert not set(seen) & set(unseen)
    assert not set(words.PLACES) & set(words.UNSEEN_PLACES)
    assert not set(phrases.OFF_TOPIC) & set(phrases.UNSEEN_OFF_TOPIC)
    assert not set(phrases.CANNOT) & set(phrases.UNSEEN_CANNOT)
    for action in actions.ACTIONS.values():
        assert not set(action.asks) & set(action.unseen)
    for ways, unseen, _ in phrases.SMALL_TALK:
        assert not set(ways) & set(unseen)
    asked = {way for action in actions.ACTIONS.values() for way in action.asks}
    assert not asked & set(UNSEEN_SET)


def test_small_talk_has_one_answer_for_a_question() -> None:
    ways = [way for ways, unseen, _ in phrases.SMALL_TALK for way in (*ways, *unseen)]
    assert sorted(ways) == sorted(set(ways))


def test_held_out_talks_use_what_is_held_out() -> None:
    rng = Random(1)
    said = " ".join(q for _ in range(300) for q, _ in conversation(rng, 2, held_out=True)).lower()
    assert sum(noun in said for noun in UNSEEN_NOUNS) > len(UNSEEN_NOUNS) // 2


def test_actions_name_each_other() -> None:
    for name in actions.COMMON:
        assert name in actions.ACTIONS
    for action in actions.ACTIONS.values():
        assert action.opposite in {"", *actions.ACTIONS}
        assert action.kind in things.KINDS


def test_answers_repeat_the_thing(talks: list[list[tuple[str, str]]]) -> None:
    rng = Random(8)
    for _ in range(500):
        x = things.thing(rng, "switched", held_out=True)
        assert x.noun in x.answer
        assert x.state("on") in (f"{x.answer} is on", f"{x.answer} are on")


@pytest.mark.parametrize(
    ("noun", "plural"),
    [("lamp", False), ("blinds", True), ("drill press", False), ("gas", False), ("lights", True)],
)
def test_plurals(noun: str, plural: bool) -> None:
    assert things.is_plural(noun) is plural


def test_a_slip_changes_little() -> None:
    rng = Random(2)
    for word in ("kitchen", "garage door", "thermostat"):
        for _ in range(50):
            assert abs(len(noise.mistype(word, rng)) - len(word)) <= 1
    assert noise.mistype("tv", rng) == "tv"
    for _ in range(50):
        assert "{x}" in noise.mistype_around("switch {x} off please", rng)


@pytest.mark.parametrize("kind", sorted(set(words.SETTABLE.values())))
def test_values_hold_a_number_or_its_word(kind: str) -> None:
    rng = Random(4)
    for _ in range(100):
        assert re.search(r"\d|[a-z]{3}", values.value(rng, kind))


def test_rows_teach_the_answers_only(reader: Tokenizer) -> None:
    for tokens, targets, turns in itertools.islice(rows(0, reader, 120), 100):
        parts = encode(turns, reader)
        answers = [token for part in parts[1::2] for token in part]
        assert targets[targets != IGNORED].tolist() == answers
        learnt = np.flatnonzero(targets[:-1] != IGNORED)
        assert np.array_equal(tokens[learnt + 1], targets[learnt])


def test_rows_follow_from_their_seed(reader: Tokenizer) -> None:
    first, second = (
        [tokens.tolist() for tokens, _, _ in itertools.islice(rows(6, reader, 90), 20)]
        for _ in range(2)
    )
    other = [tokens.tolist() for tokens, _, _ in itertools.islice(rows(7, reader, 90), 20)]
    assert first == second != other


def test_an_encoded_turn_reads_as_its_template(reader: Tokenizer) -> None:
    parts = encode([("hi", "Hello!"), ("lamp on", "OK, the lamp is on.")], reader, "Be brief.")
    assert "".join(reader.decode(part) for part in parts) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nlamp on<|im_end|>\n"
        "<|im_start|>assistant\nOK, the lamp is on.<|im_end|>"
    )
