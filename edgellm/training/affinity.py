"""Affinities of words: which words of a request tell, by the words said of it, what is meant.

A model of one layer of attention, which knows nothing of order. Each word of what may be meant
looks for words of the request with the like vector, or for none; what it finds has a worth, and
their sum tells whether it is meant. In a minute it learns from so many requests as a transformer
reads in a day, and a transformer can begin with what it found (`prepared_weights`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Indices = NDArray[np.int32]

STEPS = 4000
BATCH = 256
RATE = 1e-2
RESTING = 0.5
"""From this share of the steps on, the rate falls to none."""
MOMENTA = 0.9, 0.98
SMALL = 0.003
"""What the mean squared length of vectors costs, of those of requests and of those of choices."""
POOL = 16
"""From so many batches those of like size are put together, so that little is padded."""
LENGTH, NULL, WORTH = 6.0, 5.0, 0.5
"""To begin with: the squared length of a vector, the score of no match, the worth before it is
made positive."""
GAIN, BIAS = 20.0, -2.0
"""To begin with: of the logit that a choice is meant, by the mean evidence of its words."""


class Request(NamedTuple):
    """A request, as indices of words."""

    said: Sequence[int]
    choices: Sequence[Sequence[int]]
    """What is said of each that may be meant."""
    meant: frozenset[int]


@dataclass(frozen=True)
class Affinity:
    """What was learnt of each word."""

    vectors: Array
    """[words, channels], turned so that the first channels tell most: the product of two is the
    score of their match."""
    worth: Array
    """[words]: what it counts, above 0, that a word of the request is matched."""
    null: Array
    """[words]: the score by which a word of a choice matches none."""


@dataclass(frozen=True)
class _Batch:
    said: Indices
    """[requests, words], padded with -1."""
    words: Indices
    """[requests, words]: of all choices, one after the other, padded with -1."""
    choice: Array
    """[requests, words, choices]: what a word counts of a choice, which sums up to 1."""
    meant: Array
    """[requests, choices]: 1 or 0, and -1 where there is none."""


def learn(requests: Sequence[Request], words: int, channels: int, seed: int,
          steps: int = STEPS) -> Affinity:  # fmt: skip
    """The affinities of so many words. Of those that never occur, vectors and worth are 0, and null
    is what all begin with."""
    rng = np.random.default_rng(seed)
    deviation = (LENGTH / channels) ** 0.5
    table = rng.normal(scale=deviation, size=(words, channels)).astype(np.float32)
    parameters = [
        table, np.full(words, WORTH, np.float32), np.full(words, NULL, np.float32),
        np.array([GAIN, BIAS], np.float32),
    ]  # fmt: skip
    first = [np.zeros_like(one) for one in parameters]
    second = [np.zeros_like(one) for one in parameters]
    batches = _batches(requests, rng)
    for step in range(1, steps + 1):
        rate = RATE * min(1.0, (1 - step / (steps + 1)) / RESTING)
        gradients = _gradients(next(batches), *parameters)
        for one, gradient, m, v in zip(parameters, gradients, first, second, strict=True):
            m += (1 - MOMENTA[0]) * (gradient - m)
            v += (1 - MOMENTA[1]) * (gradient**2 - v)
            mean = m / (1 - MOMENTA[0] ** step)
            one -= rate * mean / (np.sqrt(v / (1 - MOMENTA[1] ** step)) + 1e-8)
    occurs = np.zeros(words, bool)
    for request in requests:
        occurs[list(request.said)] = True
        for choice in request.choices:
            occurs[list(choice)] = True
    table[~occurs] = 0
    turned = table @ np.linalg.svd(table, full_matrices=False)[2].T
    worth = np.where(occurs, np.logaddexp(0, parameters[1]), 0).astype(np.float32)
    return Affinity(turned, worth, parameters[2])


def _batches(requests: Sequence[Request], rng: np.random.Generator) -> Iterator[_Batch]:
    while True:
        drawn = [requests[index] for index in rng.integers(len(requests), size=POOL * BATCH)]
        drawn.sort(key=lambda request: sum(map(len, request.choices)))
        for index in rng.permutation(POOL):
            yield _batch(drawn[index * BATCH : (index + 1) * BATCH])


def _batch(requests: Sequence[Request]) -> _Batch:
    count = len(requests)
    said = np.full((count, max(len(one.said) for one in requests)), -1, np.int32)
    most = max(len(one.choices) for one in requests)
    longest = max(sum(map(len, one.choices)) for one in requests)
    words = np.full((count, longest), -1, np.int32)
    choice = np.zeros((count, longest, most), np.float32)
    meant = np.full((count, most), -1, np.float32)
    for row, request in enumerate(requests):
        said[row, : len(request.said)] = request.said
        at = 0
        for index, some in enumerate(request.choices):
            words[row, at : at + len(some)] = some
            choice[row, at : at + len(some), index] = 1 / len(some)
            meant[row, index] = index in request.meant
            at += len(some)
    return _Batch(said, words, choice, meant)


def _gradients(
    batch: _Batch, table: Array, worth: Array, null: Array, line: Array
) -> tuple[Array, Array, Array, Array]:
    """By each of the parameters, of a sum: the mean cross entropy of each choice alone, that of the
    right ones among all, over requests that mean some, and what lengths cost. `worth` is before it
    is made positive, `line` are gain and bias."""
    said, words = table[batch.said], table[batch.words]
    is_said, is_word = batch.said >= 0, batch.words >= 0
    scores = words @ said.transpose(0, 2, 1)
    scores[np.broadcast_to(~is_said[:, None, :], scores.shape)] = -np.inf
    nothing = null[batch.words]
    top = np.maximum(scores.max(axis=2), nothing)
    matched = np.exp(scores - top[:, :, None])
    matched /= (matched.sum(axis=2) + np.exp(nothing - top))[:, :, None]
    value = np.logaddexp(0, worth[batch.said])
    evidence = (matched @ value[:, :, None])[:, :, 0]
    summed = (evidence[:, None, :] @ batch.choice)[:, 0]
    logits = line[0] * summed + line[1]

    is_choice = batch.meant >= 0
    right = np.maximum(batch.meant, 0)
    by_logit = (1 / (1 + np.exp(-logits)) - right) * is_choice / is_choice.sum()
    some = right.sum(axis=1, keepdims=True)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True)) * is_choice
    shares /= shares.sum(axis=1, keepdims=True)
    by_logit += (some > 0) * (shares - right / np.maximum(some, 1)) / max((some > 0).sum(), 1)

    by_line = np.array([(by_logit * summed).sum(), by_logit.sum()], np.float32)
    by_evidence = (batch.choice @ (line[0] * by_logit)[:, :, None])[:, :, 0]
    by_value = (by_evidence[:, None, :] @ matched)[:, 0]
    by_score = matched * (value[:, None, :] - evidence[:, :, None]) * by_evidence[:, :, None]
    by_said = by_score.transpose(0, 2, 1) @ words
    by_word = by_score @ said
    by_said += 2 * SMALL / max(is_said.sum(), 1) * said
    by_word += 2 * SMALL / max(is_word.sum(), 1) * words
    by_worth = by_value / (1 + np.exp(-worth[batch.said]))
    chosen = np.concatenate([batch.said[is_said], batch.words[is_word]])
    return (
        _summed(chosen, np.concatenate([by_said[is_said], by_word[is_word]]), len(table)),
        _summed(batch.said[is_said], by_worth[is_said], len(table)),
        _summed(batch.words[is_word], -by_score.sum(axis=2)[is_word], len(table)),
        by_line,
    )


def _summed(indices: Indices, values: Array, count: int) -> Array:
    """Values added up by index."""
    order = np.argsort(indices, kind="stable")
    known, starts = np.unique(indices[order], return_index=True)
    found = np.zeros((count, *values.shape[1:]), np.float32)
    found[known] = np.add.reduceat(values[order], starts)
    return found
