"""The first course of the default model: conversations without a device, from nothing.

Everything follows from the seed: the vocabulary, the first weights, the dialogues and their order.
"""

from __future__ import annotations

import itertools
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from edgellm.training import bpe_trainer, initial_weights
from edgellm.training.batch import plain
from edgellm.training.dialogues import conversation
from edgellm.training.dialogues.rows import rows
from edgellm.training.prompt_form import CONTROL
from edgellm.training.schedule import Schedule

if TYPE_CHECKING:
    from edgellm.config import Config
    from edgellm.tokenizer import Tokenizer, TokenizerData
    from edgellm.training.batch import Batch
    from edgellm.training.initial_weights import Weights

VOCABULARY = 1024
DIM, LAYERS, HEADS, KV_HEADS, HIDDEN = 128, 4, 4, 2, 384
CONTEXT = 512

SCHEDULE = Schedule(5400, 3e-3, warm_up=200, level=0.6, floor=0.02)
SHAPES = (*[(24, 96)] * 9, *[(8, 256)] * 2, (4, 512))
"""(rows, tokens a row) of the batches, in turn: mostly short, so that first turns count."""


def vocabulary(seed: int, talks: int = 15000) -> TokenizerData:
    """A vocabulary for the dialogues that `seed` gives."""
    rng = Random(seed)
    texts: list[str] = []
    for _ in range(talks):
        for question, answer in conversation(rng, 1):
            texts += [f"user\n{question}", f"assistant\n{answer}"]
    return bpe_trainer.train(texts, VOCABULARY, CONTROL, least=3)


def start(seed: int) -> tuple[Config, Weights]:
    """The model before its training."""
    config = initial_weights.llama(VOCABULARY, DIM, LAYERS, HEADS, KV_HEADS, HIDDEN, CONTEXT)
    return config, initial_weights.initial_weights(config, seed)


def batch(seed: int, vocabulary: Tokenizer, step: int) -> Batch:
    """The batch of a step, the same whenever it is asked for."""
    count, length = SHAPES[step % len(SHAPES)]
    drawn = itertools.islice(rows(seed + 1000 * (step + 1), vocabulary, length), count)
    tokens, targets, _ = zip(*drawn, strict=True)
    return plain(np.stack(tokens), np.stack(targets))
