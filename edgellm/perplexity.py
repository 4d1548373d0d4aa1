"""Perplexity: how surprised a model is by a text, measured as llama.cpp's `perplexity` does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgellm import tokenizer
from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.executor import Progress
    from edgellm.runtime import Model
    from edgellm.tokenizer import Tokenizer

WINDOW = 512
"""Tokens that are looked at together, where the model has room for them."""
LEAST = 4
"""Tokens of a text, at least."""


@dataclass(frozen=True)
class Perplexity:
    """e to the mean surprise of the tokens that were counted, in nats."""

    value: float
    error: float
    """The standard error of the mean, carried over."""
    tokens: int
    """How many were counted."""
    window: int


def windows(model_tokenizer: Tokenizer, text: str, length: int) -> list[list[int]]:
    """The text's tokens in pieces of `length`, each beginning with bos where the vocabulary wants
    that; the rest that fills none is left out. A text shorter than one is one piece.

    Raises UsageError for a text of hardly any tokens.
    """
    ids = tokenizer.prompt_ids(model_tokenizer, text)
    if len(ids) < LEAST:
        needed = f"{LEAST} are needed, and thousands make sense"
        raise UsageError(f"a text of {len(ids)} tokens; {needed}")
    length = min(length, len(ids))
    begins = ids[0] == model_tokenizer.bos
    pieces = [ids[at : at + length] for at in range(0, len(ids) - length + 1, length)]
    return [[ids[0], *piece[1:]] if begins else piece for piece in pieces]


def measure(
    model: Model, text: str, window: int | None = None, progress: Progress | None = None
) -> Perplexity:
    """Of the second half of each window's tokens, which have the first half before them."""
    length = min(window or WINDOW, model.executor.context)
    pieces = windows(model.tokenizer, text, length)
    length = len(pieces[0])
    surprises: list[float] = []
    for number, piece in enumerate(pieces):
        surprises += _surprises(model, piece)
        if progress is not None:
            progress("measuring", number + 1, len(pieces))
    found = np.array(surprises)
    mean = float(found.mean())
    error = float(found.std(ddof=1) / math.sqrt(len(found))) if len(found) > 1 else 0.0
    value = math.exp(mean) if mean < 700 else math.inf
    return Perplexity(value, value * error, len(found), length)


def _surprises(model: Model, ids: Sequence[int]) -> Iterator[float]:
    logits = model.logits(ids)
    for place in range(len(ids) // 2, len(ids) - 1):
        row = logits[place].astype(np.float64)
        row -= row.max()
        yield float(np.log(np.exp(row).sum()) - row[ids[place + 1]])
