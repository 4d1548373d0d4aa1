"""The second course of the default model: what the first one has taught, and devices' tools.

It begins with the first one's model, made larger; everything else follows from the seed.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from edgellm.training import bpe_trainer
from edgellm.training.devices import lesson, rows
from edgellm.training.prompt_form import CONTROL, MARK
from edgellm.training.schedule import Restart, Schedule

if TYPE_CHECKING:
    from edgellm.tokenizer import Tokenizer, TokenizerData
    from edgellm.training.batch import Batch

VOCABULARY = 2048
PLACES = (0, 1, -1, 2, -1, 3)
"""Its layers: those of the first course, and new ones (-1)."""
CONTEXT = 1024

SCHEDULE = Restart(
    Schedule(4000, 2.5e-3, warm_up=100, level=0.55, floor=0.02),
    3135,
    Schedule(1700, 1.35e-3, level=0.35, floor=0.02),
)
"""Which tool is meant is learnt only once the rate has fallen, to about half of its peak."""
EASY = 300
"""Of the steps, those at the beginning that are easy (`rows.batch`)."""
SHAPE = (3, 512)
"""Rows of a batch, tokens of a row."""


def vocabulary(base: TokenizerData, seed: int, lessons: int = 6000) -> TokenizerData:
    """The first course's vocabulary with more pieces, for the lessons that `seed` gives."""
    rng, texts = Random(seed), []
    for _ in range(lessons):
        made = lesson(rng, 3)
        for text, _ in rows.pieces(made.tools, made.turns):
            for mark in (*CONTROL, MARK):
                text = text.replace(mark, "\n")
            texts.append(text)
    return bpe_trainer.extend(base, texts, VOCABULARY, (MARK,), least=3)


def batch(seed: int, vocabulary: Tokenizer, step: int) -> Batch:
    """The batch of a step, the same whenever it is asked for."""
    return rows.batch(seed * 1_000_000 + step, vocabulary, *SHAPE, easy=step < EASY)
