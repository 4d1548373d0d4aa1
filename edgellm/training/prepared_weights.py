"""First weights of a model that is to find and repeat what it has read.

Some of its heads begin with a task: to look at tokens like the own one, to note down the token
before, to repeat what followed the like of the own token earlier, best of all where that is wanted.
Trained from plain first weights, a small model comes upon these only after millions of tokens,
since each is of use only once there are the others. All of it may change in training. Attention
that begins with what trained attention comes to is due to Trockman and Kolter 2023
(arXiv:2305.09828), the heads that repeat were described by Olsson et al. 2022 (arXiv:2209.11895).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgellm.config import Config
from edgellm.training.initial_weights import Weights

Array = NDArray[np.float64]

EMBEDDING = 0.3
"""Deviation of embeddings. Layers begin with adding little to them (`ADDED`): what a token is must
be legible in all of them."""
SCORE = 0.02
"""Of the rows of the head, which begin as the embeddings, with noise: what is repeated is said."""
SCORE_NOISE = 0.01
ADDED = 0.1
"""What is added to the residual stream, of what would keep its deviation."""
SHARPNESS = 0.15
NOTED, REPEATED = 0.25, 0.2
"""What the heads add that note down and that repeat."""
REPEATING = (1, 2)
"""The layers in which heads repeat, besides the last one."""
CHOSEN = 1.5
"""What the last layer's heads add, which prefer what is wanted, by PREFERENCE."""
PREFERENCE = 1.5
SLOW = 0.2, 0.3
"""Share of the quick half of rotary channels, in heads that match and that repeat: these turn with
every position, what is to match wherever it stands belongs into the others."""
ALIKE = 0.94
"""Share that tokens of one word have in common."""


@dataclass(frozen=True)
class _Heads:
    """Sizes, and which rows belong to the heads that share keys."""

    width: int
    shared: int

    def keys(self, index: int) -> slice:
        return slice(index * self.width, (index + 1) * self.width)

    def queries(self, index: int) -> list[slice]:
        return [self.keys(index * self.shared + one) for one in range(self.shared)]


