"""Heads that begin with a task do it before any training."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.config import Config, Layer, Rope
from edgellm.training.prepared_weights import prepared_weights

WIDTH, KEYS, SHARED, DIM, VOCABULARY = 32, 3, 2, 192, 400
Array = NDArray[np.float64]

CONFIG = Config(
    architecture="llama",
    vocab=VOCABULARY,
    dim=DIM,
    heads=KEYS * SHARED,
    head_dim=WIDTH,
    hidden=512,
    context=256,
    layers=(Layer(kv_heads=KEYS),) * 3,
    ropes=(Rope(WIDTH, theta=100_000.0),),
    rope_style="pair",
)
WORDS = [str(token // 2) for token in range(VOCABULARY)]  # two tokens of each word
FLAGS = (398, 399)
PASSAGE = np.random.default_rng(1).permutation(VOCABULARY // 2)[:60] * 2
TOKENS = np.concatenate([PASSAGE, PASSAGE[20:40]])
"""A text that says a part of itself again."""


@pytest.fixture(scope="module")
def weights() -> dict[str, Array]:
    return {
        name: values.astype(np.float64)
        for name, values in prepared_weights(CONFIG, WORDS, FLAGS, 3).items()
    }


def normed(x: Array) -> Array:
    found: Array = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + CONFIG.norm_eps)
    return found


def turned(x: Array) -> Array:
    """With rotary positions, in pairs."""
    pairs = np.arange(WIDTH // 2)
    angles = np.arange(len(x))[:, None] * 100_000.0 ** (-2 * pairs / WIDTH)
    complex_pairs = (x[:, ::2] + 1j * x[:, 1::2]) * np.exp(1j * angles)
    out = np.empty_like(x)
    out[:, ::2], out[:, 1::2] = complex_pairs.real, complex_pairs.imag
    return out


def attention(weights: dict[str, Array], x: Array, layer: int) -> tuple[list[Array], Array]:
    """Each head's shares (T, T), and the stream after all of them."""
    shares, added = [], np.zeros_like(x)
    n = normed(x)
    for head in range(KEYS * SHARED):
        own = slice(head * WIDTH, (head + 1) * WIDTH)
        key = slice(head // SHARED * WIDTH, (head // SHARED + 1) * WIDTH)
        q, k = (
            turned(n @ weights[f"blk.{layer}.attn_{name}.weight"][rows].T)
            for name, rows in (("q", own), ("k", key))
        )
        scores = q @ k.T / np.sqrt(WIDTH)
        scores[np.triu_indices(len(x), 1)] = -np.inf
        share = np.exp(scores - scores.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        value = n @ weights[f"blk.{layer}.attn_v.weight"][key].T
        added += share @ value @ weights[f"blk.{layer}.attn_output.weight"][:, own].T
        shares.append(share)
    return shares, x + added


def test_heads_match_note_and_repeat(weights: dict[str, Array]) -> None:
    x = weights["token_embd.weight"][TOKENS]
    first, x = attention(weights, x, 0)
    second, _ = attention(weights, x, 1)
    again = np.arange(60, 80)
    for shares in (first, second):
        matched = shares[0][again, again] + shares[0][again, again - 40]
        assert np.mean(matched) > 0.5
    before = np.arange(1, len(TOKENS))
    assert np.mean(first[-1][before, before - 1]) > 0.6
    assert np.mean(second[-1][again, again - 39]) > 0.3  # what followed there


def test_the_last_heads_prefer_what_comes_out_as_wanted(weights: dict[str, Array]) -> None:
    flagged = weights["output.weight"][FLAGS[0]] - weights["output.weight"][FLAGS[1]]
    embeddings = weights["token_embd.weight"]
    x = embeddings[np.concatenate([PASSAGE, PASSAGE[:1]])]
    x = np.concatenate([x[:-1], embeddings[PASSAGE[1]][None], x[-1:]])  # 0 1 2 … 1 0
    wanted = x.copy()
    wanted[1] += flagged * 20
    plain, preferring = (attention(weights, some, 2)[0][-1][-1] for some in (x, wanted))
    assert preferring[1] > 2 * plain[1]


def test_tokens_of_a_word_begin_alike(weights: dict[str, Array]) -> None:
    table = weights["token_embd.weight"][:, 1:]  # but for the constant channel
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    assert np.mean((unit[::2] * unit[1::2]).sum(axis=1)) > 0.8
    assert abs(np.mean((unit[:-2:2] * unit[2::2]).sum(axis=1))) < 0.1


def test_the_same_seed_gives_the_same_weights(weights: dict[str, Array]) -> None:
    again, other = (prepared_weights(CONFIG, WORDS, FLAGS, seed) for seed in (3, 4))
    assert all(np.array_equal(again[name], values) for name, values in weights.items())
    assert not np.array_equal(other["output.weight"], weights["output.weight"])
