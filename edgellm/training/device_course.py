"""The course of the default model: to call devices' tools, from nothing.

Everything follows from the seed: the vocabulary, the first weights, drills and lessons.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from edgellm.training import bpe_trainer, initial_weights
from edgellm.training.devices import lesson, rows
from edgellm.training.devices.device import CATALOGUED
from edgellm.training.devices.rows import LESSONS, Mix
from edgellm.training.prepared_weights import prepared_weights
from edgellm.training.prompt_form import CONTROL, MARK
from edgellm.training.schedule import Schedule

if TYPE_CHECKING:
    from edgellm.config import Config
    from edgellm.tokenizer import Tokenizer, TokenizerData
    from edgellm.training.batch import Batch
    from edgellm.training.initial_weights import Weights

VOCABULARY = 3072
DIM, LAYERS, HEADS, KV_HEADS, HIDDEN = 192, 6, 6, 3, 512
CONTEXT = 1024
THETA = 100_000.0
"""Base of the rotary positions: many of their channels hardly turn within a prompt."""

SCHEDULE = Schedule(2800, 6e-4, warm_up=100, level=0.5, floor=0.02)
MIXES = (
    (400, Mix(1.0, 0.0, said=True)),
    (900, Mix(0.4, 0.1, said=True)),
    (1800, Mix(0.1, CATALOGUED, said=True)),
    (None, LESSONS),
)
"""What is taught, up to which step."""
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
    trained = bpe_trainer.train(texts, VOCABULARY - 1, CONTROL, least=3)
    return bpe_trainer.extend(trained, [], VOCABULARY, (MARK,))


def start(vocabulary: Tokenizer, size: int, seed: int) -> tuple[Config, Weights]:
    """The model before its training, for a vocabulary of a size."""
    config = initial_weights.llama(size, DIM, LAYERS, HEADS, KV_HEADS, HIDDEN, CONTEXT, THETA)
    words = [_word(vocabulary, token) for token in range(size)]
    wanted, other = (vocabulary.encode(mark)[0] for mark in (rows.WANTED, rows.OTHER))
    return config, prepared_weights(config, words, (wanted, other), seed)


def _word(vocabulary: Tokenizer, token: int) -> str:
    """As what a token begins: numbers come after a hash where tools are declared, and after the
    mark where they are called."""
    said = rows.word(vocabulary, token)
    return "#" if said == MARK else said


def batch(seed: int, vocabulary: Tokenizer, step: int) -> Batch:
    """The batch of a step, the same whenever it is asked for."""
    mix = next(mix for end, mix in MIXES if end is None or step < end)
    return rows.batch(seed * 1_000_000 + step, vocabulary, *SHAPE, mix)
