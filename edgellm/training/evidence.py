"""Heads that add up, for each line that is declared, what speaks for it in the newest question.

They begin with what `affinity` has learnt, and keep it. What they note has channels of its own,
which nothing else writes: all the rest of a model learns beside them, and reads what they find.

- Layer 0: a token notes whether the newest question has begun, and whether the declarations have;
  of a look at all beginnings of lines and at that of the declarations, the share of the latter: it
  falls with every line; and whether it comes after a quote.
- Layer 1: a word of a declaration looks for words of the question that go with it; if there are
  none, at the beginning of the declarations' message. What it finds is evidence.
- Layer 2: the mean of the evidence in the own line, so far; and whether the question has the very
  word.
- Layer 3: a quote looks for a quoted word that the question has, best in a line that is meant: for
  the option to choose. What it takes from there is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgellm.config import Config
from edgellm.training.affinity import Affinity

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

CONSTANT = 0
"""The channel that is the same of all tokens."""
BEGINS, ASKS, DECLARES, BREAKS, QUOTES = 1, 2, 3, 4, 5
"""Of the tokens of `Marks`, and of quotes."""
WORTH, NULL = 6, 7
"""Of words, see `Affinity`; the score is in units of HIGH."""
ASKED, DECLARED, LINE = 8, 9, 10
EVIDENCE, MEANT = 11, 12
"""Of a word, and of its line."""
SAID, QUOTED = 13, 14
"""Of a word that the newest question has, too; of a token after a quote."""
CODE, CODES = 15, 16
"""The first of the channels of words' codes, and how many they are."""
VECTOR = CODE + CODES
"""The first channel of words' vectors, the last of the channels that are kept."""

OPTION = 3
"""The layer in which options are looked for."""
HIGH = 4.0
"""What is constant, and of a mark, in deviations of the stream."""
CERTAIN = 12.0
"""A score that leaves next to nothing to others, whose score is 0."""
BEGINNING = 2.4
"""By how much the score of the beginning of declarations is above that of a line's."""
LINES, MIDDLE = 100.0, 0.8
"""How much the score of a word's line falls with LINE, and where it is 0: far from it, unequal
lengths of the stream would tell."""
EQUAL, UNEQUAL = 2.0, 13.5
"""The score of a word's code for each channel that agrees, and how many must for it to be found."""
SPOKEN_FOR = 5.0
"""A line's mean evidence, to that of a word."""
CHOICE, NO_CHOICE, MEANT_CHOICE = 12.0, 1.3, 0.2
"""The scores of what is said and of what is quoted; by how much that is higher where there is no
such thing; and what the meaning of a line adds."""
GROWTH = (1.0, 1.1, 1.25, 1.4)
"""The deviation of the stream before a layer, in that of embeddings."""


class Marks(NamedTuple):
    """Tokens by which a prompt's parts are told: at the beginning of each message, after which of
    them the newest question, and the declarations; and between lines."""

    begins: int
    asks: int
    declares: int
    breaks: int


@dataclass(frozen=True)
class Lexicon:
    """What tokens are, each of them."""

    words: Sequence[int]
    """Places among those that `affinity` knows."""
    named: Sequence[bool]
    """Whether it is a word proper."""
    quotes: Sequence[bool]


@dataclass(frozen=True)
class Head:
    """A key's rows in the matrices of a layer, and those of the queries that share it."""

    layer: int
    keys: slice
    queries: tuple[slice, ...]

    @classmethod
    def of(cls, config: Config, layer: int, index: int) -> Head:
        """By the index of its key."""
        width, shared = config.head_dim, config.heads // config.layers[layer].kv_heads
        queries = range(index * shared, (index + 1) * shared)
        return cls(
            layer,
            slice(index * width, (index + 1) * width),
            tuple(slice(query * width, (query + 1) * width) for query in queries),
        )

    def name(self, kind: str) -> str:
        return f"blk.{self.layer}.attn_{kind}.weight"


def channels(affinity: Affinity) -> int:
    """How many channels, the first ones, are kept."""
    return VECTOR + int(affinity.vectors.shape[1])


