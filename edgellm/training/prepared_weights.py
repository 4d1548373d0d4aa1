"""First weights of a model that is to find and repeat what it has read.

Some of its heads begin with a task: to add up what speaks for each line (`evidence`), to note down
the token before, to repeat what followed the like of the own token earlier, best of all where that
is wanted. Trained from plain first weights, a small model comes upon these only after millions of
tokens, since each is of use only once there are the others. Attention that begins with what trained
attention comes to is due to Trockman and Kolter 2023 (arXiv:2305.09828), the heads that repeat were
described by Olsson et al. 2022 (arXiv:2209.11895).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgellm.config import Config, Layer, Rope
from edgellm.training import evidence
from edgellm.training.affinity import Affinity
from edgellm.training.evidence import (
    CONSTANT,
    HIGH,
    MEANT,
    OPTION,
    Array,
    Head,
    Lexicon,
    Marks,
    Mask,
)

Weights = dict[str, NDArray[np.float32]]

EMBEDDING = 1.0
"""Deviation of embeddings. Layers begin with adding little to them (`ADDED`), and what they come to
add stays of their size: what a token is must be legible in all of them, and what heads of
`evidence` find must not fade."""
SCORE = 0.02
"""Of the rows of the head, which begin as the embeddings, with noise: what is repeated is said."""
SCORE_NOISE = 0.01
ADDED = 0.1
"""What is added to the residual stream, of what would keep its deviation."""
NOTED, REPEATED = 0.8, 0.65
"""What the heads add that note down and that repeat."""
REPEATING = (1, 2)
"""The layers in which heads repeat, besides the last one."""
CHOSEN = 4.0
"""What the last layer's heads add, which prefer what is wanted, by PREFERENCE."""
OFFERED = 1.5
"""What the heads of layer OPTION add, which look for options."""
PREFERENCE = 1.5
SLOW = 0.3
"""Share of the quick half of rotary channels in heads that repeat: these turn with every position,
what is to match wherever it stands belongs into the others."""
ALIKE = 0.94
"""Share that tokens of one word have in common."""
BELIEVED = 0.2
"""What evidence counts for a token to be flagged as wanted, and against the other flag."""


@dataclass(frozen=True)
class Prepared:
    weights: Weights
    kept: dict[str, Mask]
    """What training leaves as it is, by the names of the tensors."""


def llama(
    vocab: int,
    dim: int,
    layers: int,
    heads: int,
    kv_heads: int,
    hidden: int,
    context: int,
    theta: float,
) -> Config:
    """A Llama's configuration; `theta` is the base of its rotary positions."""
    width = dim // heads
    return Config(
        architecture="llama",
        vocab=vocab,
        dim=dim,
        heads=heads,
        head_dim=width,
        hidden=hidden,
        context=context,
        layers=tuple(Layer(kv_heads=kv_heads) for _ in range(layers)),
        ropes=(Rope(width, theta=theta),),
        rope_style="pair",
    )


def prepared_weights(
    config: Config, lexicon: Lexicon, affinity: Affinity, marks: Marks, flags: tuple[int, int],
    seed: int,
) -> Prepared:  # fmt: skip
    """The weights of a Llama with a head of its own.

    Tokens of one word begin alike. Of the tokens `flags`, the first is learnt in place of those
    that may be repeated, the second of others: in the last layer, what foretells them counts.
    """
    rng = np.random.default_rng(seed)
    weights, own = _plain(config, rng), evidence.channels(affinity)
    table = weights["token_embd.weight"]
    common = rng.standard_normal((len(affinity.worth), config.dim))[np.array(lexicon.words)]
    single = rng.standard_normal(table.shape)
    table[:] = EMBEDDING * (ALIKE * common + (1 - ALIKE**2) ** 0.5 * single)
    scores = table * (SCORE / EMBEDDING)
    scores[:, :own] = 0
    scores += SCORE_NOISE * rng.standard_normal(table.shape)
    scores[:, CONSTANT] = 0
    scores[flags[0], MEANT], scores[flags[1], MEANT] = BELIEVED, -BELIEVED
    weights["output.weight"] = scores
    evidence.embed(table, marks, lexicon, affinity, EMBEDDING, rng)
    evidence.keep_apart(weights, len(config.layers), own)
    _repeat(config, weights, own, rng)
    _prefer(config, weights, scores[flags[0]] - scores[flags[1]])
    kept = evidence.write_heads(config, weights, affinity, EMBEDDING)
    return Prepared({name: values.astype(np.float32) for name, values in weights.items()}, kept)


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


