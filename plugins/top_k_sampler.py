"""Top-k: keeps the k likeliest tokens (Fan et al. 2018, arXiv:1805.04833)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.hookspecs import hookimpl
from edgellm.sampling import Filter, Sampling, keep
from edgellm.tokenizer import Tokenizer

BLOCK = 64
"""In a large vocabulary the highest of so many logits each give a bound for the border."""


class TopK:
    """Among equals at the border the lower ids stay, so that exactly k do."""

    by_value = True

    def __init__(self, k: int) -> None:
        self.k = k
        self.idle = k <= 0
        self.highest = max(k, 0)

    def apply(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        if not 0 < self.k < len(logits):
            return logits
        if len(logits) <= BLOCK * self.k:
            ids = np.arange(len(logits))
        else:
            # The k-th highest of some numbers is no higher than that of all.
            some = logits[: len(logits) // BLOCK * BLOCK].reshape(BLOCK, -1).max(axis=0)
            ids = np.flatnonzero(logits >= np.partition(some, -self.k)[-self.k])
        values = logits[ids]
        border = np.partition(values, -self.k)[-self.k]
        above = ids[values > border]
        equal = ids[values == border][: self.k - len(above)]
        return keep(logits, np.concatenate([above, equal]))


@hookimpl
def edgellm_sampler(name: str, options: Sampling, tokenizer: Tokenizer | None) -> Filter | None:
    return TopK(options.top_k) if name == "top_k" else None