def embed(
    table: Array, marks: Marks, lexicon: Lexicon, affinity: Affinity, deviation: float,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Put what the heads look at into embeddings of a deviation [tokens, channels]. All get the
    same length."""
    kept = channels(affinity)
    known = np.array(lexicon.words)
    own = np.zeros((len(table), kept))
    own[:, VECTOR:kept] = affinity.vectors[known]
    own[:, WORTH] = affinity.worth[known]
    own[:, NULL] = affinity.null[known] / HIGH
    codes = rng.choice((-1.0, 1.0), (len(affinity.worth), CODES))
    codes[:, 0] = 1  # which tells that there is a code
    own[:, CODE:VECTOR] = codes[known] * np.array(lexicon.named)[:, None]
    own[:, QUOTES] = HIGH * np.array(lexicon.quotes)
    own[marks.begins] = 0
    own[:, CONSTANT] = HIGH
    for channel, token in zip((BEGINS, ASKS, DECLARES, BREAKS), marks, strict=True):
        own[token, channel] = HIGH
    table[:, :kept] = own * deviation
    left = table.shape[1] * deviation**2 - (table[:, :kept] ** 2).sum(axis=1)
    table[:, kept:] *= np.sqrt(left / (table[:, kept:] ** 2).sum(axis=1))[:, None]


def keep_apart(weights: dict[str, Array], layers: int, kept: int) -> None:
    """Nothing is written into the channels that are kept."""
    for index in range(layers):
        for name in ("attn_output", "ffn_down"):
            weights[f"blk.{index}.{name}.weight"][:kept] = 0


def write_heads(
    config: Config, weights: dict[str, Array], affinity: Affinity, deviation: float
) -> dict[str, Mask]:
    """Write the heads into weights that `keep_apart` has seen. Returns what is to stay as it is,
    by the names of the tensors."""
    unit = config.head_dim**0.25
    """A score is the product of two such channels."""
    asked, parts, match, again, line = heads = [
        Head.of(config, *where) for where in ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1))
    ]
    certain = unit * CERTAIN**0.5 / HIGH
    none = np.zeros((config.head_dim, config.dim))

    key, query = none.copy(), none.copy()
    key[-1, ASKS] = query[-1, CONSTANT] = certain
    _look(weights, asked, key, query)
    _read(weights, asked, ASKS, [ASKED] * 2, deviation)

    key, ended = none.copy(), none.copy()
    key[-1, DECLARES] = query[-1, CONSTANT] = certain
    key[-2, BREAKS] = ended[-2, CONSTANT] = certain
    key[-2, DECLARES] = certain * (1 + BEGINNING / CERTAIN)
    _look(weights, parts, key, query, ended)
    _read(weights, parts, DECLARES, [DECLARED, LINE], deviation)

    growth = GROWTH[1]
    certain *= growth
    key, query = none.copy(), none.copy()
    for index in range(affinity.vectors.shape[1]):  # what tells most where it turns least
        key[-3 - index, VECTOR + index] = query[-3 - index, VECTOR + index] = unit * growth
    key[-2, ASKED], key[-2, DECLARED], key[-2, CONSTANT] = 1, -1, -1
    key[-2] *= certain * 2**0.5
    query[-2, CONSTANT] = certain * 2**0.5
    key[-1, BEGINS] = query[-1, NULL] = unit * growth
    _look(weights, match, key, query)
    _read(weights, match, WORTH, [EVIDENCE] * 2, deviation * growth)

    growth = GROWTH[2]
    key, query = none.copy(), none.copy()
    for index in range(CODES):
        key[-1 - index, CODE + index] = query[-1 - index, CODE + index] = unit * growth * EQUAL**0.5
    key[-1 - CODES, ASKED], key[-1 - CODES, DECLARED], key[-1 - CODES, CONSTANT] = 1, -1, -1
    key[-1 - CODES] *= unit * growth * (2 * EQUAL * CODES) ** 0.5 / HIGH
    query[-1 - CODES, CONSTANT] = unit * growth * (2 * EQUAL * CODES) ** 0.5 / HIGH
    key[-2 - CODES, BEGINS] = unit * growth * EQUAL * UNEQUAL / HIGH
    query[-2 - CODES, CONSTANT] = unit * growth / HIGH
    _look(weights, again, key, query)
    _read(weights, again, CODE, [SAID] * 2, HIGH * deviation * growth)

    steep = unit * growth * LINES**0.5 / HIGH
    key, query = none.copy(), none.copy()
    key[-1, LINE], key[-1, CONSTANT] = -steep, steep * MIDDLE
    key[-2, DECLARED], key[-2, CONSTANT] = steep, -steep
    query[-2:, CONSTANT] = steep
    _look(weights, line, key, query)
    _read(weights, line, EVIDENCE, [MEANT] * 2, SPOKEN_FOR * deviation * growth)

    noting = Head.of(config, 0, config.layers[0].kv_heads - 1)
    _read(weights, noting, QUOTES, [QUOTED] * 2, deviation)

    growth = GROWTH[OPTION]
    option = Head.of(config, OPTION, 0)
    certain = unit * growth * CHOICE**0.5 / HIGH
    key, query = none.copy(), none.copy()
    key[-1, SAID] = key[-2, QUOTED] = query[-1, QUOTES] = query[-2, QUOTES] = certain
    key[-3, MEANT] = query[-3, QUOTES] = unit * growth * MEANT_CHOICE**0.5
    key[-4, BEGINS], query[-4, QUOTES] = certain * NO_CHOICE, certain
    _look(weights, option, key, query)
    return _kept(config, weights, [*heads, noting], option, channels(affinity))


def _look(weights: dict[str, Array], head: Head, key: Array, *queries: Array) -> None:
    """What a head looks for, with a query for each of its own or one for all."""
    weights[head.name("k")][head.keys] = key
    for index, rows in enumerate(head.queries):
        weights[head.name("q")][rows] = queries[index % len(queries)]


def _read(
    weights: dict[str, Array], head: Head, read: int, written: Sequence[int], size: float
) -> None:
    """Write a channel, where a head looks, into another one, which its queries may share; its other
    values are as they were."""
    value = weights[head.name("v")][head.keys.start]
    value[:] = 0
    value[read] = 1
    for rows, channel in zip(head.queries, written, strict=True):
        weights[head.name("output")][:, rows.start] = 0
        weights[head.name("output")][channel, rows.start] = size / written.count(channel)


def _kept(
    config: Config, weights: dict[str, Array], heads: Sequence[Head], option: Head, kept: int
) -> dict[str, Mask]:
    """Of heads what they look for and read, of `option` only the former."""
    found = {"token_embd.weight": np.zeros(weights["token_embd.weight"].shape, bool)}
    found["token_embd.weight"][:, :kept] = True
    for index in range(len(config.layers)):
        for kind in ("attn_output", "ffn_down", "attn_norm"):
            name = f"blk.{index}.{kind}.weight"
            found[name] = np.zeros(weights[name].shape, bool)
            found[name][:kept] = True
    for head in (*heads, option):
        for kind in "qkv":
            found.setdefault(head.name(kind), np.zeros(weights[head.name(kind)].shape, bool))
        found[head.name("k")][head.keys] = True
        found[head.name("v")][head.keys.start] = head is not option
        for rows in head.queries:
            found[head.name("q")][rows] = True
    return found