def _repeat(config: Config, weights: dict[str, Array], own: int, rng: np.random.Generator) -> None:
    """The last heads of the first layer note the token before down; those of some after it look for
    the own token in these notes, and repeat what stands there. The first channels aren't theirs."""
    dim, width, last = config.dim, config.head_dim, config.layers[0].kv_heads - 1
    # Position alone tells which token is the one before: a channel is the same for all of them.
    read = rng.standard_normal((width, dim)) * dim**-0.5
    read[:, :own] = 0
    notes = _directions(dim, width, own, rng)
    key, query = np.zeros((width, dim)), np.zeros((width, dim))
    size = (5 * width**0.5) ** 0.5 / HIGH
    for pair in range(4):  # the quickest: their turns agree at no other place nearby
        turn = config.ropes[0].theta ** (-2 * pair / width)
        key[2 * pair, CONSTANT] = size
        query[2 * pair : 2 * pair + 2, CONSTANT] = size * np.cos(turn), -size * np.sin(turn)
    noting = Head.of(config, 0, last)
    weights[noting.name("k")][noting.keys] = _about(key, rng)
    weights[noting.name("v")][noting.keys] = read
    for rows in noting.queries:
        weights[noting.name("q")][rows] = _about(query, rng)
        weights[noting.name("output")][:, rows] = notes * NOTED
    slow = np.where(np.arange(width) < width // 2, SLOW, 1.0)[:, None]
    option = Head.of(config, OPTION, 0)
    copied = _directions(dim, width, own, rng)
    weights[option.name("v")][option.keys] = copied.T
    for rows in option.queries:
        weights[option.name("output")][:, rows] = copied * OFFERED
    for index in (*REPEATING, len(config.layers) - 1):
        copied = _directions(dim, width, own, rng)
        repeating = Head.of(config, index, last)
        weights[repeating.name("k")][repeating.keys] = _about(3 * slow * notes.T, rng)
        weights[repeating.name("v")][repeating.keys] = copied.T
        for rows in repeating.queries:
            weights[repeating.name("q")][rows] = _about(slow * read, rng)
            weights[repeating.name("output")][:, rows] = copied * (
                REPEATED if index in REPEATING else CHOSEN
            )


def _directions(dim: int, count: int, own: int, rng: np.random.Generator) -> Array:
    """Orthogonal directions [dim, count], but for the first channels, which they leave out."""
    found: Array = np.linalg.qr(rng.standard_normal((dim, count)))[0]
    found[:own] = 0
    return found


def _prefer(config: Config, weights: dict[str, Array], wanted: Array) -> None:
    """The last layer's heads that repeat prefer tokens that have come out as wanted."""
    head = Head.of(config, len(config.layers) - 1, config.layers[0].kv_heads - 1)
    # The last two channels hardly turn: they are free of what is to match.
    key = weights[head.name("k")][head.keys]
    key[-2:] = 0
    key[-1] = PREFERENCE * wanted
    for rows in head.queries:
        query = weights[head.name("q")][rows]
        query[-2:] = 0
        query[-1, CONSTANT] = PREFERENCE


def _about(values: Array, rng: np.random.Generator) -> Array:
    """Heads that share keys begin with a difference."""
    return values + 0.01 * rng.standard_normal(values.shape)
