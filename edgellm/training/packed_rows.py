"""Samples put into rows of one length, as full as they go, and rows into batches."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from edgellm.training.batch import IGNORED, Batch
from edgellm.training.samples import Sample

OPEN = 64
"""Rows that are tried for a sample before a new one is begun."""

Row = list[Sample]


def cut(samples: Sequence[Sample], length: int) -> tuple[list[Sample], int]:
    """Samples of at most `length` + 1 tokens, the last of which is only predicted; and how many
    were longer. Of those whatever can still be learnt is kept: a text in pieces, another sample up
    to the length."""
    fitting: list[Sample] = []
    longer = 0
    for sample in samples:
        size = len(sample.tokens)
        longer += size > length + 1
        step = length if sample.learnt[1:].all() else size
        for begin in range(0, max(size - 1, 1), step):
            piece = slice(begin, begin + length + 1)
            part = Sample(sample.tokens[piece], sample.learnt[piece])
            if part.learnt[1:].any():
                fitting.append(part)
    return fitting, longer


def pack(samples: Sequence[Sample], length: int, seed: int, together: bool = True) -> list[Row]:
    """Rows of up to `length` positions, a sample in each or, `together`, as many as fit; the same
    for the same seed."""
    order = list(samples)
    Random(seed).shuffle(order)
    if not together:
        return [[sample] for sample in order]
    rows: list[Row] = []
    room: list[int] = []
    for sample in order:
        needed = len(sample.tokens) - 1
        first = max(0, len(rows) - OPEN)
        at = next((at for at in range(first, len(rows)) if room[at] >= needed), None)
        if at is None:
            rows.append([])
            room.append(length)
            at = len(rows) - 1
        rows[at].append(sample)
        room[at] -= needed
    return rows


def batch(rows: Sequence[Row], count: int, length: int) -> Batch:
    """A batch of (count, length) from up to `count` rows; what is left over is ignored."""
    tokens = np.zeros((count, length), np.int32)
    targets = np.full((count, length), IGNORED, np.int32)
    first = np.broadcast_to(np.arange(length, dtype=np.int32), (count, length)).copy()
    for index, row in enumerate(rows):
        at = 0
        for sample in row:
            size = len(sample.tokens) - 1
            part = slice(at, at + size)
            tokens[index, part] = sample.tokens[:-1]
            targets[index, part] = np.where(sample.learnt[1:], sample.tokens[1:], IGNORED)
            first[index, part] = at
            at += size
    return Batch(tokens, targets, first)


def order(count: int, seed: int, epoch: int) -> list[int]:
    """The order of so many rows in an epoch."""
    found = list(range(count))
    Random(f"{seed} {epoch}").shuffle(found)
    return found
