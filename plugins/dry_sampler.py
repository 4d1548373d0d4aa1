"""DRY ("don't repeat yourself"): penalises a token that would prolong a repeated sequence
(p-e-w, pull request 5677 of oobabooga/text-generation-webui)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.hookspecs import hookimpl
from edgellm.sampling import Filter, Sampling
from edgellm.tokenizer import Tokenizer

HIGHEST = 1e30
"""Penalties are bounded, so that logits stay finite."""


class Dry:
    """If the last n tokens occurred before, followed by t, and n >= allowed_length, then t's logit
    is lowered by multiplier * base ** (n - allowed_length).

    A sequence doesn't reach over a breaker: a token whose text holds a sequence breaker, or that is
    one. Breakers themselves aren't penalised.
    """

    def __init__(self, options: Sampling, tokenizer: Tokenizer | None) -> None:
        self.options = options
        self.tokenizer = tokenizer
        self.idle = options.dry_multiplier == 0 or options.dry_penalty_last_n == 0
        self.breakers = [text.encode() for text in options.dry_sequence_breakers]
        self.known: dict[int, bool] = {}
        if tokenizer and not self.idle:
            for text in options.dry_sequence_breakers:
                ids = tokenizer.encode(text, parse_special=True)
                if len(ids) == 1:  # control tokens have no text
                    self.known[ids[0]] = True

    def apply(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        if self.idle:
            return logits
        options = self.options
        last_n = options.dry_penalty_last_n
        tokens = list(history if last_n < 0 else history[-last_n:])
        for token, length in self.repeats(tokens).items():
            excess = length - options.dry_allowed_length
            if excess >= 0:
                exponent = math.log(options.dry_multiplier) + excess * math.log(options.dry_base)
                logits[token] -= np.float32(math.exp(min(exponent, math.log(HIGHEST))))
        return logits

    def repeats(self, tokens: list[int]) -> dict[int, int]:
        """For each token that would prolong a repetition, the greatest length repeated so far."""
        backwards = tokens[::-1]
        reach = 0  # tokens back to the last breaker
        while reach < len(backwards) and not self.breaks(backwards[reach]):
            reach += 1
        lengths: dict[int, int] = {}
        if reach == 0:
            return lengths
        for back, length in enumerate(common_prefixes(backwards)):
            following = backwards[back - 1]
            if back > 0 and length > lengths.get(following, 0) and not self.breaks(following):
                lengths[following] = min(length, reach)
        return lengths

    def breaks(self, token: int) -> bool:
        if token not in self.known:
            piece = self.tokenizer.piece(token) if self.tokenizer else b""
            self.known[token] = any(text in piece for text in self.breakers)
        return self.known[token]


def common_prefixes(tokens: list[int]) -> list[int]:
    """For each place, how many tokens from there on are as those at the start, in linear time (the
    Z algorithm; Gusfield 1997, "Algorithms on Strings, Trees and Sequences", section 1.4)."""
    size = len(tokens)
    lengths = [size] * size
    start = end = 0  # the stretch tokens[start:end] is known to equal tokens[:end - start]
    for place in range(1, size):
        length = min(lengths[place - start], end - place) if place < end else 0
        if place + length >= end:
            while place + length < size and tokens[length] == tokens[place + length]:
                length += 1
            start, end = place, place + length
        lengths[place] = length
    return lengths


@hookimpl
def edgellm_sampler(name: str, options: Sampling, tokenizer: Tokenizer | None) -> Filter | None:
    return Dry(options, tokenizer) if name == "dry" else None
