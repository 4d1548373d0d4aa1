"""The course of the default model: to call devices' tools, from nothing.

Everything follows from the seed: the vocabulary, the first weights, drills and lessons.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from edgellm.training import affinity, bpe_trainer
from edgellm.training.devices import lesson, rows
from edgellm.training.devices.device import CATALOGUED
from edgellm.training.devices.rows import LESSONS, Mix
from edgellm.training.evidence import Lexicon, Marks
from edgellm.training.prepared_weights import Prepared, llama, prepared_weights
from edgellm.training.prompt_form import CONTROL, MARK
from edgellm.training.schedule import Schedule

if TYPE_CHECKING:
    from edgellm.config import Config
    from edgellm.tokenizer import Tokenizer, TokenizerData
    from edgellm.training.batch import Batch

VOCABULARY = 4096
DIM, LAYERS, HEADS, KV_HEADS, HIDDEN = 192, 6, 6, 3, 512
CONTEXT = 1024
THETA = 1e8
"""Base of the rotary positions: most of their channels hardly turn within a prompt."""
REQUESTS, CHANNELS = 80_000, 20
"""Lessons from which the affinities of words are learnt, and of how many channels these are."""

SCHEDULE = Schedule(17000, 6e-4, warm_up=100, level=0.2824, floor=0.02)
MIXES = (
    (300, Mix(0.2, 0.25)),
    (6000, Mix(0.03, CATALOGUED, fewer=0.8)),
    (12000, Mix(0.08, CATALOGUED, fewer=0.8, varied=0.5, joint=0.12)),
    (None, LESSONS),
)
"""What is taught, up to which step."""
TIED_SHARE, TIED_AFTER = 0.4, 9300
"""The learning rate of what the rows of the head learn in common, in shares of the others', and
after how many steps it begins: without it, words that are hardly ever repeated never are."""
SHAPE = (4, 512)
"""Rows of a batch, tokens of a row."""


def vocabulary(seed: int, lessons: int = 10_000) -> TokenizerData:
    """A vocabulary for the lessons that `seed` gives."""
    rng, texts = Random(seed), []
    for _ in range(lessons):
        made = lesson(rng, 3)
        for piece in rows.pieces(made.tools, made.turns):
            text = piece.text
            for mark in (*CONTROL, MARK):
                text = text.replace(mark, "\n")
            texts.append(text)
    return bpe_trainer.train(texts, VOCABULARY, CONTROL, (MARK,), least=3)


def start(
    vocabulary: Tokenizer,
    size: int,
    seed: int,
    lessons: int = REQUESTS,
    steps: int = affinity.STEPS,
) -> tuple[Config, Prepared]:
    """The model before its training, for a vocabulary of a size."""
    config = llama(size, DIM, LAYERS, HEADS, KV_HEADS, HIDDEN, CONTEXT, THETA)
    places: dict[str, int] = {}
    said = [_word(vocabulary, token) for token in range(size)]
    words = [places.setdefault(word, len(places)) for word in said]
    asked = list(rows.requests(Random(seed), vocabulary, words, lessons))
    learnt = affinity.learn(asked, len(places), CHANNELS, seed, steps)
    first = [vocabulary.encode(text, parse_special=True)[0] for text in rows.MARKS]
    wanted, other = (vocabulary.encode(mark)[0] for mark in (rows.WANTED, rows.OTHER))
    named = [any(map(str.isalpha, word)) and not word.startswith("control ") for word in said]
    lexicon = Lexicon(words, named, [word == '"' for word in said])
    marks = Marks(*first)
    return config, prepared_weights(config, lexicon, learnt, marks, (wanted, other), seed)


def _word(vocabulary: Tokenizer, token: int) -> str:
    """As what a token begins: numbers come after a hash where tools are declared, and after the
    mark where they are called; texts after quotes, with or without a bar."""
    if not vocabulary.piece(token):
        return f"control {token}"
    said = rows.word(vocabulary, token)
    if said == MARK:
        return "#"
    return said if said.strip('"|') else '"'


def batch(seed: int, vocabulary: Tokenizer, step: int) -> Batch:
    """The batch of a step, the same whenever it is asked for."""
    mix = next(mix for end, mix in MIXES if end is None or step < end)
    return rows.batch(seed * 1_000_000 + step, vocabulary, *SHAPE, mix)
