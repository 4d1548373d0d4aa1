"""Heads that add up evidence do it before any training, and whatever else is learnt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from plain_evidence import evidence
from plain_layers import Weights, attention, feed_forward

from edgellm.training.affinity import Affinity
from edgellm.training.evidence import (
    ASKED,
    DECLARED,
    EVIDENCE,
    HIGH,
    LINE,
    MEANT,
    OPTION,
    QUOTED,
    SAID,
    SPOKEN_FOR,
    Head,
    Lexicon,
    Marks,
    channels,
)
from edgellm.training.prepared_weights import EMBEDDING, Prepared, llama, prepared_weights

Array = NDArray[np.float64]

THINGS, WORDS = 10, 60
"""Word 2n goes with word 2n + 1; those from 2 * THINGS on go with none."""
CONFIG = llama(2 * WORDS, 192, 4, 6, 3, 128, 256, 1e8)
PLACES = [token // 2 for token in range(CONFIG.vocab)]  # two tokens of each word
MARKS = Marks(begins=80, asks=82, declares=84, breaks=86)
EARLIER, ANSWERS, ENDS, HASH, NUMBER = 88, 90, 92, 94, 96
QUOTE = 114
LEXICON = Lexicon(
    PLACES,
    named=[token < MARKS.begins for token in range(CONFIG.vocab)],
    quotes=[token // 2 == QUOTE // 2 for token in range(CONFIG.vocab)],
)
FLAGS = (116, 118)
KINDS: tuple[set[int], ...] = (
    {ASKED, DECLARED, LINE, QUOTED},
    {EVIDENCE},
    {MEANT, SAID},
    set(),
)
"""What each layer writes of the channels that are kept."""


def made_up() -> Affinity:
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.standard_normal((THINGS, THINGS)))[0]
    vectors = np.zeros((WORDS, THINGS))
    vectors[: 2 * THINGS] = np.repeat(directions, 2, axis=0) * 12**0.5
    worth, null = rng.uniform(1, 3, WORDS), rng.uniform(5, 6, WORDS)
    worth[MARKS.begins // 2 :] = 1
    return Affinity(*(values.astype(np.float32) for values in (vectors, worth, null)))


AFFINITY = made_up()
OWN = channels(AFFINITY)
BEFORE = [asked * 4 for asked in (7, 8)]
QUESTION = [0, 50, 12, 4, 54]  # of things 0, 3 and 1, and two of none
LINES = [[2, 60, 30], [62, 34, 22, 64], [14, 7, 66], [36, 68, 15, 61], [63, QUOTE, 20, 10]]
"""Words of the first two go with those that were asked before, one of the last with one of the
second."""


@dataclass(frozen=True)
class Prompt:
    tokens: list[int]
    asks: int
    """Where the newest question begins, with its mark."""
    declares: int
    lines: list[slice]
    """Each from the break before it to its hash."""

    @classmethod
    def of(cls, before: Sequence[int], question: Sequence[int], lines: list[list[int]]) -> Prompt:
        begins, asks, declares, breaks = MARKS
        tokens: list[int] = []
        if before:
            tokens += [begins, EARLIER, breaks, *before, ENDS, breaks]
            tokens += [begins, ANSWERS, breaks, before[0], ENDS, breaks]
        asked = len(tokens) + 1
        tokens += [begins, asks, breaks, *question, ENDS, breaks, begins, declares]
        declared, places = len(tokens) - 1, []
        for number, line in enumerate(lines):
            places.append(slice(len(tokens), len(tokens) + len(line) + 2))
            tokens += [breaks, *line, HASH, NUMBER + number]
        tokens += [ENDS, breaks, begins, ANSWERS, breaks]
        return cls(tokens, asked, declared, places)


def streams(weights: Weights, tokens: list[int]) -> list[Array]:
    """The embeddings and what comes out of each layer, in deviations of embeddings."""
    x = weights["token_embd.weight"][tokens]
    found = [x]
    for layer in range(len(CONFIG.layers)):
        x = feed_forward(CONFIG, weights, attention(CONFIG, weights, x, layer)[1], layer)
        found.append(x)
    return [x / EMBEDDING for x in found]


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepared_weights(CONFIG, LEXICON, AFFINITY, MARKS, FLAGS, 3)


@pytest.fixture(scope="module")
def weights(prepared: Prepared) -> Weights:
    return {name: values.astype(np.float64) for name, values in prepared.weights.items()}


def wanted(prompt: Prompt, question: list[int]) -> Array:
    """The evidence of each token, of words that it finds in a question."""
    said = [PLACES[token] for token in question]
    return np.array([evidence(AFFINITY, said, PLACES[token]) for token in prompt.tokens])


def check(weights: Weights, question: list[int]) -> None:
    """Evidence and its means in the lines, after an earlier question."""
    prompt = Prompt.of(BEFORE, question, LINES)
    last, words = streams(weights, prompt.tokens)[-1], wanted(prompt, question)
    for place in prompt.lines:
        np.testing.assert_allclose(last[place, EVIDENCE], words[place], rtol=0.15, atol=0.12)
    check_meant(last, prompt)


def check_meant(last: Array, prompt: Prompt) -> None:
    """What a line's end notes is the mean evidence of its words, weighed unequally by how long
    their streams are."""
    found = last[[place.stop - 1 for place in prompt.lines], MEANT]
    means = np.array([last[place, EVIDENCE].mean() for place in prompt.lines]) * SPOKEN_FOR
    np.testing.assert_array_less(np.abs(np.log2((found + 0.15) / (means + 0.15))), 1.2)
    spoken_for = means > 0.8
    if spoken_for.any():
        assert found[spoken_for].min() > 2 * found[~spoken_for].max()


def check_which(last: Array, prompt: Prompt) -> None:
    """The words that find evidence are those that go with words of QUESTION."""
    goes = [PLACES[token] ^ 1 for token in QUESTION if token < 4 * THINGS]
    declared = range(prompt.lines[0].start, prompt.lines[-1].stop)
    evident = [at for at in declared if last[at, EVIDENCE] > 0.7]
    assert evident == [at for at in declared if PLACES[prompt.tokens[at]] in goes]
    assert len(evident) > 2


def test_parts_and_lines_are_noted(weights: Weights) -> None:
    prompt = Prompt.of(BEFORE, QUESTION, LINES)
    last = streams(weights, prompt.tokens)[-1]
    for channel, since in ((ASKED, prompt.asks), (DECLARED, prompt.declares)):
        np.testing.assert_allclose(last[:since, channel], 0, atol=0.05)
        np.testing.assert_allclose(last[since:, channel], HIGH, atol=0.05)
    first = [float(last[place.start, LINE]) for place in prompt.lines]
    assert all(after < before - 0.05 for before, after in itertools.pairwise(first))
    for place, noted in zip(prompt.lines, first, strict=True):
        np.testing.assert_allclose(last[place, LINE], noted, atol=0.005)


def test_words_find_those_of_the_newest_question_that_go_with_them(weights: Weights) -> None:
    prompt = Prompt.of(BEFORE, QUESTION, LINES)
    check(weights, QUESTION)
    check_which(streams(weights, prompt.tokens)[-1], prompt)


def test_declarations_are_read_in_the_light_of_each_question(weights: Weights) -> None:
    for question in ([36], [30, 52, 70], [55, 56]):
        check(weights, question)


def test_an_earlier_question_changes_nothing(weights: Weights) -> None:
    prompt = Prompt.of([], QUESTION, LINES)
    check_meant(streams(weights, prompt.tokens)[-1], prompt)


def test_lines_dont_count_for_each_other(weights: Weights) -> None:
    plain = Prompt.of([], QUESTION, LINES)
    before = streams(weights, plain.tokens)[-1]
    for changed in range(len(LINES)):
        other = [line.copy() for line in LINES]
        other[changed][1] = 2  # a word that goes with one of the question
        after = streams(weights, Prompt.of([], QUESTION, other).tokens)[-1]
        for index, place in enumerate(plain.lines):
            moved = (after - before)[place.stop - 1, MEANT]
            if index == changed:
                assert moved > 0.5
            else:
                assert abs(moved) < 0.2


def test_words_of_the_question_are_known_again(weights: Weights) -> None:
    """Other tokens of the same words, not words that go with them."""
    lines = [[51, 62, 3], [1, 55, 64], [2, 6]]
    prompt = Prompt.of([66, 64], QUESTION, lines)
    last = streams(weights, prompt.tokens)[-1]
    again = {PLACES[token] for token in QUESTION}
    for place in prompt.lines:
        for at in range(place.start + 1, place.stop - 1):
            said = PLACES[prompt.tokens[at]] in again
            assert last[at, SAID] == pytest.approx(HIGH if said else 0, abs=0.6)


def test_a_quote_finds_the_quoted_word_that_is_said(weights: Weights) -> None:
    lines = [[62, QUOTE, 64, QUOTE, 60], [30, QUOTE, 22, QUOTE, 51, QUOTE + 1, 66], [13, 55, 34]]
    prompt = Prompt.of(BEFORE, QUESTION, lines)
    option = Head.of(CONFIG, OPTION, 0)
    for end, found in ((QUOTE, 51), (QUOTE + 1, 51)):
        tokens = [*prompt.tokens, 70, end]
        x = streams(weights, tokens)[OPTION] * EMBEDDING
        for query in option.queries:
            shares = attention(CONFIG, weights, x, OPTION)[0][query.start // CONFIG.head_dim][-1]
            assert tokens[int(np.argmax(shares))] == found
            assert shares.max() > 0.8
    nothing = Prompt.of(BEFORE, [64, 22], [[62, QUOTE, 60], [30, QUOTE, 50]])
    x = streams(weights, [*nothing.tokens, QUOTE])[OPTION] * EMBEDDING
    shares = attention(CONFIG, weights, x, OPTION)[0][0][-1]
    assert sum(shares[at] for at, token in enumerate(nothing.tokens) if token == MARKS.begins) > 0.8


def test_nothing_else_writes_what_is_kept(weights: Weights) -> None:
    found = streams(weights, Prompt.of(BEFORE, QUESTION, LINES).tokens)
    for before, after, kinds in zip(found, found[1:], KINDS, strict=False):
        written = np.flatnonzero((before != after).any(axis=0))
        assert kinds == {int(channel) for channel in written if channel < OWN}
        assert len(written) == CONFIG.dim - OWN + len(kinds)


def test_embeddings_have_one_length(weights: Weights) -> None:
    lengths = (weights["token_embd.weight"] ** 2).mean(axis=1)
    np.testing.assert_allclose(lengths, EMBEDDING**2, rtol=1e-5)


def test_evidence_stays_whatever_else_is_learnt(prepared: Prepared, weights: Weights) -> None:
    rng = np.random.default_rng(7)
    changed = {}
    for name, values in weights.items():
        kept = prepared.kept.get(name, np.zeros(values.shape, bool))
        assert kept.shape == values.shape
        assert not kept.all() or name.endswith(("attn_q.weight", "attn_k.weight"))
        if kept.all():
            changed[name] = values
            continue
        noise = 0.3 * values[~kept].std() + (0.1 if values.ndim == 1 else 0)
        changed[name] = values + ~kept * noise * rng.standard_normal(values.shape)
    prompt = Prompt.of(BEFORE, QUESTION, LINES)
    before, after = (streams(some, prompt.tokens) for some in (weights, changed))
    assert np.abs(after[-1] - before[-1])[:, OWN:].mean() > 0.1
    np.testing.assert_array_equal(after[0][:, :OWN], before[0][:, :OWN])
    for some, more, kinds in zip(after, after[1:], KINDS, strict=False):
        written = np.flatnonzero((some != more)[:, :OWN].any(axis=0))
        assert kinds == set(written.tolist())
    check_which(after[-1], prompt)