def prepared_weights(
    config: Config, words: Sequence[str], flags: tuple[int, int], seed: int
) -> Weights:
    """The weights of a Llama with a head of its own.

    `words` tells for each token what it says, wherever it stands: tokens of one word begin alike.
    Of the tokens `flags`, the first is learnt in place of those that may be repeated, the second of
    others: in the last layer, what foretells them counts.
    """
    rng = np.random.default_rng(seed)
    heads = _Heads(config.head_dim, config.heads // config.layers[0].kv_heads)
    weights = _plain(config, rng)
    first: dict[str, Array] = {}
    for token, word in enumerate(words):
        common = first.setdefault(word, rng.standard_normal(config.dim))
        own = rng.standard_normal(config.dim)
        embedding = ALIKE * common + (1 - ALIKE**2) ** 0.5 * own
        weights["token_embd.weight"][token] = EMBEDDING * embedding
    table = weights["token_embd.weight"]
    for index in range(len(config.layers)):
        _match(weights, f"blk.{index}", heads, rng)
    _repeat(config, weights, heads, rng)
    noise = SCORE_NOISE * rng.standard_normal(table.shape)
    scores = table * (SCORE / EMBEDDING) + noise
    scores[:, 0] = 0  # the constant channel
    weights["output.weight"] = scores
    _prefer(config, weights, heads, scores[flags[0]] - scores[flags[1]])
    return {name: values.astype(np.float32) for name, values in weights.items()}


def _plain(config: Config, rng: np.random.Generator) -> dict[str, Array]:
    """Normal weights that keep the deviation of what comes in, and norms of one."""

    def normal(rows: int, columns: int, scale: float = 1.0) -> Array:
        return rng.normal(scale=scale * columns**-0.5, size=(rows, columns))

    dim, queries = config.dim, config.heads * config.head_dim
    weights = {"token_embd.weight": np.empty((config.vocab, dim))}
    for index, layer in enumerate(config.layers):
        keys = layer.kv_heads * config.head_dim
        weights |= {
            f"blk.{index}.{name}.weight": values
            for name, values in {
                "attn_norm": np.ones(dim),
                "attn_q": normal(queries, dim),
                "attn_k": normal(keys, dim),
                "attn_v": normal(keys, dim),
                "attn_output": normal(dim, queries, ADDED),
                "ffn_norm": np.ones(dim),
                "ffn_gate": normal(config.hidden, dim),
                "ffn_up": normal(config.hidden, dim),
                "ffn_down": normal(dim, config.hidden, ADDED),
            }.items()
        }
    return weights | {"output_norm.weight": np.ones(dim)}


def _match(weights: dict[str, Array], block: str, heads: _Heads, rng: np.random.Generator) -> None:
    """The first heads of a layer look at tokens like the own one."""
    keys = rng.standard_normal((heads.width, weights["token_embd.weight"].shape[1])) * SHARPNESS
    keys[: heads.width // 2] *= SLOW[0]
    weights[f"{block}.attn_k.weight"][heads.keys(0)] = keys
    for rows in heads.queries(0):
        weights[f"{block}.attn_q.weight"][rows] = _about(keys, rng)


def _repeat(
    config: Config, weights: dict[str, Array], heads: _Heads, rng: np.random.Generator
) -> None:
    """The last heads of the first layer note the token before down; those of some after it look for
    the own token in these notes, and repeat what stands there."""
    dim, width, last = config.dim, heads.width, config.layers[0].kv_heads - 1
    # Position alone tells which token is the one before: a channel is the same for all of them.
    table = weights["token_embd.weight"]
    table[:, 0] = 4 * table.std()
    constant = float((table[:, 0] / np.sqrt((table**2).mean(axis=1))).mean())
    read = rng.standard_normal((width, dim)) * dim**-0.5
    read[:, 0] = 0
    notes = np.linalg.qr(rng.standard_normal((dim, width)))[0]
    notes[0] = 0
    key, query = np.zeros((width, dim)), np.zeros((width, dim))
    size = (5 * width**0.5) ** 0.5 / constant
    for pair in range(4):  # the quickest: their turns agree at no other place nearby
        turn = config.ropes[0].theta ** (-2 * pair / width)
        key[2 * pair, 0] = size
        query[2 * pair : 2 * pair + 2, 0] = size * np.cos(turn), -size * np.sin(turn)
    weights["blk.0.attn_k.weight"][heads.keys(last)] = _about(key, rng)
    weights["blk.0.attn_v.weight"][heads.keys(last)] = read
    for rows in heads.queries(last):
        weights["blk.0.attn_q.weight"][rows] = _about(query, rng)
        weights["blk.0.attn_output.weight"][:, rows] = notes * NOTED
    slow = np.where(np.arange(width) < width // 2, SLOW[1], 1.0)[:, None]
    for index in (*REPEATING, len(config.layers) - 1):
        copied = np.linalg.qr(rng.standard_normal((dim, width)))[0].T
        weights[f"blk.{index}.attn_k.weight"][heads.keys(last)] = _about(3 * slow * notes.T, rng)
        weights[f"blk.{index}.attn_v.weight"][heads.keys(last)] = copied
        for rows in heads.queries(last):
            weights[f"blk.{index}.attn_q.weight"][rows] = _about(slow * read, rng)
            weights[f"blk.{index}.attn_output.weight"][:, rows] = copied.T * (
                REPEATED if index in REPEATING else CHOSEN
            )


def _prefer(config: Config, weights: dict[str, Array], heads: _Heads, wanted: Array) -> None:
    """The last layer's heads that repeat prefer tokens that have come out as wanted."""
    block, last = f"blk.{len(config.layers) - 1}", config.layers[0].kv_heads - 1
    # The last two channels hardly turn: they are free of what is to match.
    channels = [heads.width - 2, heads.width - 1]
    key = weights[f"{block}.attn_k.weight"][heads.keys(last)]
    key[channels] = 0
    key[-1] = PREFERENCE * wanted
    for rows in heads.queries(last):
        query = weights[f"{block}.attn_q.weight"][rows]
        query[channels] = 0
        query[-1, 0] = PREFERENCE  # of the constant channel


def _about(values: Array, rng: np.random.Generator) -> Array:
    """Heads that share keys begin with a difference."""
    return values + 0.01 * rng.standard_normal(values.shape)
