"""Heads that begin with a task do it before any training."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from plain_layers import Weights, attention

from edgellm.training.affinity import Affinity
from edgellm.training.evidence import MEANT, Lexicon, Marks, channels
from edgellm.training.prepared_weights import EMBEDDING, Prepared, llama, prepared_weights

VOCABULARY = 400
Array = NDArray[np.float64]

CONFIG = llama(VOCABULARY, 192, 4, 6, 3, 512, 256, 1e8)
LEXICON = Lexicon(
    words=[token // 2 for token in range(VOCABULARY)],  # two tokens of each
    named=[token < 300 for token in range(VOCABULARY)],
    quotes=[token in (386, 387) for token in range(VOCABULARY)],
)
KNOWN = np.random.default_rng(2).normal(size=(VOCABULARY // 2, 8)).astype(np.float32)
AFFINITY = Affinity(KNOWN, np.ones(len(KNOWN), np.float32), np.full(len(KNOWN), 5, np.float32))
MARKS, FLAGS = Marks(390, 392, 394, 396), (398, 399)
PASSAGE = np.random.default_rng(1).permutation(MARKS.begins // 2)[:60] * 2
TOKENS = np.concatenate([PASSAGE, PASSAGE[20:40]])
"""A text that says a part of itself again."""


def made(seed: int) -> Prepared:
    return prepared_weights(CONFIG, LEXICON, AFFINITY, MARKS, FLAGS, seed)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return made(3)


@pytest.fixture(scope="module")
def weights(prepared: Prepared) -> Weights:
    return {name: values.astype(np.float64) for name, values in prepared.weights.items()}


def test_heads_note_and_repeat(weights: Weights) -> None:
    x = weights["token_embd.weight"][TOKENS]
    before, again = np.arange(1, len(TOKENS)), np.arange(60, 80)
    first, x = attention(CONFIG, weights, x, 0)
    assert np.mean(first[-1][before, before - 1]) > 0.6
    for layer in range(1, len(CONFIG.layers)):
        shares, x = attention(CONFIG, weights, x, layer)
        assert np.mean(shares[-1][again, again - 39]) > 0.15  # what followed there, of 80


def test_the_last_heads_prefer_what_comes_out_as_wanted(weights: Weights) -> None:
    flagged = weights["output.weight"][FLAGS[0]] - weights["output.weight"][FLAGS[1]]
    x = weights["token_embd.weight"][[*PASSAGE, PASSAGE[1], PASSAGE[0]]]  # 0 1 2 … 1 0
    wanted = x.copy()
    wanted[1] += flagged * 20
    last = len(CONFIG.layers) - 1
    plain, preferring = (attention(CONFIG, weights, some, last)[0][-1][-1] for some in (x, wanted))
    assert preferring[1] > 2 * plain[1]


def test_what_evidence_speaks_for_comes_out_as_wanted(weights: Weights) -> None:
    table = weights["output.weight"][:, MEANT]
    assert table[FLAGS[0]] > 0.1
    assert table[FLAGS[1]] < -0.1
    assert np.abs(np.delete(table, FLAGS)).max() < 0.06
    x = weights["token_embd.weight"][[*PASSAGE, PASSAGE[0]]]
    meant = x.copy()
    meant[1, MEANT] += 10 * EMBEDDING
    last = len(CONFIG.layers) - 1
    plain, preferring = (attention(CONFIG, weights, some, last)[0][-1][-1] for some in (x, meant))
    assert preferring[1] > 2 * plain[1]


def test_tokens_of_a_word_begin_alike(weights: Weights) -> None:
    table = weights["token_embd.weight"][:, channels(AFFINITY) :]
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    assert np.mean((unit[::2] * unit[1::2]).sum(axis=1)) > 0.8
    assert abs(np.mean((unit[:-2:2] * unit[2::2]).sum(axis=1))) < 0.1


def test_the_same_seed_gives_the_same_weights(prepared: Prepared) -> None:
    again, other = made(3), made(4)
    for name, values in prepared.weights.items():
        assert values.dtype == np.float32
        assert np.array_equal(again.weights[name], values)
    for name, kept in prepared.kept.items():
        assert np.array_equal(again.kept[name], kept)
    assert not np.array_equal(other.weights["output.weight"], prepared.weights["output.weight"])
