"""DRY ("don't repeat yourself"): penalises a token that would prolong a repeated sequence
(p-e-w, pull request 5677 of oobabooga/text-generation-webui)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.hookspecs import hookimpl
from edgellm.sampling import Filter, Sampling
from edgellm.tokenizer import Tokenizer

LONGEST = 64
"""Repetitions aren't measured beyond this length: the penalty is prohibitive long before."""
HIGHEST = 1e9
"""The penalty is bounded, so that the logits stay finite."""


class Dry:
    """If the last n tokens occurred before, followed by t, and n >= allowed_length, then t's logit
    is lowered by multiplier * base ** (n - allowed_length). A sequence ends at a breaker: a token
    whose text holds one of the sequence breakers.
    """

    def __init__(self, options: Sampling, tokenizer: Tokenizer | None) -> None:
        self.options = options
        self.tokenizer = tokenizer
        self.breakers = [text.encode() for text in options.dry_sequence_breakers]
        self.known: dict[int, bool] = {}

    def apply(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        options = self.options
        if options.dry_multiplier == 0 or options.dry_penalty_last_n == 0 or len(history) < 2:
            return logits
        last_n = options.dry_penalty_last_n
        tokens = list(history if last_n < 0 else history[-last_n:])
        for token, length in self.repeats(tokens).items():
            if length >= options.dry_allowed_length:
                excess = length - options.dry_allowed_length
                penalty = options.dry_multiplier * options.dry_base**excess
                logits[token] -= np.float32(min(penalty, HIGHEST))
        return logits

    def repeats(self, tokens: list[int]) -> dict[int, int]:
        """For each token that would prolong a repetition, the greatest length repeated so far."""
        reach = 0  # how far back the sequence goes that the last token belongs to
        while reach < min(len(tokens), LONGEST) and not self.breaks(tokens[-1 - reach]):
            reach += 1
        lengths: dict[int, int] = {}
        if reach == 0:
            return lengths
        for at in _places(tokens, tokens[-1]):
            following = tokens[at + 1]
            if self.breaks(following):
                continue
            length = 1
            while length < min(reach, at + 1) and tokens[at - length] == tokens[-1 - length]:
                length += 1
            lengths[following] = max(length, lengths.get(following, 0))
        return lengths

    def breaks(self, token: int) -> bool:
        if token not in self.known:
            piece = self.tokenizer.piece(token) if self.tokenizer else b""
            self.known[token] = any(text in piece for text in self.breakers)
        return self.known[token]


def _places(tokens: list[int], token: int) -> list[int]:
    """Where `token` occurs before the last place."""
    return [at for at, other in enumerate(tokens[:-1]) if other == token]


@hookimpl
def edgellm_sampler(name: str, options: Sampling, tokenizer: Tokenizer | None) -> Filter | None:
    return Dry(options, tokenizer) if name == "dry" else None
