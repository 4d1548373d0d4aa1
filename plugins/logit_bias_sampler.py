"""Logit bias: adds a number of the user's choice to the logits of single tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import UsageError
from edgellm.hookspecs import hookimpl
from edgellm.sampling import Filter, Sampling
from edgellm.tokenizer import Tokenizer


class LogitBias:
    def __init__(self, options: Sampling) -> None:
        self.ids = np.array(sorted(options.logit_bias), np.int64)
        self.idle = not options.logit_bias
        self.biases = np.array([options.logit_bias[int(i)] for i in self.ids], np.float32)

    def apply(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        if len(self.ids):
            if self.ids[-1] >= len(logits):
                raise UsageError(
                    f"logit_bias has the token {self.ids[-1]}; ids go from 0 to {len(logits) - 1}"
                )
            logits[self.ids] += self.biases
        return logits


@hookimpl
def edgellm_sampler(name: str, options: Sampling, tokenizer: Tokenizer | None) -> Filter | None:
    return LogitBias(options) if name == "logit_bias" else None
