"""Penalties for tokens that occurred lately: repetition (Keskar et al. 2019, arXiv:1909.05858, with
negative logits multiplied), presence and frequency (as in OpenAI's interface)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.hookspecs import hookimpl
from edgellm.sampling import Filter, Sampling
from edgellm.tokenizer import Tokenizer


class Penalties:
    """Applied to the tokens among the last n:

    logit = (logit / repeat if logit > 0 else logit * repeat) - count * frequency - presence
    """

    def __init__(self, options: Sampling) -> None:
        self.last_n = options.repeat_last_n
        self.repeat = np.float32(options.repeat_penalty)
        self.presence = np.float32(options.presence_penalty)
        self.frequency = np.float32(options.frequency_penalty)
        self.idle = self.last_n == 0 or (
            self.repeat == 1 and self.presence == 0 and self.frequency == 0
        )

    def apply(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        if self.idle or not history:
            return logits
        recent = history if self.last_n < 0 else history[-self.last_n :]
        ids, counts = np.unique(np.fromiter(recent, np.int64, len(recent)), return_counts=True)
        values = logits[ids]
        values = np.where(values > 0, values / self.repeat, values * self.repeat)
        logits[ids] = values - counts.astype(np.float32) * self.frequency - self.presence
        return logits


@hookimpl
def edgellm_sampler(name: str, options: Sampling, tokenizer: Tokenizer | None) -> Filter | None:
    return Penalties(options) if name == "penalties" else None
